"""The child process that tries a precision: `python -m stream_server.detect.probe PRECISION`.

Prints one line of JSON, or dies of the illegal instruction that its parent was spared.
"""

import json
import sys
import time

import cv2
import numpy as np
import openvino as ov

from stream_server.detect.centerface import HINTS, Network, read_model
from stream_server.detect.geometry import Floats
from stream_server.frames import Pixels

# Sizes of common streams, and the least: other kernels may be picked for each.
SIZES = ((640, 352), (416, 320), (640, 640), (32, 32))
FIELDS = (1, 6, 24)
ROUNDS = 9
# Cells that score less are far from being a face; their logits stray far and matter to nobody.
SEEN = 0.03


def main(precision: str) -> None:
    """Compare `precision` with fp32, in scores and sizes and in speed."""
    core = ov.Core()
    model = read_model(core)
    difference = 0.0
    milliseconds = [0.0, 0.0]
    for width, height in SIZES:
        networks = [
            Network(core, model, width, height, {"INFERENCE_PRECISION_HINT": HINTS[name]})
            for name in ("fp32", precision)
        ]
        for picture in _pictures(width, height):
            # NaN must not be lost, as the built-in max would.
            strayed = _difference(*(network.infer(picture) for network in networks))
            difference = float(np.maximum(difference, strayed))
        if (width, height) == SIZES[0]:
            milliseconds = _medians(networks, picture)
    found = {"difference": difference, "fp32_ms": milliseconds[0], "other_ms": milliseconds[1]}
    sys.stdout.write(json.dumps(found) + "\n")


def _pictures(width: int, height: int) -> list[Pixels]:
    """Random fields from flat to fine, each with something like a face: two eyes and a mouth."""
    random = np.random.default_rng(0)
    pictures = []
    for step in FIELDS:
        field = random.integers(0, 256, (step, step, 3), np.uint8)
        picture = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
        x, y, side = width // 2, height // 2, min(width, height) // 4
        cv2.ellipse(picture, (x, y), (side * 3 // 4, side), 0, 0, 360, (140, 170, 215), -1)
        for at in ((x - side // 3, y - side // 4), (x + side // 3, y - side // 4)):
            cv2.circle(picture, at, max(1, side // 8), (40, 40, 60), -1)
        cv2.ellipse(
            picture, (x, y + side // 2), (side // 4, side // 10), 0, 0, 360, (80, 80, 190), -1
        )
        pictures.append(np.asarray(picture, np.uint8))
    return pictures


def _difference(fp32: tuple[Floats, ...], other: tuple[Floats, ...]) -> float:
    """The largest difference of the logarithm of a side, and of a score had it been near 0.5."""
    seen = fp32[0] > SEEN
    scores = np.abs(_logit(fp32[0]) - _logit(other[0]))[seen] / 4
    sides = np.abs(fp32[1] - other[1])[np.broadcast_to(seen, fp32[1].shape)]
    return float(np.maximum(scores.max(initial=0.0), sides.max(initial=0.0)))


def _logit(scores: Floats) -> Floats:
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float32)


def _medians(networks: list[Network], picture: Pixels) -> list[float]:
    """Median ms of a run of each, in turns."""
    seconds = np.empty((ROUNDS, len(networks)))
    for turn in range(ROUNDS):
        for index, network in enumerate(networks):
            started = time.perf_counter()
            network.infer(picture)
            seconds[turn, index] = time.perf_counter() - started
    medians: list[float] = (1e3 * np.median(seconds, axis=0)).round(2).tolist()
    return medians


if __name__ == "__main__":
    main(*sys.argv[1:])
