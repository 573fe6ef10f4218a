"""Every metric's name, in one place. Labels that name a stream are removed with the stream."""

from __future__ import annotations

import platform
import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from stream_server.frames import FaceEvent, FaceEventKind, StreamState, Verdict
from stream_server.telemetry.meters import LatencyWindow, RateMeter

LATENCY_BUCKETS = (
    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5, 1, 2, 5,
)  # fmt: skip
STAGE_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1)
LAG_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def package_version() -> str:
    """The installed version, or "0+unknown" when run from a bare source tree."""
    try:
        return version("maskstream")
    except PackageNotFoundError:
        return "0+unknown"


K = TypeVar("K")
C = TypeVar("C")


class Children(dict[K, C]):
    """A metric's children by their labels, looked up once: `labels()` costs more than counting."""

    def __init__(self, find: Callable[[K], C]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, key: K) -> C:
        child = self[key] = self._find(key)
        return child


class Metrics:
    """All metrics of one process, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._streams: dict[str, StreamMetrics] = {}
        self._define_stream_metrics(registry)
        self._stage = Histogram(
            "maskstream_stage_seconds",
            "Time spent in one stage of the path for one frame or batch",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self._stages: Children[str, Histogram] = Children(self._stage.labels)
        self._batch = Histogram(
            "maskstream_batch_size",
            "Face crops per inference batch",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._queue = Gauge(
            "maskstream_queue_depth", "Items waiting in a queue", ["queue"], registry=registry
        )
        self._crops_dropped = Counter(
            "maskstream_crops_dropped_total",
            "Face crops that were not classified",
            ["reason"],
            registry=registry,
        )
        self._runtime = Info("maskstream_runtime", "The inference runtime", registry=registry)
        Info("maskstream_build", "What is running", registry=registry).info(
            {"version": package_version(), "python": platform.python_version()}
        )
        self._gpu_memory = Gauge(
            "maskstream_gpu_memory_bytes",
            "GPU memory held by this process",
            ["device"],
            registry=registry,
        )
        self._loop_lag = Histogram(
            "maskstream_event_loop_lag_seconds",
            "How late an event loop gets to its work, four times a second",
            ["loop"],
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self._loop_viewers = Gauge(
            "maskstream_event_loop_viewers",
            "WebRTC viewers whose connections an event loop has",
            ["loop"],
            registry=registry,
        )
        self._processes_lost = Counter(
            "maskstream_viewer_processes_lost_total",
            "Processes for viewers that ended by themselves, hung, or did not come up",
            ["loop"],
            registry=registry,
        )
        self._http = Counter(
            "maskstream_http_requests_total",
            "HTTP requests answered",
            ["method", "route", "status"],
            registry=registry,
        )

    def _define_stream_metrics(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"maskstream_{name}", text, ["stream", *labels], registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"maskstream_{name}", text, ["stream"], registry=registry)

        def latency(name: str, text: str) -> Histogram:
            return Histogram(
                f"maskstream_{name}", text, ["stream"], buckets=LATENCY_BUCKETS, registry=registry
            )

        self.frames_in = counter("frames_in_total", "Frames decoded from the source")
        self.frames_analysed = counter("frames_analysed_total", "Frames whose faces were judged")
        self.frames_published = counter("frames_published_total", "Frames drawn and encoded")
        self.frames_dropped = counter(
            "frames_dropped_total", "Frames that were left out", "stage", "reason"
        )
        self.faces = counter("faces_total", "Faces judged, one per face and frame", "verdict")
        self.people = counter(
            "people_total", "People who have left the picture, by their longest verdict", "verdict"
        )
        self.in_sight = Gauge(
            "maskstream_faces_in_sight",
            "Faces in the last analysed frame",
            ["stream", "verdict"],
            registry=registry,
        )
        self.face_events = counter(
            "face_events_total", "Faces that appeared, changed their verdict, or left", "kind"
        )
        self.detections = counter("detections_total", "Frames that went through the detector")
        self.budget_misses = counter(
            "latency_budget_misses_total", "Frames whose verdicts came later than the budget"
        )
        self.shedding_step = gauge(
            "shedding_step", "What is left out to keep the budget: 0 nothing to 4 frames"
        )
        self.shedding_changes = counter(
            "shedding_changes_total", "Steps of shedding that were entered", "step"
        )
        self.up = gauge("stream_up", "1 while pictures arrive")
        self.state = Enum(
            "maskstream_stream_state",
            "1 for the state that the stream is in",
            ["stream"],
            states=get_args(StreamState),
            registry=registry,
        )
        self.stale = gauge("stream_stale", "1 while the picture has stood still for too long")
        self.decoder = Gauge(
            "maskstream_stream_decoder",
            "1 for the device that decodes the stream: cpu, or FFmpeg's name for it",
            ["stream", "device"],
            registry=registry,
        )
        self.reconnects = counter("stream_reconnects_total", "Tries to reach the source again")
        self.restarts = counter("stream_restarts_total", "Pipeline crashes that were restarted")
        self.viewers = gauge("stream_viewers", "Viewers of the stream")
        self.encodes = counter("encodes_total", "Frames encoded", "codec", "rendition")
        self.keyframes = counter("keyframes_total", "Key frames encoded", "codec", "rendition")
        self.rendition_viewers = Gauge(
            "maskstream_rendition_viewers",
            "WebRTC viewers by what they see: full, half, thumb, or the camera's own (source)",
            ["stream", "rendition"],
            registry=registry,
        )
        self.capture_to_result = latency(
            "capture_to_result_seconds", "From a frame's arrival to its verdicts"
        )
        self.capture_to_publish = latency(
            "capture_to_publish_seconds", "From a frame's arrival to its encoded picture"
        )
        self.capture_to_display = latency(
            "capture_to_display_seconds", "From a frame's arrival to a page's screen, as it says"
        )
        self.per_stream = (
            self.frames_in, self.frames_analysed, self.frames_published, self.frames_dropped,
            self.faces, self.up, self.stale, self.reconnects, self.restarts, self.viewers,
            self.encodes, self.keyframes, self.capture_to_result, self.capture_to_publish,
            self.people, self.in_sight, self.face_events, self.detections, self.budget_misses,
            self.shedding_step, self.shedding_changes, self.rendition_viewers,
            self.capture_to_display, self.decoder, self.state,
        )  # fmt: skip

    def stream(self, name: str) -> StreamMetrics:
        """The metrics of one stream, made on first use."""
        if name not in self._streams:
            self._streams[name] = StreamMetrics(self, name)
        return self._streams[name]

    def find_stream(self, name: str) -> StreamMetrics | None:
        """The metrics of a stream that is there, else None."""
        return self._streams.get(name)

    def remove_stream(self, name: str) -> None:
        """Drop every series of a stream, so that a removed camera leaves nothing behind."""
        if name in self._streams:
            self._streams.pop(name).removed = True
        for metric in self.per_stream:
            metric.remove_by_labels({"stream": name})

    def stage_seconds(self, stage: str, seconds: float) -> None:
        """Time of one pass through a stage."""
        self._stages[stage].observe(seconds)

    def batch(self, size: int) -> None:
        """One batch went to the runtime."""
        self._batch.observe(size)

    def queue_depth(self, queue: str, depth: Callable[[], float]) -> None:
        """Export `depth()`, read at each scrape."""
        self._queue.labels(queue).set_function(depth)

    def dropped_crops(self, reason: str, count: int) -> None:
        """Crops that were shed before inference."""
        self._crops_dropped.labels(reason).inc(count)

    def runtime(self, name: str, device: str, precision: str) -> None:
        """The inference runtime that was picked."""
        self._runtime.info({"name": name, "device": device, "precision": precision})

    def gpu_memory(self, device: str, held: Callable[[], float]) -> None:
        """Export `held()` bytes of GPU memory, read at each scrape."""
        self._gpu_memory.labels(device).set_function(held)

    def loop_lag(self, loop: str, seconds: float) -> None:
        """An event loop came so late to what was due."""
        self._loop_lag.labels(loop).observe(seconds)

    def loop_viewers(self, loop: str, count: Callable[[], float]) -> None:
        """Export `count()` viewers of an event loop, read at each scrape."""
        self._loop_viewers.labels(loop).set_function(count)

    def viewer_process_lost(self, loop: str) -> None:
        """A process for viewers ended unasked."""
        self._processes_lost.labels(loop).inc()

    def http(self, method: str, route: str, status: int) -> None:
        """One HTTP request; `route` is the route's template, never the path that was asked for."""
        self._http.labels(method, route, str(status)).inc()

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4


@dataclass(frozen=True, slots=True)
class Decoder:
    """Where a stream's video is decoded: "cpu" or FFmpeg's name of a device; and why there."""

    device: str
    reason: str


class StreamMetrics:
    """One stream's counters, and the sliding figures that its status shows to people."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self._frames_in = metrics.frames_in.labels(name)
        self._analysed = metrics.frames_analysed.labels(name)
        self._published = metrics.frames_published.labels(name)
        self._reconnects = metrics.reconnects.labels(name)
        self._restarts = metrics.restarts.labels(name)
        self._up, self._state = metrics.up.labels(name), metrics.state.labels(name)
        self._stale = metrics.stale.labels(name)
        self._viewers = metrics.viewers.labels(name)
        self._detections = metrics.detections.labels(name)
        self._budget_misses = metrics.budget_misses.labels(name)
        self._shedding_step = metrics.shedding_step.labels(name)
        self._result_histogram = metrics.capture_to_result.labels(name)
        self._publish_histogram = metrics.capture_to_publish.labels(name)
        self._dropped: Children[tuple[str, str], Counter] = Children(
            lambda labels: metrics.frames_dropped.labels(name, *labels)
        )
        self._faces: Children[Verdict, Counter] = Children(
            lambda verdict: metrics.faces.labels(name, verdict.value)
        )
        self._in_sight: list[Verdict] | None = None
        # A late word from a viewer or a thread must not bring a removed series back.
        self.removed = False
        self.frames_in = 0
        self.budget_misses = 0
        self.reconnects = 0
        self.restarts = 0
        self.drops: Tally[str] = Tally()
        self.input_rate = RateMeter()
        self.analysed_rate = RateMeter()
        self.detected_rate = RateMeter()
        self.published_rate = RateMeter()
        self.result_latency = LatencyWindow()
        self.decoder: Decoder | None = None

    def frame_in(self) -> None:
        """A picture came from the source."""
        self.frames_in += 1
        self._frames_in.inc()
        self.input_rate.tick(time.monotonic())

    def frame_analysed(self, latency: float, *, missed: bool) -> None:
        """Its faces were judged `latency` seconds after it arrived; `missed` if over budget."""
        if missed:
            self.budget_misses += 1
            self._budget_misses.inc()
        self._analysed.inc()
        self.analysed_rate.tick(time.monotonic())
        self.result_latency.add(latency)
        self._result_histogram.observe(latency)

    def frame_published(self, latency: float) -> None:
        """It was drawn and encoded, `latency` seconds after it arrived."""
        self._published.inc()
        self.published_rate.tick(time.monotonic())
        self._publish_histogram.observe(latency)

    def dropped(self, stage: str, reason: str, count: int = 1) -> None:
        """Frames left out at `stage`; both labels are words from the code, never from outside."""
        self.drops[f"{stage}/{reason}"] += count
        if not self.removed:
            self._dropped[stage, reason].inc(count)

    def detected(self) -> None:
        """A frame went through the detector; from any thread."""
        self._detections.inc()
        self.detected_rate.tick(time.monotonic())

    def sight(self, verdicts: Sequence[Verdict]) -> None:
        """The faces of one analysed frame."""
        if self.removed:
            return
        for verdict in verdicts:
            self._faces[verdict].inc()
        if self._in_sight == (seen := list(verdicts)):
            return
        self._in_sight = seen
        for verdict in Verdict:
            self._metrics.in_sight.labels(self._name, verdict.value).set(seen.count(verdict))

    def face_event(self, event: FaceEvent) -> None:
        """Something happened to a face; a person is counted when leaving, once."""
        if self.removed:
            return
        self._metrics.face_events.labels(self._name, event.kind.value).inc()
        if event.kind is FaceEventKind.LEFT:
            self._metrics.people.labels(self._name, event.counted.value).inc()

    def shedding(self, name: str, step: int) -> None:
        """Another step of shedding was entered, up or down."""
        self._shedding_step.set(step)
        if not self.removed:
            self._metrics.shedding_changes.labels(self._name, name).inc()

    def encoded(self, codec: str, rendition: str, keyframe: bool) -> None:
        """One frame was encoded for a rendition."""
        if self.removed:
            return
        self._metrics.encodes.labels(self._name, codec, rendition).inc()
        if keyframe:
            self._metrics.keyframes.labels(self._name, codec, rendition).inc()

    def shown(self, latency: float) -> None:
        """A page has shown a picture `latency` seconds after it arrived here."""
        if not self.removed:
            self._metrics.capture_to_display.labels(self._name).observe(latency)

    def set_rendition_viewers(self, rendition: str, count: int) -> None:
        """How many watch by WebRTC, by what they see."""
        if not self.removed:
            self._metrics.rendition_viewers.labels(self._name, rendition).set(count)

    def decoded_on(self, device: str, reason: str) -> None:
        """A source was opened, and its video is decoded there; from any thread."""
        if self.removed:
            return
        if self.decoder is not None and self.decoder.device != device:
            self._metrics.decoder.labels(self._name, self.decoder.device).set(0)
        self._metrics.decoder.labels(self._name, device).set(1)
        self.decoder = Decoder(device, reason)

    def set_state(self, state: StreamState) -> None:
        """It has entered this state."""
        self._up.set(state == "live")
        self._state.state(state)

    def set_stale(self, stale: bool) -> None:
        """The picture stands still, or not."""
        self._stale.set(stale)

    def set_viewers(self, count: int) -> None:
        """How many watch."""
        self._viewers.set(count)

    def reconnect(self) -> None:
        """The source is tried again."""
        self.reconnects += 1
        self._reconnects.inc()

    def restart(self) -> None:
        """The pipeline crashed and is started again."""
        self.restarts += 1
        self._restarts.inc()
