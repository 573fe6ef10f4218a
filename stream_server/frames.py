"""The nouns that travel: a picture, the frame that carries it, and the faces found in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from stream_server.errors import InvalidStreamName

Pixels = npt.NDArray[np.uint8]
Privacy = Literal["none", "blur"]
StreamState = Literal["connecting", "live", "stale", "retrying", "ended", "waiting"]
"""What viewers see of a stream's faces: all, or a mosaic in their place."""

STREAM_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_stream_name(name: str) -> str:
    """The name itself if it is a valid stream name, else `InvalidStreamName`."""
    if not STREAM_NAME.fullmatch(name):
        raise InvalidStreamName(
            f"stream name {name[:80]!r} is not valid: use 1 to 63 lower-case letters, digits, "
            "'-' and '_', starting with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture as planar I420 (BT.601, limited range), the form cameras and encoders use.

    `i420` is uint8 of shape (height * 3 // 2, width); width and height are even. It is never
    written to: whoever wants to draw takes a `copy()`.
    """

    i420: Pixels

    @property
    def width(self) -> int:
        return int(self.i420.shape[1])

    @property
    def height(self) -> int:
        return int(self.i420.shape[0]) * 2 // 3

    @property
    def y(self) -> Pixels:
        """Luma, (height, width), a view."""
        return self.i420[: self.height]

    @property
    def u(self) -> Pixels:
        """Blue difference, (height / 2, width / 2), a view."""
        return self._chroma(0)

    @property
    def v(self) -> Pixels:
        """Red difference, (height / 2, width / 2), a view."""
        return self._chroma(1)

    def _chroma(self, index: int) -> Pixels:
        half_height, half_width = self.height // 2, self.width // 2
        plane = half_height * half_width
        flat = self.i420.reshape(-1)[self.height * self.width :]
        return flat[index * plane : (index + 1) * plane].reshape(half_height, half_width)

    @classmethod
    def from_bgr(cls, bgr: Pixels) -> Picture:
        """From (height, width, 3) uint8 BGR; an odd side is padded by repeating its last line."""
        height, width = bgr.shape[:2]
        if height % 2 or width % 2:
            bgr = np.pad(bgr, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return cls(_converted(bgr, cv2.COLOR_BGR2YUV_I420))

    def bgr(self) -> Pixels:
        """The whole picture as (height, width, 3) BGR; as dear as a decode."""
        return _converted(self.i420, cv2.COLOR_YUV2BGR_I420)

    def scaled(self, width: int, height: int) -> Picture:
        """The picture in another size, itself if that is its own; both sides must be even."""
        if (width, height) == (self.width, self.height):
            return self
        target = Picture(np.empty((height * 3 // 2, width), np.uint8))
        for source, plane in ((self.y, target.y), (self.u, target.u), (self.v, target.v)):
            cv2.resize(source, plane.shape[::-1], dst=plane, interpolation=cv2.INTER_AREA)
        return target

    def scaled_bgr(self, width: int, height: int) -> Pixels:
        """The picture scaled to (height, width, 3) BGR; both sides must be even."""
        return self.scaled(width, height).bgr()

    def region_bgr(self, left: int, top: int, right: int, bottom: int) -> tuple[Pixels, int, int]:
        """BGR of a region clipped to the picture and widened to even corners.

        Returns (pixels, left, top) with the corner that was really taken; the region is at
        least 2x2 px even if it lies outside the picture.
        """
        left = min(max(left, 0), self.width - 2) & ~1
        top = min(max(top, 0), self.height - 2) & ~1
        right = min(max(right + (right & 1), left + 2), self.width)
        bottom = min(max(bottom + (bottom & 1), top + 2), self.height)
        half = np.s_[top // 2 : bottom // 2, left // 2 : right // 2]
        region = np.concatenate(
            [
                self.y[top:bottom, left:right].reshape(-1),
                self.u[half].reshape(-1),
                self.v[half].reshape(-1),
            ]
        ).reshape((bottom - top) * 3 // 2, right - left)
        return _converted(region, cv2.COLOR_YUV2BGR_I420), left, top

    def copy(self) -> Picture:
        """A picture of its own that may be drawn on."""
        return Picture(self.i420.copy())


AnyPicture = Picture | Callable[[], Picture]
"""A picture, or a function that makes it."""


def made(picture: AnyPicture) -> Picture:
    """The picture itself."""
    return picture if isinstance(picture, Picture) else picture()


def _converted(pixels: Pixels, code: int) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one stream, on its way.

    `captured` is `time.monotonic()` when the encoded frame had arrived (seconds); `wall` the same
    instant as Unix time; `media_time` the source's own clock (seconds from an arbitrary origin),
    None if it has none. `number` counts the frames that the source gave, dropped ones included.
    """

    stream: str
    number: int
    captured: float
    wall: float
    media_time: float | None
    picture: Picture


@dataclass(frozen=True, slots=True, eq=False)
class CameraPacket:
    """One picture as the camera encoded it: H.264 in Annex B, in the order of showing.

    A key frame has its parameter sets in it. `captured` equals that of the `Frame` decoded from
    the packet; `rtp_time` is the camera's own clock in ticks of 1/90000 s from any origin.
    """

    data: bytes
    keyframe: bool
    captured: float
    rtp_time: int


class Verdict(StrEnum):
    """What is said of a face."""

    WITH_MASK = "with_mask"
    WITHOUT_MASK = "without_mask"
    INCORRECT = "incorrect"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face in pixel coordinates of its picture: corners, score 0..1, five landmarks.

    Landmarks are (x, y) of left eye, right eye, nose tip, left and right mouth corner as seen in
    the picture; empty if the detector gives none.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    landmarks: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Face:
    """A face and what is said of it.

    `probabilities` follow the model card's labels and sum to 1; `confidence` is the verdict's, or
    the largest of an uncertain one. In a stream they are means over time, and `track` is the
    face's id; in a single picture `track` is None.
    """

    box: FaceBox
    verdict: Verdict
    confidence: float
    probabilities: tuple[float, ...]
    track: int | None = None


class FaceEventKind(StrEnum):
    """What can happen to a face."""

    APPEARED = "face_appeared"
    CHANGED = "verdict_changed"
    LEFT = "face_left"


@dataclass(frozen=True, slots=True)
class FaceEvent:
    """Something that happened once to one face of a stream.

    `wall` is the Unix time of the frame that showed it, `verdict` and `confidence` (0..1) what is
    said from now on, `previous` what was said before a change, `seconds` how long the face has
    been there, `counted` the verdict that stood longest: the person's in a count.
    """

    kind: FaceEventKind
    stream: str
    track: int
    wall: float
    verdict: Verdict
    previous: Verdict | None
    confidence: float
    seconds: float
    counted: Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """A frame with its faces, ready to be drawn and told.

    `hidden` are the places by track that no picture of it may show.
    """

    frame: Frame
    faces: tuple[Face, ...]
    hidden: Mapping[int, FaceBox] = field(default_factory=dict)
