"""What a viewer costs: one 720p camera, watched by none, then by N WebRTC viewers at once.

maskstream bench viewers --viewers 25 --seconds 20 [--peers] [--clip PATH] --json OUT
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cameras import camera_file, wait_live
from benchmarks.floor import encode_alone
from benchmarks.rtsp import rtsp_camera
from benchmarks.service import Sample, Service, service
from benchmarks.watchers import watching

SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Viewing:
    """CPU in cores of the service; frames a second that the viewers got, and frames lost.

    `encode_cpu_ms` is one frame's encoding alone, with the service's settings: the floor.
    """

    viewers: int
    seconds: float
    cpu_cores_one_viewer: float
    cpu_cores_all: float
    cpu_cores_per_further_viewer: float
    published_fps: float
    viewer_fps_min: float
    viewer_fps_mean: float
    encodes_per_frame: float
    dropped_for_viewers: int
    rss_mb: float
    encode_cpu_ms: float


def measure(viewers: int, seconds: float, clip: Path | None) -> Viewing:
    """One viewer first, then `viewers`, in the same service."""
    with camera_file(clip) as file:
        encoding = encode_alone(file)
        with rtsp_camera(file) as url:
            return measure_at(url, viewers, seconds, encoding)


def measure_at(url: str, viewers: int, seconds: float, encode_cpu_ms: float) -> Viewing:
    """The viewers of one RTSP camera."""
    limits = {"max_viewers_per_stream": max(50, viewers)}
    with service({"camera": url}, limits=limits) as running:
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
    return (after.cpu_seconds - before.cpu_seconds) / (after.at - before.at)


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
    return Viewing(
        viewers=viewers,
        seconds=seconds,
        cpu_cores_one_viewer=cores_one,
        cpu_cores_all=cores,
        cpu_cores_per_further_viewer=(cores - cores_one) / max(1, viewers - 1),
        published_fps=published / seconds,
        viewer_fps_min=min(counts) / seconds,
        viewer_fps_mean=sum(counts) / len(counts) / seconds,
        encodes_per_frame=grown("maskstream_encodes_total") / max(1.0, published),
        dropped_for_viewers=int(dropped),
        rss_mb=after.rss / 1e6,
        encode_cpu_ms=encode_cpu_ms,
    )
