"""What the work costs with nothing around it: CPU time of decoding, the networks, encoding.

All with the service's own settings, precision and input sizes, on the camera's own pictures. CPU
time, not wall time, so that other work on the machine counts little; the least of the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np

from stream_server.app import load_models, make_encoder, stream_options
from stream_server.classify.crops import crops
from stream_server.detect.centerface import CenterFaceDetector
from stream_server.frames import Picture, Pixels
from stream_server.publish.encode import VideoEncoder
from stream_server.settings import Settings

ROUNDS = 3
DECODED, DETECTED, CLASSIFIED, ENCODED = 240, 40, 40, 60


@dataclass(frozen=True, slots=True)
class Shares:
    """What was done for one analysed frame: pictures decoded, detections, crops classified."""

    decoded: float
    detected: float
    classified: float


@dataclass(frozen=True, slots=True)
class Floor:
    """CPU milliseconds of each alone: a picture decoded, one detection, one crop of a batch."""

    decode_cpu_ms: float
    detect_cpu_ms: float
    classify_cpu_ms: float

    def cost(self, shares: Shares) -> float:
        """CPU milliseconds that one analysed frame cannot do without."""
        return (
            self.decode_cpu_ms * shares.decoded
            + self.detect_cpu_ms * shares.detected
            + self.classify_cpu_ms * shares.classified
        )


def alone(file: Path, batch: int) -> Floor:
    """Of this camera's pictures; crops are classified `batch` (at least 1) at a time.

    A detection includes shrinking the picture to the detector's input; it has one thread, as in the
    company of other cameras' detections: what more threads cost by waiting is no work.
    """
    detector, _, selected, card = load_models(Settings())
    if isinstance(detector, CenterFaceDetector):
        detector = CenterFaceDetector(threads=1, precision=detector.precision)
    pictures = [Picture.from_bgr(bgr) for bgr in _pictures(file, DETECTED)]
    boxes = [detector.detect(picture) for picture in pictures]
    seen = [
        crop
        for picture, found in zip(pictures, boxes, strict=True)
        for crop in crops(picture, found, card.crop_margin, card.input_size)
    ] or [np.zeros((card.input_size, card.input_size, 3), np.uint8)]
    batch = max(1, batch)
    batches = [
        np.stack([seen[(n + k) % len(seen)] for k in range(batch)]) for n in range(CLASSIFIED)
    ]
    return Floor(
        decode_cpu_ms=cpu_ms(lambda: _decode(file, DECODED), DECODED),
        detect_cpu_ms=cpu_ms(lambda: [detector.detect(p) for p in pictures], len(pictures)),
        classify_cpu_ms=cpu_ms(
            lambda: [selected.classifier.classify(b) for b in batches], CLASSIFIED * batch
        ),
    )


def encode_alone(file: Path) -> float:
    """CPU milliseconds of encoding one of this camera's pictures as H.264 for viewers."""
    settings = Settings()
    options = stream_options(settings, make_encoder(settings)).encode
    pictures = [Picture.from_bgr(bgr) for bgr in _pictures(file, ENCODED)]

    def encode() -> None:
        encoder = VideoEncoder("h264", options)
        for number, picture in enumerate(pictures):
            encoder.encode(picture, number / 30, keyframe=False)

    return cpu_ms(encode, len(pictures))


def cpu_ms(work: Callable[[], object], items: int) -> float:
    """CPU milliseconds of this process for each of the `items` that `work` goes through."""
    spent = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return 1e3 * min(spent) / items


def _pictures(file: Path, number: int) -> list[Pixels]:
    return [
        np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in _decoded(file, number)
    ]


def _decode(file: Path, number: int) -> None:
    """Keep none of the pictures: memory that is touched for the first time costs a fifth more."""
    for _ in _decoded(file, number):
        pass


def _decoded(file: Path, number: int) -> Iterator[av.VideoFrame]:
    """The first pictures, by one thread as in the service."""
    with av.open(str(file)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        yield from islice(container.decode(video=0), number)
