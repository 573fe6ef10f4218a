"""Where boxes and labels go. Pure geometry: no pixels, no text, no time.

All corners are even, because a chroma sample of I420 covers 2x2 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Corners = npt.NDArray[np.int_ | np.int32]


@dataclass(frozen=True, slots=True)
class Rect:
    """Pixels x0 <= x < x1, y0 <= y < y1; all even."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0


def line_width(width: int, height: int) -> int:
    """Thickness of a box's lines for a picture of this size: even, at least 2 px."""
    return max(2, round(min(width, height) / 320) * 2)


def font_size(width: int, height: int, face_width: float) -> int:
    """Height of the text in px: grows with the face, within what suits the picture. Even."""
    short = min(width, height)
    least, most = max(12.0, short / 36), max(12.0, short / 20)
    return round(min(max(face_width / 6, least), most) / 2) * 2


def even_box(x0: float, y0: float, x1: float, y1: float, width: int, height: int) -> Rect | None:
    """A face's box cut to the picture; None if nothing of it lies inside or a number is not one."""
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        return None
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return None
    left, top = int(max(x0, 0)) & ~1, int(max(y0, 0)) & ~1
    right, bottom = math.ceil(min(x1, width)), math.ceil(min(y1, height))
    return Rect(left, top, right + (right & 1), bottom + (bottom & 1))


def box_lines(box: Rect, thickness: int) -> list[Rect]:
    """The four sides of a box, inside it; a box too small for a hole is one filled rectangle."""
    if min(box.width, box.height) <= 2 * thickness:
        return [box]
    top, bottom = box.y0 + thickness, box.y1 - thickness
    return [
        Rect(box.x0, box.y0, box.x1, top),
        Rect(box.x0, bottom, box.x1, box.y1),
        Rect(box.x0, top, box.x0 + thickness, bottom),
        Rect(box.x1 - thickness, top, box.x1, bottom),
    ]


def place_labels(
    boxes: Sequence[Rect], sizes: Sequence[tuple[int, int]], width: int, height: int
) -> list[Rect]:
    """For each box the rectangle of its label, wholly inside the picture.

    `sizes` are (width, height) of the labels, even; what exceeds the picture is cut. The largest
    face chooses first: above its box, else below it, inside, or beside it, where it hides no other
    label and no other face if there is such a place.
    """
    order = sorted(range(len(boxes)), key=lambda i: -boxes[i].width * boxes[i].height)
    # A label under a label cannot be read at all; a covered face is only unlovely.
    obstacles = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes] * 2, np.int32)
    weights = np.repeat([1, 0], len(boxes))
    placed = list(boxes)
    for index in order:
        places = _places(boxes[index], *sizes[index], width, height)
        weights[index] = 0
        best = placed[index] = places[_freest(places, obstacles, weights)]
        weights[index] = 1
        obstacles[len(boxes) + index] = best.x0, best.y0, best.x1, best.y1
        weights[len(boxes) + index] = 8
    return placed


def _places(box: Rect, wide: int, high: int, width: int, height: int) -> list[Rect]:
    """Where a label of `wide` x `high` px may go, best first; all inside the picture."""
    wide, high = min(wide, width), min(high, height)
    right, bottom = box.x1 - wide, box.y1 - high
    corners = [
        (box.x0, box.y0 - high),
        (right, box.y0 - high),
        (box.x0, box.y1),
        (right, box.y1),
        (box.x0, box.y0),
        (box.x0, bottom),
        (box.x1, box.y0),
        (box.x0 - wide, box.y0),
        (box.x1, bottom),
        (box.x0 - wide, bottom),
    ]
    inside = [(x, y) for x, y in corners if 0 <= y <= height - high]
    # A small face in a low picture: over it, as far up or down as the picture goes.
    inside = inside or [(box.x0, min(max(box.y0 - high, 0), height - high))]
    lefts = [(min(max(x, 0), width - wide), y) for x, y in inside]
    return [Rect(left, y, left + wide, y + high) for left, y in lefts]


def _freest(places: Sequence[Rect], obstacles: Corners, weights: Corners) -> int:
    """Index of the first place that covers least of the (n, 4) obstacles, each with its weight."""
    if not weights.any():
        return 0
    corners = np.array([(place.x0, place.y0, place.x1, place.y1) for place in places], np.int32)
    low = np.maximum(corners[:, None, :2], obstacles[None, :, :2])
    high = np.minimum(corners[:, None, 2:], obstacles[None, :, 2:])
    covered = np.maximum(high - low, 0).prod(axis=2)
    return int((covered * weights).sum(axis=1).argmin())
