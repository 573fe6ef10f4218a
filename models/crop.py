"""From a face box to the square crop the network sees; training and serving share this code."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def face_square(
    x0: float, y0: float, x1: float, y1: float, margin: float
) -> tuple[float, float, float]:
    """Square around a face box, as (left, top, side) in pixels.

    It is centred on the box and its side is (1 + margin) times the box's longer side, so it may
    stick out of the picture. Raises ValueError when the box is empty or margin is not above -1.
    """
    width, height = x1 - x0, y1 - y0
    if not (width > 0 and height > 0):
        raise ValueError(f"empty face box: ({x0}, {y0}, {x1}, {y1})")
    if not margin > -1:
        raise ValueError(f"crop margin must be above -1, not {margin}")
    side = (1.0 + margin) * max(width, height)
    return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side


def crop_face(bgr: Image, box: Sequence[float], margin: float, size: int) -> Image:
    """Crop the face in `box` (x0, y0, x1, y1 in pixels) to size x size x 3, uint8, BGR.

    `bgr` is H x W x 3, uint8. Where the square sticks out, the border pixels are repeated.
    Shrinking averages areas, enlarging is bilinear. Raises ValueError on an empty box or picture.
    """
    if bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.size == 0:
        raise ValueError(f"expected an H x W x 3 picture, got shape {bgr.shape}")
    left_f, top_f, side_f = face_square(box[0], box[1], box[2], box[3], margin)
    side = max(1, round(side_f))
    left, top = round(left_f), round(top_f)
    height, width = bgr.shape[:2]
    # A box wholly outside still yields a crop (of border pixels) instead of an empty slice.
    x0, x1 = np.clip((left, left + side), 0, width)
    y0, y1 = np.clip((top, top + side), 0, height)
    if x0 == x1:
        x0, x1 = (0, 1) if x1 == 0 else (width - 1, width)
    if y0 == y1:
        y0, y1 = (0, 1) if y1 == 0 else (height - 1, height)
    inside: Image = bgr[y0:y1, x0:x1]
    pads = _pads(top, side, y0, y1) + _pads(left, side, x0, x1)
    if any(pads):
        padded = cv2.copyMakeBorder(inside, *pads, borderType=cv2.BORDER_REPLICATE)
        inside = np.asarray(padded, np.uint8)
    shrinking = inside.shape[0] > size
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(inside, (size, size), interpolation=interpolation), np.uint8)


def _pads(start: int, side: int, low: int, high: int) -> tuple[int, int]:
    """Pixels to repeat before and after [low, high) so that `side` pixels result."""
    before = min(max(0, low - start), side - (high - low))
    return int(before), int(side - (high - low) - before)
