"""The work that all peers do on a frame: our weights, runtime, precision and input size.

Every frame goes through CenterFace at the size that maskstream chooses for it, and every face
through MobileNetV3, both by the service's own classes. What is left to differ is the architecture
around them. A peer's frame is judged whole, as its examples do; following faces and looking at
them rarely is maskstream's own, and part of the comparison.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from models.registry import resolve
from stream_server.classify.crops import crops
from stream_server.classify.openvino import OpenVinoClassifier
from stream_server.classify.trial import choose_precision
from stream_server.detect.centerface import CenterFaceDetector, precision_probe
from stream_server.frames import FaceBox, Picture, Pixels

GREEN, RED = (0, 160, 0), (0, 0, 200)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Judged:
    """A face: where it is and its likeliest label."""

    box: FaceBox
    label: str


class Slowly:
    """Makes work take `factor` (at least 1) times as long. Thread-safe.

    Slept, not computed again: a model that is slow elsewhere (a GPU, another machine) leaves the
    cores to the browser, so that what is seen is how the architecture copes. What is multiplied is
    the least time that this kind of work ever took here, so that a busy machine does not make the
    model slower still; the first time, which compiles, is let through as it is.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._least: dict[Hashable, float] = {}

    def __call__(self, kind: Hashable, work: Callable[[], Answer]) -> Answer:
        """The answer of `work`, late."""
        started = time.perf_counter()
        answer = work()
        took = time.perf_counter() - started
        if kind in self._least:
            self._least[kind] = least = min(took, self._least[kind])
            time.sleep((self._factor - 1) * least)
        else:
            self._least[kind] = math.inf
        return answer


class FaceModel:
    """Detector and classifier, `slow` times slower than they are. Thread-safe.

    `cache` is where maskstream remembers which precision works on this machine.
    """

    def __init__(self, cache: Path, slow: float = 1.0) -> None:
        weights = resolve()
        chosen = choose_precision(precision_probe(), "auto", cache)
        self._detector = CenterFaceDetector(precision=chosen.precision)
        self._classifier = OpenVinoClassifier(weights, precision="auto", cache_dir=cache)
        self._card = weights.card
        self._slowly = Slowly(slow)
        self._one_at_a_time = threading.Lock()

    def judge(self, bgr: Pixels) -> list[Judged]:
        """All faces of a (height, width, 3) BGR picture."""
        picture = Picture.from_bgr(bgr)
        boxes = self._slowly("detect", lambda: self._detector.detect(picture))
        if not boxes:
            return []
        faces = crops(picture, boxes, self._card.crop_margin, self._card.input_size)
        with self._one_at_a_time:
            rows = self._slowly(len(faces), lambda: self._classifier.classify(np.stack(faces)))
        labels = [self._card.labels[int(row.argmax())] for row in rows]
        return [Judged(box, label) for box, label in zip(boxes, labels, strict=True)]

    def annotate(self, bgr: Pixels) -> Pixels:
        """A copy of the picture with each face's box and label."""
        drawn = bgr.copy()
        for face in self.judge(bgr):
            colour = GREEN if face.label == "with_mask" else RED
            left, top = int(face.box.x0), int(face.box.y0)
            cv2.rectangle(drawn, (left, top), (int(face.box.x1), int(face.box.y1)), colour, 2)
            place = left, max(12, top - 6)
            cv2.putText(drawn, face.label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1)
        return drawn
