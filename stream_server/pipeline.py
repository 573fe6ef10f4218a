"""One stream's whole path: newest frame -> followed faces -> drawn and encoded once -> viewers.

Two loops with one-item hand-overs, so that frame n is drawn and encoded while frame n+1 is
analysed, and nothing queues anywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor

import structlog

from stream_server.annotate.overlay import banner, draw
from stream_server.flow.latest import Broadcast, LatestSlot
from stream_server.flow.shedding import Shedding, Step
from stream_server.flow.thinning import Thinning
from stream_server.follow import Follower
from stream_server.frames import Analysis, FaceEvent, Frame, Picture, Privacy
from stream_server.publish.publisher import Encoded, Publisher
from stream_server.telemetry.metrics import Metrics, StreamMetrics
from stream_server.track.conceal import HoldBack

log = structlog.get_logger(__name__)

SHED_FPS = 12.0
"""What is left of a stream whose budget cannot be kept otherwise, in frames a second."""
LATE_SECONDS, LATE_FPS = 0.15, 2.0
"""Of frames that are this late (or by the whole budget, if that is more) before they are looked at,
hardly any are: newer ones have arrived already, and the time goes into decoding those."""


class Pipeline:
    """Analyses and publishes one stream until it is cancelled. Owns no task while not running."""

    def __init__(
        self,
        follower: Follower,
        publisher: Publisher,
        results: Broadcast[Analysis],
        events: Broadcast[FaceEvent],
        *,
        privacy: Privacy,
        latency_budget: float,
        unwatched_fps: float,
        metrics: Metrics,
        stream_metrics: StreamMetrics,
        workers: Executor,
    ) -> None:
        self._follower = follower
        self._publisher = publisher
        self._results = results
        self._events = events
        self._hold_back = HoldBack() if privacy == "blur" else None
        self._shedding = Shedding(latency_budget)
        self._too_late = max(latency_budget, LATE_SECONDS)
        self._thinning = Thinning()
        self._unwatched_fps = unwatched_fps
        self._metrics = metrics
        self._stream = stream_metrics
        self._workers = workers
        self.latest: Analysis | None = None
        self._shown: Analysis | None = None  # the newest that viewers may see
        self.notice: str | None = None  # what viewers are told when the picture is not live

    async def run(self, frames: LatestSlot[Frame]) -> None:
        """Runs until cancelled; an error that is not about one frame ends both loops."""
        analysed: LatestSlot[Analysis] = LatestSlot()
        async with self._follower, asyncio.TaskGroup() as group:
            group.create_task(self._analyse(frames, analysed))
            group.create_task(self._publish(analysed))

    @property
    def step(self) -> Step:
        """What is left out at present to keep the latency budget."""
        return self._shedding.step

    async def _analyse(self, frames: LatestSlot[Frame], analysed: LatestSlot[Analysis]) -> None:
        while True:
            frame = await frames.get()
            self._metrics.stage_seconds("wait", time.monotonic() - frame.captured)
            sight = await self._follower.look(frame, self._shedding.step)
            analysis = self.latest = Analysis(frame, sight.faces, sight.hidden)
            self._account(analysis)
            self._tell(sight.events)
            self._results.publish(analysis)
            due = analysis if self._hold_back is None else self._hold_back.pass_on(analysis)
            if due is None:
                continue
            self._shown = due
            if self._publisher.drawn_for and analysed.put(due) is not None:
                self._stream.dropped("publish", "superseded")

    def skips(self, captured: float) -> str | None:
        """Why the frame captured then is not to be looked at: load, or nobody to see it between
        two others. Asked once for each frame, in order, by whoever brings them.
        """
        if time.monotonic() - captured > self._too_late:
            reason, fps = "late", LATE_FPS
        elif self._shedding.step >= Step.FEWER_FRAMES:
            reason, fps = "shed", SHED_FPS
        elif not self._publisher.watched and not self._results.readers:
            reason, fps = "unwatched", self._unwatched_fps
        else:
            return None
        return None if self._thinning.due(captured, fps) else reason

    def _account(self, analysis: Analysis) -> None:
        now = time.monotonic()
        latency, before = now - analysis.frame.captured, self._shedding.step
        missed = self._shedding.observe(latency, now)
        self._stream.frame_analysed(latency, missed=missed)
        if self._shedding.step is not before:
            self._stream.shedding(self._shedding.step.name.lower(), self._shedding.step)
            log.info("shedding", stream=analysis.frame.stream, step=self._shedding.step.name)
        self._stream.sight([face.verdict for face in analysis.faces])

    def _tell(self, events: Sequence[FaceEvent]) -> None:
        for event in events:
            self._stream.face_event(event)
            self._events.publish(event)

    def let_go(self, *, all_faces: bool = False) -> None:
        """Tell of faces that left while no frame came; of all of them when none will."""
        self._tell(self._follower.leave(time.monotonic(), time.time(), all_faces=all_faces))

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
        shown = self._shown
        if shown is None or not self._publisher.drawn_for:
            return

        def encode() -> Encoded:
            return self._publisher.encode(self._drawn(shown), time.monotonic())

        loop = asyncio.get_running_loop()
        self._publisher.deliver(await loop.run_in_executor(self._workers, encode))

    def annotated(self) -> Picture | None:
        """The last picture as viewers see it; blocking. None before the first."""
        return None if self._shown is None else self._drawn(self._shown)

    def _drawn(self, analysis: Analysis) -> Picture:
        notice = self.notice
        picture = draw(analysis.frame.picture, analysis.faces, analysis.hidden.values())
        return picture if notice is None else banner(picture, notice)
