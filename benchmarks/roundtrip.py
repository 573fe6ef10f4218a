"""A browser's camera there and back: Chromium publishes to the page and plays what returns.

    maskstream bench roundtrip --seconds 20 [--slow 10] [--peers] [--clip PATH] --json OUT

The camera is a file whose pictures carry their number in their pixels. Both video elements are
watched by requestVideoFrameCallback: the added latency of a picture is the time between its being
shown by a preview of the camera and by the returned stream. Browser and service share the machine.
`--slow` makes detector and classifier so many times slower, in the service and in the peers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from benchmarks.clips import moving_portrait, pictures_of
from benchmarks.errors import MeasureError
from benchmarks.figures import percentile, slope_per_minute
from benchmarks.processes import Usage, watched
from benchmarks.service import service
from stream_server.frames import Pixels

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Page

WIDTH, HEIGHT, RATE = 640, 480, 30
CHROMIUM = Path("/usr/bin/chromium")
BITS, BLOCK = 14, 20
SETTLE_SECONDS = 6.0
CONNECT_SECONDS = 30.0
END_SECONDS = 2.0
PREVIEW_GAP = 5
LONGEST_SECONDS = 2**BITS / RATE - SETTLE_SECONDS - CONNECT_SECONDS
"""A number must not come again while a picture with it may still be on its way."""

Seen = list[tuple[float, int]]
"""(display time in ms, number in its pixels, -1 if unreadable) of each picture that was shown."""

HOOKS = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await ask(wanted);
  const video = (window.preview = document.createElement('video'));
  Object.assign(video, {muted: true, srcObject: stream});
  video.style.cssText = 'position:fixed;left:0;top:0;width:64px;z-index:9';
  document.body.append(video);
  await video.play();
  return stream;
};
window.returned = new Set();
window.connections = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...settings) {
    super(...settings);
    window.connections.push(this);
    this.addEventListener('track', ({track}) => window.returned.add(track.id));
  }
};
"""
WATCH = """
(name) => {
  const seen = (window.seen ??= {});
  const comesBack = (v) => v.srcObject?.getVideoTracks().some((t) => window.returned.has(t.id));
  const video = name === 'local' ? window.preview
    : [...document.querySelectorAll('video')].filter((v) => v.videoWidth && comesBack(v))
        .sort((one, other) => other.clientWidth - one.clientWidth)[0];
  if (!video) return false;
  const list = (seen[name] = []);
  const canvas = document.createElement('canvas');
  canvas.width = 2 * BITS * BLOCK; canvas.height = BLOCK;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const isBright = (block) =>
    context.getImageData(block * BLOCK + BLOCK / 2, BLOCK / 2, 1, 1).data[1] > 128;
  const look = (now, meta) => {
    // Sender and service may make the picture smaller.
    const scale = video.videoHeight / HEIGHT;
    context.drawImage(video, 0, video.videoHeight - scale * BLOCK, scale * canvas.width,
      scale * BLOCK, 0, 0, canvas.width, BLOCK);
    let number = 0;
    for (let bit = 0; bit < BITS; bit += 1) {
      if (isBright(bit) === isBright(BITS + bit)) number = NaN;
      number += isBright(bit) ? 2 ** bit : 0;
    }
    list.push([meta.expectedDisplayTime, Number.isNaN(number) ? -1 : number]);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  return true;
}
"""
DECODED = """
async () => {
  let frames = 0;
  for (const connection of window.connections)
    for (const report of (await connection.getStats()).values())
      if (report.type === 'inbound-rtp' && report.kind === 'video')
        frames += report.framesDecoded ?? 0;
  return [performance.now(), frames];
}
"""
for name, value in {"BITS": BITS, "BLOCK": BLOCK, "HEIGHT": HEIGHT}.items():
    WATCH = WATCH.replace(name, str(value))


@dataclass(frozen=True, slots=True)
class Watched:
    """What a browser saw of its camera's preview (`local`) and of what returned (`remote`).

    `memory` is that of the server's process tree.
    """

    local: Seen
    remote: Seen
    decoded_fps: float
    memory: Sequence[Usage]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Latencies in milliseconds between a preview in the same browser and the returned picture.

    `added_latency_at_end_ms` is the median of the last two seconds, `latency_growth_ms_per_minute`
    the slope over the time measured, `memory_growth_mb_per_minute` that of the whole process
    tree's memory after the first 30 % of it. `decoded_fps` is what the browser received and
    decoded, by its own statistics; `returned_fps` the new pictures that it also found the time to
    show.
    """

    seconds: float
    slow: float
    sent_fps: float
    decoded_fps: float
    returned_fps: float
    added_latency_p50_ms: float
    added_latency_p95_ms: float
    added_latency_at_end_ms: float
    latency_growth_ms_per_minute: float | None
    memory_growth_mb_per_minute: float | None
    rss_mb: float
    arrival_to_verdict_p95_ms: float | None
    pictures: int


def measure(seconds: float, clip: Path | None, slow: float = 1.0) -> RoundTrip:
    """Our own service: publish for `seconds` after settling."""
    with numbered_camera(seconds, clip) as camera:
        return measure_at(camera, seconds, slow)


def measure_at(camera: Path, seconds: float, slow: float) -> RoundTrip:
    """The same with a camera's file from `numbered_camera`."""
    with service({}, slow=slow) as running:
        seen = watch(f"{running.url}/", running.process.pid, camera, seconds)
        status = running.get("/api/streams")["streams"][0]
    latency = status["capture_to_result_ms"]
    return figures(seen, slow, latency["p95"] if latency else None)


@contextmanager
def numbered_camera(seconds: float, clip: Path | None) -> Iterator[Path]:
    """A camera's file that is long enough to be watched for `seconds` without coming again."""
    with tempfile.TemporaryDirectory(prefix="maskstream-bench-") as folder:
        whole = seconds + SETTLE_SECONDS + CONNECT_SECONDS
        yield write_numbered(Path(folder) / "camera.mjpeg", clip, round(whole * RATE))


def write_numbered(target: Path, clip: Path | None, frames: int) -> Path:
    """A Motion-JPEG file of so many pictures that Chromium plays as a 640x480 camera."""
    shown = moving_portrait() if clip is None else islice(pictures_of(clip), 8 * RATE)
    small = [shrunk(picture) for picture in shown]
    words = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24"]
    words += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(RATE), "-i", "-", "-c:v", "mjpeg", "-q:v", "3"]
    words += ["-pix_fmt", "yuvj420p", str(target)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for number, picture in enumerate(islice(cycle(small), frames)):
            encoder.stdin.write(numbered(picture, number).tobytes())
    return target


def shrunk(picture: Pixels) -> Pixels:
    """The middle of a 720p picture as 640x480."""
    small = cv2.resize(picture[:, 160:1120], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def numbered(picture: Pixels, number: int) -> Pixels:
    """A copy of a 640x480 picture with a number in blocks along its lower edge.

    The bits are followed by their opposites, so that a misread number is told (as -1).
    """
    out = picture.copy()
    for bit in range(2 * BITS):
        shade = 235 if (number >> bit % BITS & 1) ^ (bit >= BITS) else 20
        out[HEIGHT - BLOCK :, bit * BLOCK : (bit + 1) * BLOCK] = shade
    return out


def watch(url: str, pid: int, camera: Path, seconds: float) -> Watched:
    """What preview and page of the server with process `pid` show for `seconds`, once settled.

    Presses the page's start button if there is one. Raises MeasureError when no picture returns.
    """
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        raise MeasureError(
            f"no browser at {CHROMIUM}: install chromium (scripts/system-packages tells all)"
        )
    flags = [
        *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
        *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
        f"--use-file-for-fake-video-capture={camera}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        try:
            page = browser.new_page()
            page.add_init_script(HOOKS)
            page.goto(url)
            if "start-camera" in page.content():
                page.get_by_test_id("start-camera").click()
            frame = _playing(page)
            page.wait_for_timeout(SETTLE_SECONDS * 1e3)
            # The page may have laid itself out anew since the first picture came.
            if not frame.evaluate(f"({WATCH})('remote')"):
                raise MeasureError("the picture that came back is gone from the page")
            start, before = frame.evaluate(DECODED)
            with watched(pid) as memory:
                page.wait_for_timeout(seconds * 1e3)
            end, after = frame.evaluate(DECODED)
            found: dict[str, Any] = json.loads(frame.evaluate("() => JSON.stringify(seen)"))
        finally:
            browser.close()
    decoded_fps = (after - before) / ((end - start) / 1e3)
    return Watched(found["local"], found["remote"], decoded_fps, memory)


def _playing(page: Page) -> Frame:
    """The frame of the page in which camera and returned picture play, both being watched.

    The camera is watched from its first picture on: what returns may be many seconds old.
    """
    camera: Frame | None = None
    # The page's content security policy forbids Playwright's own polling.
    for _ in range(int(4 * CONNECT_SECONDS)):
        if camera is None:
            camera = next((f for f in page.frames if f.evaluate(f"({WATCH})('local')")), None)
        elif camera.evaluate(f"({WATCH})('remote')"):
            return camera
        page.wait_for_timeout(250)
    raise MeasureError("no picture came back to the page")


def latencies(local: Seen, remote: Seen) -> list[tuple[float, float]]:
    """(when a returned picture was shown, how late), ms, by the nearest showing of its number.

    A busy browser's preview leaves pictures out: one of the next few then tells when the number
    would have been shown. It may also show a picture after it has come back: then the latency is
    below 0, and counts as that.
    """
    shown: dict[int, list[float]] = {}
    for at, number in local:
        shown.setdefault(number, []).append(at)
    found = []
    for at, number in remote:
        for later in range(PREVIEW_GAP + 1 if number >= 0 else 0):
            if times := shown.get(number + later):
                nearest = min(times, key=lambda time: abs(at - time))
                found.append((at, at - nearest + later * 1e3 / RATE))
                break
    return found


def figures(seen: Watched, slow: float, verdict_p95_ms: float | None) -> RoundTrip:
    """The figures of one watched camera; raises MeasureError when no picture can be told."""
    local, remote, memory = seen.local, seen.remote, seen.memory
    timed = latencies(local, remote)
    if len(timed) < 2:
        raise MeasureError("no returned picture could be told: is the camera's number readable?")
    late = [latency for _, latency in timed]
    end = timed[-1][0]
    span = (end - timed[0][0]) / 1e3
    return RoundTrip(
        seconds=span,
        slow=slow,
        sent_fps=(len(local) - 1) / ((local[-1][0] - local[0][0]) / 1e3),
        decoded_fps=seen.decoded_fps,
        returned_fps=sum(a[1] != b[1] for a, b in pairwise(remote)) / span,
        added_latency_p50_ms=statistics.median(late),
        added_latency_p95_ms=percentile(late, 0.95),
        added_latency_at_end_ms=statistics.median(
            latency for at, latency in timed if at > end - 1e3 * END_SECONDS
        ),
        latency_growth_ms_per_minute=slope_per_minute([(at / 1e3, ms) for at, ms in timed], 0.0),
        memory_growth_mb_per_minute=slope_per_minute([(u.at, u.rss / 1e6) for u in memory]),
        rss_mb=memory[-1].rss / 1e6,
        arrival_to_verdict_p95_ms=verdict_p95_ms,
        pictures=len(timed),
    )
