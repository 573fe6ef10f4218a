"""A camera and an analyser without a network, a file or a model."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Literal

import numpy as np
import numpy.typing as npt

from stream_server.errors import SourceUnreachable
from stream_server.flow.share import DetectionShare
from stream_server.frames import CameraPacket, Face, FaceBox, Picture, Pixels, Verdict
from stream_server.ports import FrameSource, PacketSink, PictureSink
from stream_server.publish.encode import EncodeOptions, VideoEncoder
from stream_server.streams import Kind, SourceFactory

WIDTH, HEIGHT = 64, 48
RTP_STEP = 1800
FACE = Face(
    FaceBox(8.0, 4.0, 40.0, 44.0, 0.93, ((16.0, 16.0), (32.0, 16.0))),
    Verdict.WITH_MASK,
    0.9,
    (0.9, 0.06, 0.04),
)


class FakeCamera:
    """A FrameSource that shows a brighter picture each `period` seconds, for ever."""

    def __init__(self, period: float = 0.02) -> None:
        self._period = period

    async def run(self, sink: PictureSink) -> None:
        shade = 0
        while True:
            shade = (shade + 16) % 256
            bgr = np.full((HEIGHT, WIDTH, 3), shade, np.uint8)
            sink(Picture.from_bgr(bgr), captured=time.monotonic(), media_time=shade / 10)
            await asyncio.sleep(self._period)


class LazyCamera:
    """A FakeCamera that makes only the pictures that are wanted, and counts both."""

    def __init__(self) -> None:
        self.given = self.made = 0

    async def run(self, sink: PictureSink) -> None:
        while True:
            self.given += 1
            sink(self._make, captured=time.monotonic())
            await asyncio.sleep(0.02)

    def _make(self) -> Picture:
        self.made += 1
        return Picture.from_bgr(np.full((HEIGHT, WIDTH, 3), self.made % 256, np.uint8))


class FilmingCamera:
    """A FakeCamera whose packets can be had too: H.264, a key frame each tenth picture."""

    def __init__(self, packets: PacketSink, period: float = 0.03) -> None:
        self._packets = packets
        self._period = period

    async def run(self, sink: PictureSink) -> None:
        encoder = VideoEncoder("h264", EncodeOptions())
        for number in itertools.count():
            bgr = np.full((HEIGHT, WIDTH, 3), number * 16 % 256, np.uint8)
            picture, captured = Picture.from_bgr(bgr), time.monotonic()
            for made in encoder.encode(picture, number / 50, keyframe=number % 10 == 0):
                data, at = bytes(made.packet), 7000 + number * RTP_STEP
                self._packets.offer(CameraPacket(data, made.keyframe, captured, at))
            sink(picture, captured=captured, media_time=number / 50)
            await asyncio.sleep(self._period)


class DeadCamera:
    """A FrameSource that nobody can reach."""

    async def run(self, sink: PictureSink) -> None:
        raise SourceUnreachable("rtsp://admin:hunter2@dead.example/1 refused: is the camera on?")


class FakeAnalyser:
    """Finds the same face in every picture. `before` may raise, `hold` makes single pictures wait;
    `seconds` is the time that a classification takes, `late` that of each frame; `error` is what
    a classification raises."""

    labels = ("with_mask", "without_mask", "incorrect")
    uncertain_below = 0.6

    def __init__(self) -> None:
        self.calls = 0
        self.before: Callable[[], object] | None = None
        self.hold = asyncio.Event()
        self.hold.set()
        self.workers: Executor | None = None
        self.share = DetectionShare(1_000_000)
        self.seconds = 0.0
        self.late = 0.0
        self.error: Exception | None = None
        self.boxes = [FACE.box]
        self.probabilities = FACE.probabilities

    async def analyse(self, picture: Picture) -> tuple[Face, ...]:
        self.calls += 1
        if self.before is not None:
            self.before()
        await self.hold.wait()
        return (FACE,)

    async def search(self, picture: Picture, scale: float, *, stream: str) -> list[FaceBox]:
        return list(self.boxes)

    def crop(self, picture: Picture, boxes: Sequence[FaceBox]) -> list[Pixels]:
        time.sleep(self.late)
        chess = np.indices((32, 32)).sum(0) % 2 * 200 + 20
        return [np.repeat(chess[..., None], 3, 2).astype(np.uint8) for _ in boxes]

    async def classify(
        self,
        faces: Sequence[Pixels],
        *,
        stream: str = "",
        urgent: bool = True,
        deadline: float | None = None,
        patience: float = 0.0,
    ) -> npt.NDArray[np.float32]:
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return np.array([self.probabilities] * len(faces), np.float32)


def fake_sources() -> SourceFactory:
    """`demo:` is a FakeCamera, `demo:own` a FilmingCamera, `webrtc:` waits for peers, everything
    else is a dead camera."""

    def kind(url: str) -> Kind:
        scheme = url.partition(":")[0]
        kinds: dict[str, Literal["webrtc", "rtsp", "file", "demo"]] = {
            "demo": "demo",
            "webrtc": "webrtc",
            "file": "file",
        }
        return kinds.get(scheme, "rtsp")

    def build(
        name: str,
        url: str,
        on_drop: Callable[[str, int], None],
        packets: PacketSink,
        watched: Callable[[], bool],
    ) -> FrameSource:
        if url == "demo:own":
            return FilmingCamera(packets)
        return FakeCamera() if url.startswith("demo:") else DeadCamera()

    return SourceFactory(kind, build)
