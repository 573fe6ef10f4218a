"""Pictures to compare runtimes and precisions of CenterFace by, where none of a face may be
shipped; and how far two answers are apart."""

import cv2
import numpy as np

from stream_server.detect.geometry import Floats
from stream_server.frames import Pixels

FIELDS = (1, 6, 24)
# Cells that score less are far from being a face; their logits stray far and matter to nobody.
SEEN = 0.03
AGREE = 0.1
"""A score, or the logarithm of a side, that strays so far from fp32's does no harm."""

Part = tuple[tuple[float, float], tuple[float, float], tuple[int, int, int]]
"""An ellipse: how far right of and below the middle, half axes (both in half heights of the face),
and colour."""


def sample_pictures(width: int, height: int) -> list[Pixels]:
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


def drawn_face(width: int, height: int) -> Pixels:
    """A face that CenterFace takes for one, with a score of 0.47 at 640x352; those above get less
    than 0.1."""
    picture = np.full((height, width, 3), 100, np.uint8)
    x, y, side = width / 2, height / 2, min(width, height) / 4.4
    parts: list[Part] = [
        ((0, -0.15), (0.9, 1.15), (30, 40, 60)),
        ((0, 0), (0.72, 1), (140, 170, 215)),
    ]
    for at in (-0.3, 0.3):
        parts += [
            ((at, -0.15), (0.16, 0.08), (235, 235, 235)),
            ((at, -0.15), (0.07, 0.07), (30, 30, 40)),
            ((at, -0.33), (0.2, 0.05), (40, 50, 70)),
        ]
    parts += [
        ((0, 0.2), (0.12, 0.07), (110, 135, 180)),
        ((0, -0.02), (0.05, 0.2), (165, 195, 235)),
        ((0, 0.5), (0.28, 0.09), (80, 80, 190)),
    ]
    for (right, below), (across, down), colour in parts:
        centre = round(x + right * side), round(y + below * side)
        axes = max(1, round(across * side)), max(1, round(down * side))
        cv2.ellipse(picture, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), side / 27), np.uint8)


def difference(heatmap: Floats, scale: Floats, other_heatmap: Floats, other_scale: Floats) -> float:
    """The largest difference of the logarithm of a side, and of a score had it been near 0.5.

    Takes heatmaps (1, 1, h, w) and scales (1, 2, h, w); counts where the first heatmap sees
    something. NaN where the other says nothing there.
    """
    seen = heatmap > SEEN
    scores = np.abs(_logit(heatmap) - _logit(other_heatmap))[seen] / 4
    sides = np.abs(scale - other_scale)[np.broadcast_to(seen, scale.shape)]
    return float(np.maximum(scores.max(initial=0.0), sides.max(initial=0.0)))


def _logit(scores: Floats) -> Floats:
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float32)
