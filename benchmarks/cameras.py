"""A wall of 720p cameras from a real RTSP server: frames judged, how late, at what cost.

    maskstream bench cameras --cameras 8 --seconds 60 [--clip PATH] --json OUT

The cameras are clients' connections to one RTSP server (GStreamer's), each decoded, followed and
judged by itself. The service is a process of its own; every figure is read from outside: frames
and latencies from its metrics, CPU and memory from the operating system. RTSP server and feeder
run on the same machine and are not counted.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.clips import write_camera
from benchmarks.rtsp import available, rtsp_camera
from benchmarks.service import Sample, Service, latency_quantile, service

LATENCY = "maskstream_capture_to_result_seconds"
WARM_UP_SECONDS = 10.0
WINDOW_SECONDS = 10.0
LIVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wall:
    """One measurement. Rates are per camera and second, of the slowest camera."""

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


def measure(cameras: int, seconds: float, clip: Path | None) -> Wall:
    """Run `cameras` cameras for `seconds`. Raises RuntimeError without a real RTSP server."""
    if not available():
        raise RuntimeError(
            "no RTSP server: install gir1.2-gst-rtsp-server-1.0, python3-gi and ffmpeg "
            "(scripts/system-packages tells all)"
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskstream-bench-")))
        url = stack.enter_context(rtsp_camera(write_camera(folder / "camera.ts", clip)))
        running = stack.enter_context(service({f"camera-{n + 1}": url for n in range(cameras)}))
        wait_live(running, cameras)
        time.sleep(WARM_UP_SECONDS)
        samples = [running.sample()]
        while samples[-1].at - samples[0].at < seconds:
            left = seconds - (samples[-1].at - samples[0].at)
            time.sleep(min(WINDOW_SECONDS, max(left, 0.1)))
            samples.append(running.sample())
        return wall(cameras, samples)


def wait_live(running: Service, cameras: int) -> None:
    """Until all cameras give pictures."""
    deadline = time.monotonic() + LIVE_SECONDS
    while running.sample().total("maskstream_stream_up") < cameras:
        if time.monotonic() > deadline:
            raise RuntimeError("not all cameras came up")
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
    )


def _rates(before: Sample, after: Sample, name: str) -> list[float]:
    old = before.by(name, "stream")
    elapsed = after.at - before.at
    return [(v - old.get(s, 0.0)) / elapsed for s, v in after.by(name, "stream").items()]


def _drops(before: Sample, after: Sample) -> dict[str, int]:
    name = "maskstream_frames_dropped_total"
    old = before.by(name, "reason")
    found = {r: int(v - old.get(r, 0.0)) for r, v in after.by(name, "reason").items()}
    return {reason: count for reason, count in found.items() if count}
