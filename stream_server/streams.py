"""Named streams: start, supervise, retry with backoff, notice standstill, stop."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast, get_args

import structlog

from stream_server.analyse import Analyser
from stream_server.errors import (
    MaskstreamError,
    SettingsError,
    SourceError,
    StateNotSaved,
    StreamBusy,
    StreamExists,
    StreamNotFound,
    TooManyStreams,
)
from stream_server.flow.backoff import Backoff
from stream_server.flow.latest import Broadcast, LatestSlot
from stream_server.flow.shedding import Step
from stream_server.follow import Follower
from stream_server.frames import (
    Analysis,
    AnyPicture,
    Face,
    FaceEvent,
    Frame,
    Picture,
    Pixels,
    Privacy,
    StreamState,
    check_stream_name,
    made,
)
from stream_server.ingest.decode import UNWATCHED
from stream_server.pipeline import Pipeline
from stream_server.ports import FrameSource, PacketSink
from stream_server.publish.encode import EncodeOptions
from stream_server.publish.publisher import JpegSubscription, Publisher, encode_jpeg
from stream_server.telemetry.logging import redact
from stream_server.telemetry.metrics import Decoder, Metrics, StreamMetrics

log = structlog.get_logger(__name__)

Kind = Literal["webrtc", "rtsp", "file", "demo"]
DropCounter = Callable[[str, int], None]
Watched = Callable[[], bool]
Part = Callable[[], Coroutine[Any, Any, None]]

WATCH_INTERVAL = 0.25
STANDSTILL_INTERVAL = 1.0
# A picture counts as the same when this thinned-out luma is equal: 1 in 64 pixels.
STANDSTILL_STEP = 8
WITHHELD = (
    "the faces of this stream are hidden (privacy: blur), and the camera's own video shows them"
)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A stream's name and where its pictures come from. The URL may hold a password."""

    name: str
    url: str = field(repr=False)
    privacy: Privacy = "none"


@dataclass(frozen=True, slots=True)
class SourceFactory:
    """How sources are made; given by the composition root so that the hub knows no protocol."""

    kind: Callable[[str], Kind]
    build: Callable[[str, str, DropCounter, PacketSink, Watched], FrameSource]
    latency_budget: Callable[[str], float] = lambda name: 0.15  # seconds, by the stream's name


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What every stream shares. Times in seconds."""

    stale_seconds: float = 5.0
    retry_initial: float = 0.5
    retry_maximum: float = 5.0
    keep_seconds: float = 10.0
    unwatched_fps: float = 15.0
    max_streams: int = 32
    max_viewers: int = 50
    jpeg_quality: int = 80
    encode: EncodeOptions = field(default_factory=EncodeOptions)


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """What an operator sees of a stream. Rates per second, latencies in milliseconds."""

    name: str
    kind: Kind
    source: str
    privacy: Privacy
    state: StreamState
    detail: str | None
    stale: bool
    retry_in_seconds: float | None
    width: int
    height: int
    input_fps: float
    analysed_fps: float
    detected_fps: float
    published_fps: float
    frames_in: int
    frames_dropped: dict[str, int]
    viewers: int
    source_view_refusal: str | None
    decoder: Decoder | None
    reconnects: int
    restarts: int
    last_frame_age_seconds: float | None
    capture_to_result_p50_ms: float | None
    capture_to_result_p95_ms: float | None
    capture_to_result_p99_ms: float | None
    latency_budget_ms: float
    budget_misses: int
    shedding: Step
    faces: tuple[Face, ...]
    created_at: datetime


class Standstill:
    """Says since when the picture has not changed. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._last: Pixels | None = None
        self.changed_at: float | None = None

    def see(self, picture: Picture, now: float) -> None:
        """Compare with the picture before."""
        thinned = picture.y[::STANDSTILL_STEP, ::STANDSTILL_STEP]
        last = self._last
        if last is None or last.shape != thinned.shape or (last != thinned).any():
            self._last = thinned.copy()
            self.changed_at = now


class Stream:
    """One named stream: its source, its pipeline, its viewers and its state."""

    def __init__(
        self,
        spec: SourceSpec,
        factory: SourceFactory,
        analyser: Analyser,
        metrics: Metrics,
        workers: Executor,
        options: StreamOptions,
        *,
        ephemeral: bool,
    ) -> None:
        self.name = spec.name
        self.kind: Kind = factory.kind(spec.url)
        self.url = redact(spec.url)
        self.ephemeral = ephemeral
        self.idle_since = time.monotonic()
        self.results: Broadcast[Analysis] = Broadcast()
        self.events: Broadcast[FaceEvent] = Broadcast()
        self._spec = spec
        self._factory = factory
        self._options = options
        self._workers = workers
        self._metrics = metrics.stream(spec.name)
        self.publisher = Publisher(
            self._metrics,
            options=options.encode,
            jpeg_quality=options.jpeg_quality,
            max_viewers=options.max_viewers,
            withheld=WITHHELD if spec.privacy == "blur" else None,
        )
        self._latency_budget = factory.latency_budget(spec.name)
        self._pipeline = Pipeline(
            Follower(
                spec.name,
                analyser,
                metrics,
                self._metrics,
                latency_budget=self._latency_budget,
                privacy=spec.privacy,
            ),
            self.publisher,
            self.results,
            self.events,
            privacy=spec.privacy,
            latency_budget=self._latency_budget,
            unwatched_fps=options.unwatched_fps,
            metrics=metrics,
            stream_metrics=self._metrics,
            workers=workers,
        )
        self._frames: LatestSlot[Frame] = LatestSlot()
        self._peer: FrameSource | None = None
        self._peer_came = asyncio.Event()
        self._peer_run: asyncio.Task[None] | None = None
        self._state: StreamState = "waiting" if self.kind == "webrtc" else "connecting"
        self._detail: str | None = None
        self._retry_at: float | None = None
        self._connecting_since = 0.0
        self._standstill = Standstill()
        self._picture_at: float | None = None
        self._left_out_at = float("-inf")  # when a picture came that nobody wanted decoded
        self._watched = False  # read by the source's thread
        self._created_at = datetime.now(UTC)
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics.set_state(self._state)
        self._metrics.set_stale(False)

    @property
    def metrics(self) -> StreamMetrics:
        """Its counters; they outlive it without a trace in what is exported."""
        return self._metrics

    def start(self) -> None:
        """Begin; `stop` ends it."""
        source = self._serve_peers if self.kind == "webrtc" else self._keep_reading
        parts: dict[str, Part] = {
            "source": source,
            "pipeline": lambda: self._pipeline.run(self._frames),
            "watch": self._watch,
        }
        for name, run in parts.items():
            self._tasks.append(
                asyncio.create_task(self._restart(name, run), name=f"{self.name}-{name}")
            )

    async def stop(self) -> None:
        """End the source, the pipeline and every viewer. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._frames.close()
        self.publisher.close()
        self.results.close()
        self._pipeline.let_go(all_faces=True)
        self.events.close()

    async def _restart(self, part: str, run: Part) -> None:
        """Run a part again whenever it crashes: no other stream and no other part is touched."""
        backoff = Backoff(self._options.retry_initial, self._options.retry_maximum)
        while True:
            started = time.monotonic()
            try:
                await run()
                return
            except Exception:
                if time.monotonic() - started > self._options.retry_maximum:
                    backoff.reset()
                self._metrics.restart()
                log.exception("stream_part_crashed", stream=self.name, part=part)
                await asyncio.sleep(backoff.next())

    async def _keep_reading(self) -> None:
        backoff = Backoff(self._options.retry_initial, self._options.retry_maximum)
        while True:
            # Each try may take seconds, in which the last one's reason still holds.
            self._enter("connecting", self._detail)
            frames_before = self._metrics.frames_in
            try:
                source = self._factory.build(
                    self._spec.name,
                    self._spec.url,
                    self._count_drop,
                    self.publisher.source,
                    lambda: self._watched,
                )
                await source.run(self._receive)
            except SourceError as error:
                if self._metrics.frames_in > frames_before:
                    backoff.reset()
                await self._wait_to_retry(error, backoff.next())
            else:
                self._enter("ended", "played to its end")
                log.info("stream_ended", stream=self.name)
                return

    async def _wait_to_retry(self, error: SourceError, delay: float) -> None:
        if not error.retryable:
            delay = self._options.retry_maximum
        self._retry_at = time.monotonic() + delay
        self._enter("retrying", redact(str(error)))
        log.warning(
            "source_lost", stream=self.name, error=str(error), retry_in_seconds=round(delay, 2)
        )
        await asyncio.sleep(delay)
        self._retry_at = None
        self._metrics.reconnect()

    async def _serve_peers(self) -> None:
        while True:
            self._enter("waiting", "no publisher is connected")
            await self._peer_came.wait()
            self._peer_came.clear()
            peer = self._peer
            assert peer is not None
            self._enter("connecting")
            self._peer_run = asyncio.create_task(peer.run(self._receive))
            try:
                await asyncio.wait([self._peer_run])
                if not self._peer_run.cancelled():
                    self._peer_run.result()
            except SourceError as error:
                log.info("publisher_left", stream=self.name, reason=str(error))
            finally:
                self._peer_run.cancel()
                if self._peer is peer:
                    self._peer = None
                    self.idle_since = time.monotonic()

    def attach(self, source: FrameSource) -> None:
        """Let a peer publish here. Raises `StreamBusy` while somebody does, or for a camera.

        A publisher whose picture stands still gives way: it may be the same one, come back from
        a lost connection.
        """
        self.check_free()
        if self._peer_run is not None:
            self._peer_run.cancel()
        self._peer = source
        self._peer_came.set()

    def check_free(self) -> None:
        """Raise what `attach` would raise now."""
        if self.kind != "webrtc":
            raise StreamBusy(f"stream {self.name!r} is fed by its own {self.kind} source")
        if self._peer is not None and self._state != "stale":
            raise StreamBusy(
                f"somebody publishes to stream {self.name!r} already: choose another name"
            )

    @property
    def idle(self) -> bool:
        """A webrtc stream that nobody publishes to."""
        return self.kind == "webrtc" and self._peer is None

    def _receive(
        self,
        picture: AnyPicture,
        *,
        captured: float,
        media_time: float | None = None,
    ) -> None:
        """The sink given to the source; called from its thread."""
        now = self._picture_at = time.monotonic()
        self._metrics.frame_in()
        if reason := self._pipeline.skips(captured):
            self._metrics.dropped("analyse", reason)
            return
        picture = made(picture)
        self._standstill.see(picture, now)
        frame = Frame(
            self.name,
            self._metrics.frames_in,
            captured,
            time.time() - (now - captured),
            media_time,
            picture,
        )
        if self._frames.put(frame) is not None:
            self._metrics.dropped("analyse", "superseded")

    def _count_drop(self, reason: str, count: int) -> None:
        if reason == UNWATCHED:
            self._left_out_at = time.monotonic()
        self._metrics.dropped("ingest", reason, count)

    def _enter(self, state: StreamState, detail: str | None = None) -> None:
        if state == "connecting":
            self._connecting_since = time.monotonic()
        self._state, self._detail = state, detail
        self._metrics.set_state(state)

    async def _watch(self) -> None:
        shown_at = 0.0
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            now = time.monotonic()
            self._notice_standstill(now)
            self._watched = bool(self.publisher.watched or self.results.readers)
            silent = self._picture_at is not None and now - self._picture_at > STANDSTILL_INTERVAL
            if silent:
                # While pictures come, the next look says who is gone: its last may be seconds late.
                self._pipeline.let_go()
            if self._pipeline.notice and silent and now - shown_at >= STANDSTILL_INTERVAL:
                shown_at = now
                await self._pipeline.publish_standstill()

    def _notice_standstill(self, now: float) -> None:
        changed_at = self._standstill.changed_at
        still = 0.0 if changed_at is None else self._looked_until(now) - changed_at
        stale = still > self._options.stale_seconds and self._state != "ended"
        self._metrics.set_stale(stale)
        self._pipeline.notice = f"Not live: no new picture for {still:.0f} s" if stale else None
        if self._state in ("live", "stale") and stale:
            silent = self._looked_until(now) - (self._picture_at or 0.0)
            frozen = silent < self._options.stale_seconds / 2
            what = "frames arrive, but all show the same picture" if frozen else "no frames"
            self._enter("stale", f"{what} for {still:.0f} s")
        elif (
            self._state in ("connecting", "stale")
            and not stale
            and changed_at is not None
            and changed_at >= self._connecting_since
        ):
            self._enter("live")

    def _looked_until(self, now: float) -> float:
        """Until when it is known whether the picture moves: not while pictures that come are left
        out on purpose (`decode: key` of a camera with ten seconds from key frame to key frame)."""
        if now - self._left_out_at < self._options.stale_seconds:
            return self._picture_at or now
        return now

    def status(self) -> StreamStatus:
        """A snapshot for people."""
        now = time.monotonic()
        metrics, latest = self._metrics, self._pipeline.latest
        p50, p95, p99 = (metrics.result_latency.percentile(share) for share in (0.5, 0.95, 0.99))
        return StreamStatus(
            name=self.name,
            kind=self.kind,
            source=self.url,
            privacy=self._spec.privacy,
            state=self._state,
            detail=self._detail,
            stale=self._pipeline.notice is not None,
            retry_in_seconds=None if self._retry_at is None else max(0.0, self._retry_at - now),
            width=latest.frame.picture.width if latest else 0,
            height=latest.frame.picture.height if latest else 0,
            input_fps=metrics.input_rate.rate(now),
            analysed_fps=metrics.analysed_rate.rate(now),
            detected_fps=metrics.detected_rate.rate(now),
            published_fps=metrics.published_rate.rate(now),
            frames_in=metrics.frames_in,
            frames_dropped=dict(metrics.drops),
            viewers=self.publisher.viewers,
            source_view_refusal=self.publisher.source.refusal,
            decoder=metrics.decoder,
            reconnects=metrics.reconnects,
            restarts=metrics.restarts,
            last_frame_age_seconds=self._picture_age(now),
            capture_to_result_p50_ms=None if p50 is None else p50 * 1e3,
            capture_to_result_p95_ms=None if p95 is None else p95 * 1e3,
            capture_to_result_p99_ms=None if p99 is None else p99 * 1e3,
            latency_budget_ms=self._latency_budget * 1e3,
            budget_misses=metrics.budget_misses,
            shedding=self._pipeline.step,
            faces=latest.faces if latest else (),
            created_at=self._created_at,
        )

    def _picture_age(self, now: float) -> float | None:
        at = self._picture_at
        # The source's thread may have put a picture here since `now`.
        return None if at is None else max(0.0, now - at)

    async def snapshot(self) -> bytes | None:
        """The last picture with its boxes as JPEG; None while there is none."""

        def encode() -> bytes | None:
            if (picture := self._pipeline.annotated()) is None:
                return None
            return encode_jpeg(picture.bgr(), self._options.jpeg_quality)

        return await asyncio.get_running_loop().run_in_executor(self._workers, encode)

    def jpegs(self) -> JpegSubscription:
        """MJPEG viewing: `with stream.jpegs() as pictures: async for jpeg in pictures`."""
        return self.publisher.watch_jpeg()


class StreamHub:
    """All streams by name.

    `async with` starts the configured ones, then the remembered ones, and stops them all.
    """

    def __init__(
        self,
        factory: SourceFactory,
        analyser: Analyser,
        metrics: Metrics,
        workers: Executor,
        options: StreamOptions,
        *,
        configured: Iterable[SourceSpec] = (),
        store: Path | None = None,
    ) -> None:
        self._factory = factory
        self._analyser = analyser
        self._metrics = metrics
        self._workers = workers
        self._options = options
        self._configured = tuple(configured)
        self._store = store
        self._streams: dict[str, Stream] = {}
        self._persisted: dict[str, SourceSpec] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._removing: set[str] = set()
        self._saving = asyncio.Lock()
        self._closing = False

    async def __aenter__(self) -> Self:
        for spec in self._configured:
            await self.add(spec, persist=False)
        # Also what cannot be started now stays remembered: a limit may be raised again.
        self._persisted = {spec.name: spec for spec in load_specs(self._store)}
        for spec in self._persisted.values():
            if spec.name in self._streams:
                log.warning("remembered_stream_is_configured", stream=spec.name)
                continue
            try:
                self._start(spec, ephemeral=False)
            except MaskstreamError as error:
                log.error("remembered_stream_refused", stream=spec.name, error=str(error))
        self._sweeper = asyncio.create_task(self._sweep(), name="hub-sweeper")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        await asyncio.gather(*(stream.stop() for stream in self._streams.values()))
        self._streams.clear()

    @property
    def running(self) -> bool:
        """Started and not yet closing."""
        return self._sweeper is not None and not self._closing

    def streams(self) -> list[Stream]:
        """All streams in the order they were added."""
        return list(self._streams.values())

    def get(self, name: str) -> Stream:
        """The stream of this name, else `StreamNotFound`."""
        stream = self._streams.get(name)
        if stream is None or name in self._removing:
            raise StreamNotFound(f"there is no stream {name[:80]!r}: GET /api/streams lists them")
        return stream

    async def add(self, spec: SourceSpec, *, persist: bool = True) -> Stream:
        """Start a stream; with `persist` it is started again after a restart.

        Raises `StreamExists`, `TooManyStreams`, and, with no stream left behind, `StateNotSaved`.
        """
        if spec.name in self._streams:
            raise StreamExists(f"a stream {spec.name!r} exists already: remove it, or rename")
        stream = self._start(spec, ephemeral=False)
        if persist:
            self._persisted[spec.name] = spec
            try:
                await self._save()
            except OSError as error:
                self._persisted.pop(spec.name, None)
                with suppress(StreamNotFound):  # somebody has removed it meanwhile
                    await self._end(spec.name)
                raise StateNotSaved(
                    f"the stream was not added: {self._store} cannot be written "
                    f"({error.strerror}): make state_dir writable"
                ) from error
        return stream

    async def _save(self) -> None:
        """Remember the streams as they are: one writer at a time, the last one knows all."""
        async with self._saving:
            await asyncio.to_thread(save_specs, self._store, tuple(self._persisted.values()))

    def check_free(self, name: str, *, allow_new: bool) -> None:
        """Raise what `publish` would raise now."""
        check_stream_name(name)
        stream = self._streams.get(name)
        if stream is not None:
            stream.check_free()
        elif not allow_new:
            raise StreamNotFound(
                f"there is no stream {name!r} to publish to: add it with the URL 'webrtc:', "
                "or set webrtc.allow_new_streams"
            )
        else:
            self._check_room()

    def publish(self, name: str, source: FrameSource, *, allow_new: bool) -> Stream:
        """Attach a WebRTC publisher; a new name makes a stream that goes when the peer has gone."""
        self.check_free(name, allow_new=allow_new)
        stream = self._streams.get(name)
        if stream is None:
            stream = self._start(SourceSpec(name, "webrtc:"), ephemeral=True)
        stream.attach(source)
        return stream

    def _start(self, spec: SourceSpec, *, ephemeral: bool) -> Stream:
        check_stream_name(spec.name)
        self._check_room()
        stream = Stream(
            spec,
            self._factory,
            self._analyser,
            self._metrics,
            self._workers,
            self._options,
            ephemeral=ephemeral,
        )
        self._streams[spec.name] = stream
        stream.start()
        log.info("stream_added", stream=spec.name, kind=stream.kind, source=stream.url)
        return stream

    def _check_room(self) -> None:
        if len(self._streams) >= self._options.max_streams:
            raise TooManyStreams(
                f"the limit of {self._options.max_streams} streams is reached: remove one, or "
                "raise limits.max_streams"
            )

    async def remove(self, name: str) -> None:
        """Stop a stream, forget it and its series.

        Raises `StreamNotFound`, and, when it has ended but comes back after a restart,
        `StateNotSaved`.
        """
        await self._end(name)
        if self._persisted.pop(name, None) is None:
            return
        try:
            await self._save()
        except OSError as error:
            raise StateNotSaved(
                f"the stream has ended, but comes back after a restart: {self._store} cannot be "
                f"written ({error.strerror}): make state_dir writable"
            ) from error

    async def _end(self, name: str) -> None:
        stream = self.get(name)
        self._removing.add(name)
        try:
            await stream.stop()
        finally:
            self._metrics.remove_stream(name)
            del self._streams[name]
            self._removing.discard(name)
        log.info("stream_removed", stream=name)

    async def _sweep(self) -> None:
        """Remove streams whose publisher left and did not come back."""
        while True:
            await asyncio.sleep(1.0)
            horizon = time.monotonic() - self._options.keep_seconds
            for stream in self.streams():
                if stream.ephemeral and stream.idle and stream.idle_since < horizon:
                    with suppress(StreamNotFound):
                        await self.remove(stream.name)


def load_specs(store: Path | None) -> list[SourceSpec]:
    """The remembered streams; raises `SettingsError` for a file that is not ours."""
    if store is None:
        return []
    try:
        entries = json.loads(store.read_text())
        return [_remembered(entry) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SettingsError(
            f"the file of remembered streams {store} cannot be read ({error}): mend or remove it"
        ) from error


def _remembered(entry: Mapping[str, object]) -> SourceSpec:
    privacy = entry.get("privacy", "none")
    if privacy not in get_args(Privacy):
        raise ValueError(f"privacy is {privacy!r}")
    return SourceSpec(str(entry["name"]), str(entry["url"]), cast("Privacy", privacy))


def save_specs(store: Path | None, specs: Iterable[SourceSpec]) -> None:
    """Replace the file at once, readable by its owner only: URLs may hold passwords."""
    if store is None:
        return
    store.parent.mkdir(parents=True, exist_ok=True)
    draft = store.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump([asdict(spec) for spec in specs], file, indent=1)
    draft.replace(store)
