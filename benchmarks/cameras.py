"""A wall of 720p cameras from a real RTSP server: frames judged, how late, at what cost.

    maskstream bench cameras --cameras 8 --seconds 60 [--peers] [--clip PATH] --json OUT

The cameras are clients' connections to one RTSP server (GStreamer's), each decoded, followed and
judged by itself. The service is a process of its own; every figure is read from outside: frames
and latencies from its metrics, CPU and memory from the operating system. RTSP server and feeder
run on the same machine and are not counted. Beside it stands what the work costs alone: decoding,
detector and classifier without a service around them (`floor.py`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.clips import write_camera
from benchmarks.errors import MeasureError
from benchmarks.floor import Floor, Shares, alone
from benchmarks.rtsp import available, rtsp_camera
from benchmarks.service import Sample, Service, latency_quantile, service
from stream_server.flow.shedding import Step

LATENCY = "maskstream_capture_to_result_seconds"
WARM_UP_SECONDS = 10.0
WINDOW_SECONDS = 10.0
LIVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wall:
    """One measurement. Rates are per camera and second, of the slowest camera.

    `per_analysed_frame` are means over all cameras; `batch` is crops a batch.
    """

    cameras: int
    seconds: float
    analysed_fps_min: float
    analysed_fps_min_window: float
    detected_fps_mean: float
    arrival_to_verdict_p50_ms: float | None
    arrival_to_verdict_p95_ms: float | None
    arrival_to_verdict_p99_ms: float | None
    cpu_cores: float
    rss_mb: float
    dropped: int
    drops: dict[str, int]
    shedding_step_max: int
    budget_misses: int
    cpu_ms_per_analysed_frame: float
    per_analysed_frame: Shares
    batch: float


@dataclass(frozen=True, slots=True)
class FlooredWall(Wall):
    """A measurement and what its work costs alone."""

    floor: Floor
    cpu_per_analysed_frame_ratio: float | None


def measure(cameras: int, seconds: float, clip: Path | None) -> FlooredWall:
    """Run `cameras` cameras for `seconds`. Raises MeasureError without a real RTSP server."""
    with camera_file(clip) as file:
        with rtsp_camera(file) as url:
            found = measure_at(url, cameras, seconds)
        return floored(found, file)


@contextmanager
def camera_file(clip: Path | None) -> Iterator[Path]:
    """What the RTSP server plays. Raises MeasureError without a real RTSP server."""
    if not available():
        raise MeasureError(
            "no RTSP server: install gir1.2-gst-rtsp-server-1.0, python3-gi and ffmpeg "
            "(scripts/system-packages tells all)"
        )
    with tempfile.TemporaryDirectory(prefix="maskstream-bench-") as folder:
        yield write_camera(Path(folder) / "camera.ts", clip)


def measure_at(url: str, cameras: int, seconds: float) -> Wall:
    """`cameras` connections to one RTSP camera."""
    with service({f"camera-{n + 1}": url for n in range(cameras)}) as running:
        wait_live(running, cameras)
        time.sleep(WARM_UP_SECONDS)
        samples = [running.sample()]
        while samples[-1].at - samples[0].at < seconds:
            left = seconds - (samples[-1].at - samples[0].at)
            time.sleep(min(WINDOW_SECONDS, max(left, 0.1)))
            samples.append(running.sample())
        return wall(cameras, samples)


def floored(found: Wall, file: Path) -> FlooredWall:
    """The same with what its work costs alone, measured now: nothing else should run."""
    floor = alone(file, round(found.batch))
    own = {name.name: getattr(found, name.name) for name in fields(Wall)}
    # A detector that looks at smaller pictures does less than the floor's.
    whole = found.shedding_step_max < Step.SMALLER_INPUT
    ratio = found.cpu_ms_per_analysed_frame / floor.cost(found.per_analysed_frame)
    return FlooredWall(**own, floor=floor, cpu_per_analysed_frame_ratio=ratio if whole else None)


def wait_live(running: Service, cameras: int) -> None:
    """Until all cameras give pictures."""
    deadline = time.monotonic() + LIVE_SECONDS
    while running.sample().total("maskstream_stream_up") < cameras:
        if time.monotonic() > deadline:
            raise MeasureError("not all cameras came up")
        time.sleep(0.5)


def wall(cameras: int, samples: Sequence[Sample]) -> Wall:
    """The figures of one run from its samples, one each ten seconds."""
    first, last = samples[0], samples[-1]
    seconds = last.at - first.at
    p50, p95, p99 = (latency_quantile(first, last, LATENCY, s) for s in (0.5, 0.95, 0.99))
    drops = _drops(first, last)
    detections = _rates(first, last, "maskstream_detections_total")
    return Wall(
        cameras=cameras,
        seconds=seconds,
        analysed_fps_min=min(_rates(first, last, "maskstream_frames_analysed_total")),
        analysed_fps_min_window=min(
            rate
            for before, after in pairwise(samples)
            for rate in _rates(before, after, "maskstream_frames_analysed_total")
        ),
        detected_fps_mean=sum(detections) / len(detections),
        arrival_to_verdict_p50_ms=None if p50 is None else p50 * 1e3,
        arrival_to_verdict_p95_ms=None if p95 is None else p95 * 1e3,
        arrival_to_verdict_p99_ms=None if p99 is None else p99 * 1e3,
        cpu_cores=(last.cpu_seconds - first.cpu_seconds) / seconds,
        rss_mb=last.rss / 1e6,
        # Frames that nobody would have seen between two that are looked at are not lost.
        dropped=sum(count for reason, count in drops.items() if reason != "unwatched"),
        drops=drops,
        shedding_step_max=int(
            max(max(s.by("maskstream_shedding_step", "stream").values()) for s in samples)
        ),
        budget_misses=int(
            last.total("maskstream_latency_budget_misses_total")
            - first.total("maskstream_latency_budget_misses_total")
        ),
        **_costs(first, last),
    )


def _costs(first: Sample, last: Sample) -> dict[str, Any]:
    def grown(name: str) -> float:
        return last.total(f"maskstream_{name}") - first.total(f"maskstream_{name}")

    analysed = max(1.0, grown("frames_analysed_total"))
    crops = grown("batch_size_sum")
    return {
        "cpu_ms_per_analysed_frame": 1e3 * (last.cpu_seconds - first.cpu_seconds) / analysed,
        "per_analysed_frame": Shares(
            decoded=grown("frames_in_total") / analysed,
            detected=grown("detections_total") / analysed,
            classified=crops / analysed,
        ),
        "batch": crops / max(1.0, grown("batch_size_count")),
    }


def _rates(before: Sample, after: Sample, name: str) -> list[float]:
    old = before.by(name, "stream")
    elapsed = after.at - before.at
    return [(v - old.get(s, 0.0)) / elapsed for s, v in after.by(name, "stream").items()]


def _drops(before: Sample, after: Sample) -> dict[str, int]:
    name = "maskstream_frames_dropped_total"
    old = before.by(name, "reason")
    found = {r: int(v - old.get(r, 0.0)) for r, v in after.by(name, "reason").items()}
    return {reason: count for reason, count in found.items() if count}
