"""One stream's whole path: newest frame -> faces -> drawn and encoded once -> viewers.

Two loops with one-item hand-overs, so that frame n is drawn and encoded while frame n+1 is
analysed, and nothing queues anywhere.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor

import structlog

from stream_server.analyse import Analyser
from stream_server.annotate.overlay import banner, draw
from stream_server.errors import Overloaded
from stream_server.flow.latest import Broadcast, LatestSlot
from stream_server.frames import Analysis, Frame, Picture
from stream_server.publish.publisher import Encoded, Publisher
from stream_server.telemetry.metrics import Metrics, StreamMetrics

log = structlog.get_logger(__name__)


class Pipeline:
    """Analyses and publishes one stream until it is cancelled. Owns no task while not running."""

    def __init__(
        self,
        analyser: Analyser,
        publisher: Publisher,
        results: Broadcast[Analysis],
        *,
        metrics: Metrics,
        stream_metrics: StreamMetrics,
        workers: Executor,
    ) -> None:
        self._analyser = analyser
        self._publisher = publisher
        self._results = results
        self._metrics = metrics
        self._stream = stream_metrics
        self._workers = workers
        self.latest: Analysis | None = None
        self.notice: str | None = None  # what viewers are told when the picture is not live

    async def run(self, frames: LatestSlot[Frame]) -> None:
        """Runs until cancelled; an error that is not about one frame ends both loops."""
        analysed: LatestSlot[Analysis] = LatestSlot()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._analyse(frames, analysed))
            group.create_task(self._publish(analysed))

    async def _analyse(self, frames: LatestSlot[Frame], analysed: LatestSlot[Analysis]) -> None:
        while True:
            frame = await frames.get()
            self._metrics.stage_seconds("wait", time.monotonic() - frame.captured)
            try:
                faces = await self._analyser.analyse(frame.picture)
            except Overloaded:
                self._stream.dropped("classify", "overflow")
                continue
            analysis = self.latest = Analysis(frame, faces)
            self._stream.frame_analysed(time.monotonic() - frame.captured)
            for face in faces:
                self._stream.face(face.verdict)
            self._results.publish(analysis)
            if self._publisher.viewers and analysed.put(analysis) is not None:
                self._stream.dropped("publish", "superseded")

    async def _publish(self, analysed: LatestSlot[Analysis]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            analysis = await analysed.get()
            encoded = await loop.run_in_executor(self._workers, self._draw_and_encode, analysis)
            self._publisher.deliver(encoded)
            self._stream.frame_published(time.monotonic() - analysis.frame.captured)

    def _draw_and_encode(self, analysis: Analysis) -> Encoded:
        started = time.perf_counter()
        picture = self._drawn(analysis)
        drawn = time.perf_counter()
        encoded = self._publisher.encode(picture, analysis.frame.captured)
        self._metrics.stage_seconds("annotate", drawn - started)
        self._metrics.stage_seconds("encode", time.perf_counter() - drawn)
        return encoded

    async def publish_standstill(self) -> None:
        """Show the viewers of a silent source its last picture with the notice on it."""
        latest = self.latest
        if latest is None or not self._publisher.viewers:
            return

        def encode() -> Encoded:
            return self._publisher.encode(self._drawn(latest), time.monotonic())

        loop = asyncio.get_running_loop()
        self._publisher.deliver(await loop.run_in_executor(self._workers, encode))

    def annotated(self) -> Picture | None:
        """The last analysed picture as viewers see it; blocking. None before the first."""
        return None if self.latest is None else self._drawn(self.latest)

    def _drawn(self, analysis: Analysis) -> Picture:
        notice = self.notice
        picture = draw(analysis.frame.picture, analysis.faces)
        return picture if notice is None else banner(picture, notice)
