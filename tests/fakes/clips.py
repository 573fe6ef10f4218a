"""Small video clips made on the spot, with the oddities that cameras and phones come up with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from stream_server.frames import Pixels

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 180, 30), (30, 30, 220), (128, 128, 128)
Painter = Callable[[int, int, int], Pixels]


def quarters(width: int, height: int, number: int = 0) -> Pixels:
    """RGB: red and green above, blue and grey below, whatever the number."""
    picture = np.empty((height, width, 3), np.uint8)
    half_height, half_width = height // 2, width // 2
    picture[:half_height, :half_width] = RED
    picture[:half_height, half_width:] = GREEN
    picture[half_height:, :half_width] = BLUE
    picture[half_height:, half_width:] = GREY
    return picture


def counter(width: int, height: int, number: int) -> Pixels:
    """RGB: the frame's number in eight bars, black for 0 and white for 1, lowest bit left."""
    bars = np.array([(number >> bit & 1) * 255 for bit in range(8)], np.uint8)
    row = np.repeat(bars, -(-width // 8))[:width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_counter(luma: Pixels) -> int:
    """The number that `counter` painted."""
    height, width = luma.shape
    columns = [int((bar + 0.5) * width / 8) for bar in range(8)]
    return sum(int(luma[height // 2, x] > 128) << bit for bit, x in enumerate(columns))


def make_clip(
    path: Path,
    *,
    size: tuple[int, int] = (320, 240),
    frames: int = 10,
    fps: int = 25,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    aspect: Fraction | None = None,
    rotation: int = 0,
    stamps: Iterable[int] | None = None,
    paint: Painter = quarters,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip. `rotation`: degrees counter-clockwise that a player is told to turn it;
    `stamps`: time stamps in frames instead of 0, 1, 2, ..."""
    if options is None:
        options = {"libx264": {"preset": "ultrafast", "bf": "0"}, "libx265": X265}.get(codec, {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.gop_size = 10
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        places = list(range(frames)) if stamps is None else list(stamps)
        for number, place in enumerate(places):
            frame = VideoFrame.from_ndarray(paint(*size, number), format="rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = place, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


X265 = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0"}
