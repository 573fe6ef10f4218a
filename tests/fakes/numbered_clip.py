"""A clip whose pictures carry their number, and how to read it back from the pixels."""

from __future__ import annotations

import math
from pathlib import Path

import av
import cv2
import numpy as np

from stream_server.frames import Pixels

WIDTH, HEIGHT = 640, 360
BITS, CELL = 12, 16
"""The number stands in the last `CELL` lines: `BITS` black or white squares, lowest bit first,
then their complement, so that a picture that is damaged or not ours is told from one that is."""


def write(target: Path, *, rate: int, seconds: int, b_frames: int = 0) -> Path:
    """A face that sways, in H.264 with a key frame each second. `target` ends in .ts."""
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = rate
        stream.codec_context.max_b_frames = b_frames
        stream.options = {"preset": "veryfast", "crf": "20"}
        for number in range(rate * seconds):
            bgr = _picture(number, rate * seconds)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bgr, format="bgr24")))
        container.mux(stream.encode())
    return target


def _picture(number: int, count: int) -> Pixels:
    from skimage import data

    astronaut = cv2.cvtColor(data.astronaut()[:250], cv2.COLOR_RGB2BGR)  # type: ignore[no-untyped-call]
    person = cv2.resize(astronaut, (470, 230))
    bgr = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    left = int(85 + 80 * math.sin(2 * math.pi * 3 * number / count))
    bgr[60 : 60 + person.shape[0], left : left + person.shape[1]] = person
    code = number | ((~number & (1 << BITS) - 1) << BITS)
    for bit in range(2 * BITS):
        bgr[-CELL:, bit * CELL : (bit + 1) * CELL] = 235 if code >> bit & 1 else 16
    return bgr


def read(luma: Pixels) -> int | None:
    """The number of a picture by its luma (`HEIGHT`, `WIDTH`); None if it carries none."""
    centres = luma[-CELL // 2, CELL // 2 : 2 * BITS * CELL : CELL] > 128
    code = sum(1 << bit for bit, white in enumerate(centres) if white)
    number, complement = code & (1 << BITS) - 1, code >> BITS
    return number if number ^ complement == (1 << BITS) - 1 else None
