"""A browser's camera there and back: Chromium publishes to the page and plays what returns.

    maskstream bench roundtrip --seconds 20 [--clip PATH] --json OUT

The camera is a file whose pictures carry their number in their pixels. Both video elements are
watched by requestVideoFrameCallback: the added latency of a picture is the time between its being
shown by a preview of the camera and by the returned stream. Browser and service share the machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.clips import moving_portrait, pictures_of
from benchmarks.figures import percentile
from benchmarks.service import service
from stream_server.frames import Pixels

WIDTH, HEIGHT, RATE = 640, 480, 30
CAMERA_SECONDS = 8
BITS, BLOCK = 8, 24
SETTLE_SECONDS = 6.0
CONNECT_TRIES = 60

OWN_PREVIEW = """
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
"""
WATCH = """
(name) => {
  const seen = (window.seen ??= {});
  const video = name === 'local' ? window.preview
    : [...document.querySelectorAll('video')].find((v) => v.pc && v.videoWidth);
  if (!video) return false;
  const list = (seen[name] = []);
  const canvas = document.createElement('canvas');
  canvas.width = BITS * BLOCK; canvas.height = BLOCK;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const look = (now, meta) => {
    context.drawImage(video, 0, video.videoHeight - BLOCK, canvas.width, BLOCK,
      0, 0, canvas.width, BLOCK);
    let number = 0;
    for (let bit = 0; bit < BITS; bit += 1) {
      const pixel = context.getImageData(bit * BLOCK + BLOCK / 2, BLOCK / 2, 1, 1).data;
      number |= (pixel[1] > 128 ? 1 : 0) << bit;
    }
    list.push([meta.expectedDisplayTime, number]);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  return true;
}
""".replace("BITS", str(BITS)).replace("BLOCK", str(BLOCK))


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Latencies in milliseconds between a preview in the same browser and the returned picture."""

    seconds: float
    sent_fps: float
    returned_fps: float
    added_latency_p50_ms: float
    added_latency_p95_ms: float
    arrival_to_verdict_p95_ms: float
    pictures: int


def measure(seconds: float, clip: Path | None) -> RoundTrip:
    """Publish for `seconds` after settling."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskstream-bench-")))
        camera = write_numbered(folder / "camera.mjpeg", clip)
        running = stack.enter_context(service({}))
        seen = watch(f"{running.url}/", camera, seconds)
        status = running.get("/api/streams")["streams"][0]
    return figures(seen["local"], seen["remote"], status)


def write_numbered(target: Path, clip: Path | None) -> Path:
    """A Motion-JPEG file that Chromium plays in a loop as a 640x480 camera."""
    pictures = moving_portrait() if clip is None else pictures_of(clip)
    words = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24"]
    words += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(RATE), "-i", "-", "-c:v", "mjpeg", "-q:v", "3"]
    words += ["-pix_fmt", "yuvj420p", str(target)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for number, picture in enumerate(islice(pictures, CAMERA_SECONDS * RATE)):
            encoder.stdin.write(numbered(picture, number).tobytes())
    return target


def numbered(picture: Pixels, number: int) -> Pixels:
    """The middle of a 720p picture as 640x480, its number in blocks along the lower edge."""
    small = cv2.resize(picture[:, 160:1120], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    out = np.ascontiguousarray(small, np.uint8)
    for bit in range(BITS):
        shade = 235 if number >> bit & 1 else 20
        out[HEIGHT - BLOCK :, bit * BLOCK : (bit + 1) * BLOCK] = shade
    return out


def watch(url: str, camera: Path, seconds: float) -> dict[str, list[tuple[float, int]]]:
    """(display time in ms, number) of each picture that the two video elements showed."""
    from playwright.sync_api import sync_playwright

    flags = [
        *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
        *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
        f"--use-file-for-fake-video-capture={camera}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", headless=True, args=flags
        )
        try:
            page = browser.new_page()
            page.add_init_script(OWN_PREVIEW)
            page.goto(url)
            page.get_by_test_id("start-camera").click()
            for name in ("remote", "local"):
                # The page's content security policy forbids Playwright's own polling.
                for _ in range(CONNECT_TRIES):
                    if page.evaluate(f"({WATCH})('{name}')"):
                        break
                    page.wait_for_timeout(500)
                else:
                    raise RuntimeError(f"no {name} picture came up in the page")
            page.wait_for_timeout(SETTLE_SECONDS * 1e3)
            page.evaluate("() => { for (const list of Object.values(seen)) list.length = 0; }")
            page.wait_for_timeout(seconds * 1e3)
            found: dict[str, Any] = json.loads(page.evaluate("() => JSON.stringify(seen)"))
            return found
        finally:
            browser.close()


def figures(
    local: list[tuple[float, int]], remote: list[tuple[float, int]], status: dict[str, Any]
) -> RoundTrip:
    """Pair each returned picture with the latest showing of the same number before it."""
    latencies = []
    for at, number in remote:
        before = [shown for shown, known in local if known == number and shown <= at]
        if before and at - before[-1] < 1e3 * CAMERA_SECONDS / 2:
            latencies.append(at - before[-1])
    if not latencies:
        raise RuntimeError("no returned picture could be told: is the camera's number readable?")
    span = (remote[-1][0] - remote[0][0]) / 1e3
    new = sum(a[1] != b[1] for a, b in pairwise(remote))
    latency = status["capture_to_result_ms"]
    return RoundTrip(
        seconds=span,
        sent_fps=(len(local) - 1) / ((local[-1][0] - local[0][0]) / 1e3),
        returned_fps=new / span,
        added_latency_p50_ms=statistics.median(latencies),
        added_latency_p95_ms=percentile(latencies, 0.95),
        arrival_to_verdict_p95_ms=latency["p95"] if latency else float("nan"),
        pictures=len(latencies),
    )
