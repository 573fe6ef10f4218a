"""What a viewer costs: one 720p camera, watched by none, then by N WebRTC viewers at once.

maskstream bench viewers --viewers 25 --seconds 20 [--processes N] [--peers] [--clip PATH]
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cameras import camera_file, wait_live
from benchmarks.floor import encode_alone
from benchmarks.rtsp import rtsp_camera
from benchmarks.service import Sample, Service, latency_quantile, service
from benchmarks.watchers import watching

SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Viewing:
    """CPU in cores of the service; frames a second that the viewers got, and frames lost.

    `cpu_cores_all` and `rss_mb` are of the service and its processes for viewers together, over
    which the viewers are spread evenly; `cpu_cores_main` is of the service itself. The lag is that
    of all event loops together. `encode_cpu_ms` is one frame's encoding alone, with the service's
    settings: the floor.
    """

    viewers: int
    viewers_in_processes: int
    seconds: float
    cpu_cores_one_viewer: float
    cpu_cores_all: float
    cpu_cores_main: float
    cpu_cores_per_further_viewer: float
    published_fps: float
    viewer_fps_min: float
    viewer_fps_mean: float
    encodes_per_frame: float
    dropped_for_viewers: int
    loop_lag_p95_ms: float | None
    rss_mb: float
    encode_cpu_ms: float


def measure(viewers: int, seconds: float, clip: Path | None, processes: int = 0) -> Viewing:
    """One viewer first, then `viewers`, in the same service."""
    with camera_file(clip) as file:
        encoding = encode_alone(file)
        with rtsp_camera(file) as url:
            return measure_at(url, viewers, seconds, encoding, processes)


def measure_at(
    url: str, viewers: int, seconds: float, encode_cpu_ms: float, processes: int = 0
) -> Viewing:
    """The viewers of one RTSP camera."""
    limits = {"max_viewers_per_stream": max(50, viewers)}
    webrtc = {
        "viewer_processes": processes,
        "viewers_per_process": math.ceil(viewers / (processes + 1)),
    }
    with service({"camera": url}, limits=limits, webrtc=webrtc) as running:
        wait_live(running, 1)
        one, _ = _watched(running, 1, seconds)
        (before, after), counts = _watched(running, viewers, seconds)
        return _figures(viewers, _cores(*one), before, after, counts, encode_cpu_ms)


def _watched(
    running: Service, viewers: int, seconds: float
) -> tuple[tuple[Sample, Sample], list[int]]:
    total = seconds + SETTLE_SECONDS
    with watching(f"{running.url}/whep/camera", viewers, total) as frames:
        time.sleep(SETTLE_SECONDS / 2)
        before = running.sample()
        time.sleep(seconds)
        after = running.sample()
        counts = frames()
    # The viewers counted for longer than the service was sampled; rates are what is compared.
    return (before, after), [round(count * seconds / total) for count in counts]


def _cores(before: Sample, after: Sample) -> float:
    return (after.all_cpu_seconds - before.all_cpu_seconds) / (after.at - before.at)


def _figures(
    viewers: int,
    cores_one: float,
    before: Sample,
    after: Sample,
    counts: list[int],
    encode_cpu_ms: float,
) -> Viewing:
    seconds = after.at - before.at

    def grown(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    published = grown("maskstream_frames_published_total")
    cores = _cores(before, after)
    dropped = grown("maskstream_frames_dropped_total", stage="viewer")
    on_loops = after.by("maskstream_event_loop_viewers", "loop")
    lag = latency_quantile(before, after, "maskstream_event_loop_lag_seconds", 0.95)
    return Viewing(
        viewers=viewers,
        viewers_in_processes=int(sum(on_loops.values()) - on_loops["main"]),
        seconds=seconds,
        cpu_cores_one_viewer=cores_one,
        cpu_cores_all=cores,
        cpu_cores_main=(after.cpu_seconds - before.cpu_seconds) / seconds,
        cpu_cores_per_further_viewer=(cores - cores_one) / max(1, viewers - 1),
        published_fps=published / seconds,
        viewer_fps_min=min(counts) / seconds,
        viewer_fps_mean=sum(counts) / len(counts) / seconds,
        encodes_per_frame=grown("maskstream_encodes_total") / max(1.0, published),
        dropped_for_viewers=int(dropped),
        loop_lag_p95_ms=None if lag is None else 1e3 * lag,
        rss_mb=after.all_rss / 1e6,
        encode_cpu_ms=encode_cpu_ms,
    )
