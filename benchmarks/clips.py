"""The camera of the benchmarks: any clip, or a portrait that moves, as 720p at 30 frames/s."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError

from models.errors import InputError
from stream_server.frames import Pixels
from stream_server.ingest.decode import Normaliser

WIDTH, HEIGHT, RATE = 1280, 720, 30
SECONDS = 8


def write_camera(target: Path, clip: Path | None) -> Path:
    """Write a clip that can be sent by RTP as it is: no B-frames, a key frame each second.

    From at most `SECONDS` of `clip`, whose pictures are shown at 30 a second whatever their own
    rate, or from scikit-image's portrait. `target` should end in .ts, which FFmpeg can loop.
    """
    pictures = moving_portrait() if clip is None else pictures_of(clip)
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = RATE
        stream.codec_context.max_b_frames = 0
        stream.options = {"preset": "veryfast", "crf": "20"}
        for bgr in islice(pictures, RATE * SECONDS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(bgr, format="bgr24")))
        container.mux(stream.encode())
    return target


def moving_portrait() -> Iterable[Pixels]:
    """The astronaut, her face about 160 px wide, swaying in front of a textured wall."""
    from skimage import data

    astronaut = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)  # type: ignore[no-untyped-call]
    person = cv2.resize(astronaut[:380], None, fx=1.8, fy=1.8, interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(1).integers(60, 200, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    wall = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    frames = RATE * SECONDS
    for number in range(frames):
        turn = 2 * math.pi * number / frames
        left = int(180 + 150 * math.sin(turn))
        top = int(20 + 15 * math.sin(3 * turn))
        picture = wall.copy()
        shown = person[: HEIGHT - top]
        picture[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
        yield np.asarray(picture, np.uint8)


def pictures_of(clip: Path) -> Iterator[Pixels]:
    """The pictures of a video, upright, as large as 720p takes them, with black beside them.

    Raises `InputError` for what is no video.
    """
    normalise = Normaliser()
    try:
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                yield _fitted(normalise(frame, stream.sample_aspect_ratio).bgr())
    except (FFmpegError, IndexError) as error:
        reason = getattr(error, "strerror", None) or "it has no video in it"
        raise InputError(f"{clip} is not a video that can be read ({reason})") from error


def _fitted(bgr: Pixels) -> Pixels:
    height, width = bgr.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    width, height = round(width * scale), round(height * scale)
    small = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)
    left, top = (WIDTH - width) // 2, (HEIGHT - height) // 2
    below, right = HEIGHT - height - top, WIDTH - width - left
    framed = cv2.copyMakeBorder(small, top, below, left, right, cv2.BORDER_CONSTANT)
    return np.asarray(framed, np.uint8)
