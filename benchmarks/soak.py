"""Memory over time: cameras that go on, viewers that come and go.

maskstream bench soak --cameras 8 --minutes 30 --json OUT
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from benchmarks.cameras import wait_live
from benchmarks.clips import write_camera
from benchmarks.figures import slope_per_minute
from benchmarks.rtsp import rtsp_camera
from benchmarks.service import service

WARM_UP_SHARE = 0.3
SAMPLE_SECONDS = 5.0
VISITORS, VISIT_SECONDS = 3, 12.0


class Point(NamedTuple):
    """The service at one time: seconds since the start, its memory, open files, and shedding."""

    at: float
    rss_mb: float
    files: int
    step: int


@dataclass(frozen=True, slots=True)
class Soak:
    """`slope_mb_per_minute` is fitted after the first 30 % of the time.

    `rss_mb_each_minute` is the mean of each minute's samples, so that a plateau can be told from a
    slope, and `shedding_step_each_minute` the highest step of any camera: a detector that begins
    to work at a smaller size needs memory for its network of that size.
    """

    cameras: int
    minutes: float
    visits: int
    rss_mb_start: float
    rss_mb_end: float
    slope_mb_per_minute: float | None
    rss_mb_each_minute: list[float]
    shedding_step_each_minute: list[int]
    open_files_start: int
    open_files_end: int


def measure(cameras: int, minutes: float, clip: Path | None) -> Soak:
    """Three viewers at a time visit one camera after another until the time is up."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskstream-bench-")))
        url = stack.enter_context(rtsp_camera(write_camera(folder / "camera.ts", clip)))
        running = stack.enter_context(service({f"camera-{n + 1}": url for n in range(cameras)}))
        wait_live(running, cameras)
        started = time.monotonic()
        points: list[Point] = []
        visits = 0
        visitor: subprocess.Popen[bytes] | None = None
        while time.monotonic() - started < minutes * 60:
            if visitor is None or visitor.poll() is not None:
                whep = f"{running.url}/whep/camera-{visits % cameras + 1}"
                words = [sys.executable, "-m", "benchmarks.watchers", whep]
                words += [str(VISITORS), str(VISIT_SECONDS)]
                visitor = subprocess.Popen(words, stdout=subprocess.DEVNULL)
                visits += 1
            sample = running.sample()
            files = int(sample.total("process_open_fds"))
            step = int(max(sample.by("maskstream_shedding_step", "stream").values()))
            points.append(Point(sample.at - started, sample.rss / 1e6, files, step))
            time.sleep(SAMPLE_SECONDS)
        if visitor is not None:
            visitor.kill()
            visitor.wait()
        return fitted(cameras, visits, points)


def fitted(cameras: int, visits: int, points: list[Point]) -> Soak:
    """The figures of all that was seen."""
    slope = slope_per_minute([(p.at, p.rss_mb) for p in points], skip=WARM_UP_SHARE)
    minutes = [list(group) for _, group in groupby(points, key=lambda p: int(p.at // 60))]
    return Soak(
        cameras=cameras,
        minutes=points[-1].at / 60,
        visits=visits,
        rss_mb_start=points[0].rss_mb,
        rss_mb_end=points[-1].rss_mb,
        slope_mb_per_minute=slope,
        rss_mb_each_minute=[round(mean(p.rss_mb for p in minute), 1) for minute in minutes],
        shedding_step_each_minute=[max(p.step for p in minute) for minute in minutes],
        open_files_start=points[0].files,
        open_files_end=points[-1].files,
    )
