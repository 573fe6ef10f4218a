"""The peers' runs beside ours: how each is started, and what is read of it."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from benchmarks import roundtrip, watchers
from benchmarks.errors import MeasureError
from benchmarks.peers.environments import PeerUnavailable, peer_python
from benchmarks.peers.processes import Peer, running
from benchmarks.processes import usage
from benchmarks.roundtrip import RoundTrip
from benchmarks.service import free_port
from stream_server.settings import Settings

START_SECONDS = 120.0
WARM_UP_SECONDS = 10.0
SETTLE_SECONDS = 5.0
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Contender:
    """A peer: what is run, its options, and the requirements for which it has a Python of its own.

    `module` is a module of this package, or of the packages it needs.
    """

    module: str
    options: tuple[str, ...] = ()
    requirements: str | None = None

    def command(self, *arguments: str) -> list[str]:
        """The whole command line. Raises PeerUnavailable if its packages cannot be had."""
        python = str(peer_python(self.requirements)) if self.requirements else sys.executable
        return [python, "-m", self.module, *self.options, *arguments]


CAMERAS = {
    "OpenCV threads": Contender("benchmarks.peers.opencv_threads"),
    "OpenCV threads, newest": Contender("benchmarks.peers.opencv_threads", ("--latest",)),
    "InferencePipeline": Contender("benchmarks.peers.inference_pipeline", requirements="inference"),
}
BROWSER = {
    "aiortc server example": Contender("benchmarks.peers.aiortc_server"),
    "FastRTC": Contender("benchmarks.peers.fastrtc_stream", requirements="fastrtc"),
    "FastRTC, skip_frames": Contender("benchmarks.peers.fastrtc_stream", ("--skip",), "fastrtc"),
    "streamlit-webrtc": Contender("benchmarks.peers.streamlit_launch", requirements="streamlit"),
}
RELAYS = {f"aiortc MediaRelay, {codec}": codec for codec in ("VP8", "H264")}


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """Why a peer has no figures."""

    not_measured: str


@dataclass(frozen=True, slots=True)
class CameraRow:
    """A peer before so many cameras; see `judgements.Walled`. CPU and memory of all processes."""

    cameras: int
    analysed_fps_min: float
    arrival_to_verdict_p50_ms: float | None
    arrival_to_verdict_p95_ms: float | None
    decoded_to_verdict_p50_ms: float | None
    decoded_to_verdict_p95_ms: float | None
    late_at_end_ms: float | None
    cpu_cores: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class RelayRow:
    """A relay before so many viewers, none of them analysed: it only decodes and encodes.

    `late_at_end_ms` is how old the frames of the latest viewer are when they reach its encoder.
    """

    viewers: int
    cpu_cores_all: float
    viewer_fps_min: float
    viewer_fps_mean: float
    late_at_end_ms: float
    rss_mb: float


def attempted(run: Callable[[], Result]) -> Result | NotMeasured:
    """What `run` measures, or the one line that says why it could not."""
    from playwright.sync_api import Error

    try:
        return run()
    except (PeerUnavailable, MeasureError, RuntimeError, OSError, psutil.Error, Error) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return NotMeasured(reason)


def camera_row(name: str, cameras: int, url: str, seconds: float) -> CameraRow:
    """One peer before `cameras` connections to the RTSP camera."""
    words = CAMERAS[name].command(
        *([url] * cameras),
        *("--cache", str(Settings().cache_dir)),
        *("--seconds", str(seconds), "--warm-up", str(WARM_UP_SECONDS)),
    )
    with running(name, words) as peer:
        peer.expect("measuring", START_SECONDS)
        before = usage(peer.process.pid)
        # The peer ends with its figures: what it used is asked while it still runs.
        time.sleep(seconds - 0.5)
        after = usage(peer.process.pid)
        figures = peer.expect("measured", START_SECONDS)
    return CameraRow(
        cameras=cameras,
        **figures,
        cpu_cores=(after.cpu_seconds - before.cpu_seconds) / (after.at - before.at),
        rss_mb=after.rss / 1e6,
    )


def browser_row(name: str, camera: Path, seconds: float, slow: float) -> RoundTrip:
    """One peer before Chromium's camera, played from the file `camera`."""
    with _serving(name, BROWSER[name], "--slow", str(slow)) as (peer, url):
        seen = roundtrip.watch(url, peer.process.pid, camera, seconds)
    return roundtrip.figures(seen, slow, None)


@contextmanager
def _serving(name: str, contender: Contender, *options: str) -> Iterator[tuple[Peer, str]]:
    port = free_port()
    words = contender.command("--port", str(port), "--cache", str(Settings().cache_dir), *options)
    with running(name, words) as peer:
        peer.wait_for_page(f"http://127.0.0.1:{port}/", START_SECONDS)
        yield peer, f"http://127.0.0.1:{port}/"


def relay_row(name: str, viewers: int, url: str, seconds: float) -> RelayRow:
    """aiortc's relay of the RTSP camera before so many viewers."""
    port, codec = free_port(), RELAYS[name]
    contender = Contender("benchmarks.peers.aiortc_relay", (url, "--codec", codec))
    with running(name, contender.command("--port", str(port))) as peer:
        base = f"http://127.0.0.1:{port}"
        peer.wait_for_page(f"{base}/late", START_SECONDS)
        total = seconds + SETTLE_SECONDS
        with watchers.watching(f"{base}/whep/camera", viewers, total, codec) as counts:
            time.sleep(SETTLE_SECONDS / 2)
            before = usage(peer.process.pid)
            time.sleep(seconds)
            after = usage(peer.process.pid)
            with urllib.request.urlopen(f"{base}/late", timeout=30) as answer:
                late = json.load(answer)
            frames = counts()
    return RelayRow(
        viewers=viewers,
        cpu_cores_all=(after.cpu_seconds - before.cpu_seconds) / (after.at - before.at),
        viewer_fps_min=min(frames) / total,
        viewer_fps_mean=sum(frames) / len(frames) / total,
        late_at_end_ms=1e3 * late,
        rss_mb=after.rss / 1e6,
    )
