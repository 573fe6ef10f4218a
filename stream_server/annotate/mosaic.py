"""Faces made unrecognisable, straight on the planes of an I420 picture."""

from __future__ import annotations

import math

import cv2

from stream_server.annotate.layout import Rect, even_box
from stream_server.frames import FaceBox, Picture, Pixels

CELLS = 8
"""Cells across the longer side of a hidden region: about four across the face itself."""
MARGIN = 0.45
"""Of the box's size, on each side: hair, ears and chin, and what the box is late by."""


def hide(drawn: Picture, box: FaceBox) -> None:
    """Replace the region around `box` (px) by a mosaic, in place: `drawn` is a copy of its own."""
    dx, dy = MARGIN * (box.x1 - box.x0), MARGIN * (box.y1 - box.y0)
    region = even_box(box.x0 - dx, box.y0 - dy, box.x1 + dx, box.y1 + dy, drawn.width, drawn.height)
    if region is None:
        return
    cell = math.ceil(max(region.width, region.height) / CELLS)
    for plane, shrink in ((drawn.y, 1), (drawn.u, 2), (drawn.v, 2)):
        _pixelate(plane, region, shrink, cell)


def _pixelate(plane: Pixels, region: Rect, shrink: int, cell: int) -> None:
    """`shrink` is the picture's size by the plane's, `cell` in pixels of the picture."""
    part = plane[
        region.y0 // shrink : region.y1 // shrink, region.x0 // shrink : region.x1 // shrink
    ]
    cells = math.ceil(region.width / cell), math.ceil(region.height / cell)
    small = cv2.resize(part, cells, interpolation=cv2.INTER_AREA)
    part[:] = cv2.resize(small, part.shape[::-1], interpolation=cv2.INTER_NEAREST)
