"""OpenCV as tutorials use it: a thread a camera that reads, detects and classifies.

`--latest` is the better advice of forums: a second thread a camera reads all the time and keeps
the newest picture only.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.peers.judgements import Log
from benchmarks.peers.model import FaceModel
from stream_server.frames import Pixels

Shot = tuple[float, float, Pixels]
"""The camera's clock (s), when it was decoded (monotonic s), BGR."""


def shots(url: str) -> Iterator[Shot]:
    """Pictures as they are read; a camera that ends is opened again, its clock going on."""
    base, last = 0.0, 0.0
    while True:
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
        while True:
            got, frame = capture.read()
            if not got:
                break
            last = base + capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            yield last, time.monotonic(), np.asarray(frame, np.uint8)
        capture.release()
        base = last
        time.sleep(0.1)


def newest(url: str) -> Iterator[Shot]:
    """The newest picture whenever one is asked for; a thread reads them all."""
    slot: list[Shot] = []
    filled = threading.Condition()

    def read() -> None:
        for shot in shots(url):
            with filled:
                slot[:] = [shot]
                filled.notify()

    threading.Thread(target=read, daemon=True).start()
    while True:
        with filled:
            filled.wait_for(lambda: slot)
            shot = slot.pop()
        yield shot


def main() -> None:
    """One thread a camera until the figures are taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up", type=float, required=True)
    parser.add_argument("--latest", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    model, log = FaceModel(given.cache), Log(len(given.urls))

    def watch(camera: int, url: str) -> None:
        for media, taken, frame in newest(url) if given.latest else shots(url):
            model.judge(frame)
            log.note(camera, media, taken)

    for camera, url in enumerate(given.urls):
        threading.Thread(target=watch, args=(camera, url), daemon=True).start()
    log.run(given.warm_up, given.seconds)
    # Threads inside FFmpeg cannot be asked to stop.
    os._exit(0)


if __name__ == "__main__":
    main()
