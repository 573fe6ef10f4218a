"""Clips of one known face: scikit-image's portrait of Eileen Collins (NASA, public domain)."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from models.mask_painter import paint_mask
from stream_server.frames import Pixels

WIDTH, HEIGHT, RATE, SECONDS = 640, 480, 30, 4
SCALE, SWAY = 1.6, 10.0
# The portrait's landmarks and the middle of its face (px), found with CenterFace.
LANDMARKS = np.array(
    [(202.5, 103.9), (248.0, 104.4), (224.2, 126.4), (204.5, 145.4), (243.5, 145.6)], np.float32
)
CENTRE = (226.0, 128.0)


def write_clip(target: Path, *, masked: bool) -> Path:
    """An H.264 MP4, 640x480 at 30 frames/s, whose last picture leads back to its first.

    The face, about 140 x 190 px, goes around the middle in a circle of 10 px radius. No B-frames
    and a key frame each second, so that it can be sent as RTP as it is.
    """
    portrait = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    if masked:
        portrait = paint_mask(
            portrait,
            LANDMARKS,
            wearing="correct",
            style="surgical",
            rng=np.random.default_rng(3),
        )
    encode = [
        *("ffmpeg", "-loglevel", "error", "-nostdin", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24"),
        *("-s", f"{WIDTH}x{HEIGHT}", "-r", str(RATE), "-i", "-", "-c:v", "libx264"),
        *("-preset", "veryfast", "-crf", "20", "-g", str(RATE), "-bf", "0", "-pix_fmt", "yuv420p"),
        str(target),
    ]
    frames = b"".join(_frame(portrait, number).tobytes() for number in range(RATE * SECONDS))
    subprocess.run(encode, input=frames, check=True, timeout=60)
    return target


def write_fake_camera(clip: Path, target: Path) -> Path:
    """The clip as the MJPEG file that Chromium plays as its camera."""
    convert = [
        *("ffmpeg", "-loglevel", "error", "-nostdin", "-y", "-i", str(clip), "-vf"),
        f"scale={WIDTH}:{HEIGHT}:force_original_aspect_ratio=increase,crop={WIDTH}:{HEIGHT},fps={RATE}",
        *("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p", str(target)),
    ]
    subprocess.run(convert, check=True, timeout=60)
    return target


def _frame(portrait: Pixels, number: int) -> Pixels:
    angle = 2 * math.pi * number / (RATE * SECONDS)
    x = WIDTH / 2 + SWAY * math.cos(angle) - SCALE * CENTRE[0]
    y = HEIGHT / 2 + SWAY * math.sin(angle) - SCALE * CENTRE[1]
    placed = cv2.warpAffine(
        portrait,
        np.array([[SCALE, 0, x], [0, SCALE, y]]),
        (WIDTH, HEIGHT),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.asarray(placed, np.uint8)
