"""Boxes, labels and banners, drawn straight onto the planes of an I420 picture.

Nothing is converted but the small labels, and those once: they are kept as I420 tiles.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from stream_server.annotate.layout import (
    Rect,
    box_lines,
    even_box,
    font_size,
    line_width,
    place_labels,
)
from stream_server.annotate.mosaic import hide
from stream_server.frames import Face, FaceBox, Picture, Pixels, Verdict

Planes = tuple[Pixels, Pixels, Pixels]

_BLACK, _GREY = 16, 128

WORDS = {
    Verdict.WITH_MASK: "Mask",
    Verdict.WITHOUT_MASK: "No mask",
    Verdict.INCORRECT: "Worn wrong",
    Verdict.UNCERTAIN: "Uncertain",
}


@dataclass(frozen=True, slots=True)
class Ink:
    """A background in Y, U, V and the luma of text that can be read on it."""

    y: int
    u: int
    v: int
    text: int


def _ink(red: int, green: int, blue: int, text: int) -> Ink:
    patch = Picture.from_bgr(np.full((2, 2, 3), (blue, green, red), np.uint8))
    return Ink(int(patch.y[0, 0]), int(patch.u[0, 0]), int(patch.v[0, 0]), text)


# Differ in lightness too, so that they can be told apart without telling red from green.
INKS = {
    Verdict.WITH_MASK: _ink(0, 158, 115, 235),
    Verdict.WITHOUT_MASK: _ink(190, 20, 50, 235),
    Verdict.INCORRECT: _ink(245, 170, 20, 16),
    Verdict.UNCERTAIN: _ink(205, 205, 205, 16),
}
_BANNER_INK = Ink(32, _GREY, _GREY, 235)


def caption(face: Face) -> str:
    """What is written on a face: "#7 No mask 97 %". Percent are cut, not rounded up to 100."""
    words = WORDS[face.verdict]
    if face.verdict is not Verdict.UNCERTAIN:
        words = f"{words} {int(min(max(face.confidence, 0.0), 1.0) * 100)} %"
    return words if face.track is None else f"#{face.track} {words}"


def draw(picture: Picture, faces: Sequence[Face], hidden: Iterable[FaceBox] = ()) -> Picture:
    """A copy of `picture` with a box and a label for each face that lies in it.

    The places in `hidden` are made unrecognisable first.
    """
    drawn = picture.copy()
    for face_box in hidden:
        hide(drawn, face_box)
    width, height = picture.width, picture.height
    boxes: list[Rect] = []
    tiles: list[Tile] = []
    inks: list[Ink] = []
    for face in faces:
        box = even_box(face.box.x0, face.box.y0, face.box.x1, face.box.y1, width, height)
        if box is not None:
            boxes.append(box)
            inks.append(INKS[face.verdict])
            tiles.append(_tile(caption(face), font_size(width, height, box.width), inks[-1]))
    planes = drawn.y, drawn.u, drawn.v
    thickness = line_width(width, height)
    for box, ink in zip(boxes, inks, strict=True):
        _outline(planes[0], box, thickness)
        for line in box_lines(box, thickness):
            _fill(planes, line, ink)
    places = place_labels(boxes, [(tile.width, tile.height) for tile in tiles], width, height)
    for place, tile in zip(places, tiles, strict=True):
        _blit(planes, place, tile)
    return drawn


def banner(picture: Picture, text: str) -> Picture:
    """A grey, darkened copy of `picture` with `text` across its middle: it is not live."""
    drawn = picture.copy()
    # 16 is black in limited range; halving the distance to it keeps black black.
    drawn.y[:] = (drawn.y >> 1) + _BLACK // 2
    drawn.u[:] = _GREY
    drawn.v[:] = _GREY
    size = max(12, min(picture.width, picture.height) // 24 * 2)
    tile = _tile(text, size, _BANNER_INK)
    while tile.width > picture.width and size > 8:
        size -= 2
        tile = _tile(text, size, _BANNER_INK)
    wide, high = min(tile.width, picture.width), min(tile.height, picture.height)
    left, top = (picture.width - wide) // 4 * 2, (picture.height - high) // 4 * 2
    _blit((drawn.y, drawn.u, drawn.v), Rect(left, top, left + wide, top + high), tile)
    return drawn


def _fill(planes: Planes, rect: Rect, ink: Ink) -> None:
    luma, u, v = planes
    luma[rect.y0 : rect.y1, rect.x0 : rect.x1] = ink.y
    half = np.s_[rect.y0 // 2 : rect.y1 // 2, rect.x0 // 2 : rect.x1 // 2]
    u[half] = ink.u
    v[half] = ink.v


def _outline(luma: Pixels, box: Rect, thickness: int) -> None:
    """One dark pixel along both edges of the line, so that it shows on a ground of its colour."""
    for grow in (1, -thickness - 1):
        x0, y0 = max(box.x0 - grow, 0), max(box.y0 - grow, 0)
        x1, y1 = min(box.x1 + grow, luma.shape[1]), min(box.y1 + grow, luma.shape[0])
        if x1 - x0 > 2 and y1 - y0 > 2:
            luma[[y0, y1 - 1], x0:x1] = _BLACK
            luma[y0:y1, [x0, x1 - 1]] = _BLACK


def _blit(planes: Planes, place: Rect, tile: Tile) -> None:
    luma, u, v = planes
    wide, high = place.width, place.height
    luma[place.y0 : place.y1, place.x0 : place.x1] = tile.y[:high, :wide]
    half = np.s_[place.y0 // 2 : place.y1 // 2, place.x0 // 2 : place.x1 // 2]
    u[half] = tile.u[: high // 2, : wide // 2]
    v[half] = tile.v[: high // 2, : wide // 2]


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A rendered label as planes; width and height are even."""

    y: Pixels
    u: Pixels
    v: Pixels

    @property
    def width(self) -> int:
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        return int(self.y.shape[0])


_font_lock = threading.Lock()
_font = cv2.FontFace("sans")


@lru_cache(maxsize=512)
def _tile(text: str, size: int, ink: Ink) -> Tile:
    """`text` in letters of `size` px on a ground of `ink`, anti-aliased, with a dark rim."""
    pad = max(2, size // 4)
    # The font says nothing about a text's height that holds for all texts: letters decide.
    ascent, descent = round(size * 0.74), round(size * 0.22)
    with _font_lock:
        box = cv2.getTextSize((1 << 14, 1 << 10), text, (0, 0), _font, size, 600)
        width, height = int(box[0]) + int(box[2]) + 2 * pad, ascent + descent + 2 * pad
        cover = np.zeros((height + height % 2, width + width % 2), np.uint8)
        cv2.putText(cover, text, (pad, pad + ascent), 255, _font, size, 600)
    share = cover.astype(np.float32) / 255
    luma = (ink.y + share * (ink.text - ink.y)).round().astype(np.uint8)
    luma[[0, -1]] = luma[:, [0, -1]] = _BLACK
    quarter = cv2.resize(
        share, (share.shape[1] // 2, share.shape[0] // 2), None, 0, 0, cv2.INTER_AREA
    )
    u, v = (
        (chroma + quarter * (_GREY - chroma)).round().astype(np.uint8) for chroma in (ink.u, ink.v)
    )
    return Tile(luma, u, v)
