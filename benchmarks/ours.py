"""Our way: the service's own hub, pipeline, detector and batcher, with one camera."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figures, figures
from stream_server.app import make_encoder, open_inference, stream_options, workers
from stream_server.frames import Analysis, AnyPicture
from stream_server.ingest import schemes
from stream_server.ingest.file import FileSource
from stream_server.ports import FrameSource, PacketSink, PictureSink
from stream_server.settings import Settings
from stream_server.streams import (
    DropCounter,
    SourceFactory,
    SourceSpec,
    Stream,
    StreamHub,
    Watched,
)
from stream_server.telemetry.metrics import Metrics

WARM_UP_SECONDS = 3.0
IN_FLIGHT = 2
STALLED_SECONDS = 0.5


class UnpacedSource:
    """A file as fast as its frames are analysed: one is analysed while the next is decoded."""

    def __init__(self, path: Path, room: threading.Semaphore) -> None:
        self._file = FileSource(path, realtime=False)
        self._room = room

    async def run(self, sink: PictureSink) -> None:
        """Deliver each picture when there is room for it."""

        def deliver(
            picture: AnyPicture, *, captured: float, media_time: float | None = None
        ) -> None:
            # A time-out, because the reader cannot be stopped while it waits here.
            if self._room.acquire(timeout=STALLED_SECONDS):
                sink(picture, captured=captured, media_time=media_time)

        await self._file.run(deliver)


def measure_unpaced(camera: str, seconds: float, cache: Path) -> Figures:
    """Frames a second when the camera is never waited for; latency is no figure of this mode."""
    room = threading.Semaphore(IN_FLIGHT)

    def build(
        name: str, url: str, on_drop: DropCounter, packets: PacketSink, watched: Watched
    ) -> FrameSource:
        return UnpacedSource(Path(url), room)

    factory = SourceFactory(lambda url: "file", build)
    return asyncio.run(_measure(factory, camera, seconds, cache, lambda _: room.release()))


def measure_paced(camera: str, seconds: float, cache: Path) -> Figures:
    """Latency from a frame's arrival to its verdicts, from a file or RTSP camera at 30 frames/s."""

    def build(
        name: str, url: str, on_drop: DropCounter, packets: PacketSink, watched: Watched
    ) -> FrameSource:
        return schemes.build(url, on_drop=on_drop)

    factory = SourceFactory(schemes.kind_of, build)
    return asyncio.run(_measure(factory, camera, seconds, cache, lambda _: None))


async def _measure(
    factory: SourceFactory,
    camera: str,
    seconds: float,
    cache: Path,
    on_result: Callable[[Analysis], None],
) -> Figures:
    settings = Settings(cache_dir=cache)
    options = stream_options(settings, make_encoder(settings))
    metrics = Metrics()
    async with open_inference(settings, metrics) as inference:
        with workers("publish") as pool:
            async with StreamHub(factory, inference.analyser, metrics, pool, options) as hub:
                stream = await hub.add(SourceSpec("camera", camera), persist=False)
                return await _count(stream, metrics, seconds, on_result)


async def _count(
    stream: Stream, metrics: Metrics, seconds: float, on_result: Callable[[Analysis], None]
) -> Figures:
    """Warm up from the first result on, then note every result for `seconds`."""
    latencies: list[float] = []
    faces = 0
    first = started = time.monotonic()
    warm = False
    before: dict[str, tuple[float, float]] = {}
    dropped = 0
    with stream.results.subscribe(maxlen=64) as results:
        async for analysis in results:
            now = time.monotonic()
            on_result(analysis)
            if not warm:
                first = first if before else now
                before = before or _stages(metrics)
                if now - first < WARM_UP_SECONDS:
                    continue
                warm, started, before = True, now, _stages(metrics)
                dropped = sum(stream.status().frames_dropped.values())
                continue
            latencies.append(now - analysis.frame.captured)
            faces += len(analysis.faces)
            if now - started >= seconds:
                break
    dropped = sum(stream.status().frames_dropped.values()) - dropped
    stages = {
        name: (total - before.get(name, (0, 0))[0]) / (count - before.get(name, (0, 0))[1])
        for name, (total, count) in _stages(metrics).items()
        if count > before.get(name, (0, 0))[1]
    }
    return figures(latencies, now - started, faces, dropped=dropped, stages=stages)


def _stages(metrics: Metrics) -> dict[str, tuple[float, float]]:
    """Seconds spent and times passed, by stage."""
    found: dict[str, dict[str, float]] = {}
    for family in metrics.registry.collect():
        if family.name == "maskstream_stage_seconds":
            for sample in family.samples:
                kind = sample.name.rpartition("_")[2]
                found.setdefault(sample.labels["stage"], {})[kind] = sample.value
    return {name: (kinds["sum"], kinds["count"]) for name, kinds in found.items()}
