"""What a viewer costs: one 720p camera, watched by none, then by N WebRTC viewers at once.

maskstream bench viewers --viewers 25 --seconds 20 --json OUT
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cameras import wait_live
from benchmarks.clips import write_camera
from benchmarks.rtsp import rtsp_camera
from benchmarks.service import Sample, Service, service

SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Viewing:
    """CPU in cores of the service; frames a second that the viewers got, and frames lost."""

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


def measure(viewers: int, seconds: float, clip: Path | None) -> Viewing:
    """One viewer first, then `viewers`, in the same service."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskstream-bench-")))
        url = stack.enter_context(rtsp_camera(write_camera(folder / "camera.ts", clip)))
        limits = {"max_viewers_per_stream": max(50, viewers)}
        running = stack.enter_context(service({"camera": url}, limits=limits))
        wait_live(running, 1)
        one, _ = _watched(running, 1, seconds)
        (before, after), counts = _watched(running, viewers, seconds)
        return _figures(viewers, _cores(*one), before, after, counts)


def _watched(
    running: Service, viewers: int, seconds: float
) -> tuple[tuple[Sample, Sample], list[int]]:
    total = seconds + SETTLE_SECONDS
    words = [sys.executable, "-m", "benchmarks.watchers", f"{running.url}/whep/camera"]
    words += [str(viewers), str(total)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise RuntimeError("the viewers did not all get a picture")
        time.sleep(SETTLE_SECONDS / 2)
        before = running.sample()
        time.sleep(seconds)
        after = running.sample()
        counts = json.loads(child.stdout.readline())
    # The viewers counted for longer than the service was sampled; rates are what is compared.
    return (before, after), [round(count * seconds / total) for count in counts]


def _cores(before: Sample, after: Sample) -> float:
    return (after.cpu_seconds - before.cpu_seconds) / (after.at - before.at)


def _figures(
    viewers: int, cores_one: float, before: Sample, after: Sample, counts: list[int]
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
    )
