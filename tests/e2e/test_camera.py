"""The main job in a real Chromium: a fake camera made of faces goes in, and comes back boxed.

The peers that the page makes are recorded by an init script, so that the figures come from
`getStats` and the boxes from the data channel, whatever the page shows of them.
"""

import base64
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stream_server.detect.centerface import CenterFaceDetector
from stream_server.frames import FaceBox, Picture

WIDTH, HEIGHT, RATE = 640, 480, 30

RECORD_PEERS = """
window.peers = [];
window.results = [];
const Native = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Native {
  constructor(...given) { super(...given); window.peers.push(this); }
  createDataChannel(...given) {
    const channel = super.createDataChannel(...given);
    channel.addEventListener('message', (event) => {
      const told = JSON.parse(event.data);
      if (told.faces) window.results.push(told);
      if (window.results.length > 600) window.results.shift();
    });
    return channel;
  }
};
"""

INBOUND = """
async () => {
  for (const peer of window.peers) {
    if (peer.connectionState !== 'connected') continue;
    for (const stat of (await peer.getStats()).values())
      if (stat.type === 'inbound-rtp' && stat.kind === 'video')
        return {frames: stat.framesDecoded, dropped: stat.framesDropped, width: stat.frameWidth,
                height: stat.frameHeight, keyFrames: stat.keyFramesDecoded, at: stat.timestamp,
                freezes: stat.freezeCount, codec: stat.codecId};
  }
  return null;
}
"""

# The picture that is shown, and what the server said of the frames around it.
GRAB = """
async () => {
  const video = document.querySelector('[data-testid=live-video]');
  await new Promise((done) => video.requestVideoFrameCallback(done));
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  return {png: canvas.toDataURL('image/png').split(',')[1], results: window.results.slice(-10)};
}
"""


def camera_file(source: Path, target: Path) -> Path:
    """A Motion-JPEG file that Chromium plays as a 640x480 camera."""
    crop = f"scale={WIDTH}:{HEIGHT}:force_original_aspect_ratio=increase,crop={WIDTH}:{HEIGHT}"
    command = ["ffmpeg", "-v", "error", "-y", "-stream_loop", "20", "-t", "12", "-i", str(source)]
    command += ["-an", "-vf", f"{crop},fps={RATE}", "-c:v", "mjpeg", "-q:v", "3"]
    subprocess.run([*command, "-pix_fmt", "yuvj420p", str(target)], check=True)
    return target


def true_faces(camera: Path) -> list[FaceBox]:
    """The faces of the clip's first picture, found at full size and without the service."""
    capture = cv2.VideoCapture(str(camera))
    good, bgr = capture.read()
    capture.release()
    assert good
    return CenterFaceDetector(long_side=WIDTH).detect(Picture.from_bgr(bgr))


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes given by their corners."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def wait_for(page: Any, script: str, seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = page.evaluate(script)
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {script}"
        time.sleep(0.2)


def corners(face: dict[str, Any]) -> tuple[float, float, float, float]:
    left, top, width, height = face["box"]
    return left, top, left + width, top + height


def publish_from_page(page: Any, url: str) -> dict[str, Any]:
    """Press the button; returns the received stream's statistics once it runs at full size."""
    page.add_init_script(RECORD_PEERS)
    page.goto(url)
    page.get_by_test_id("start-camera").click()
    full_size = (
        f"async () => {{ const s = await ({INBOUND})(); return s?.width === {WIDTH} && s; }}"
    )
    wait_for(page, full_size)
    return wait_for(page, "() => window.results.some((r) => r.faces.length) && window.results")


def check_round_trip(page: Any, truth: list[FaceBox], verdict: str, artifact: Path) -> None:
    """Frames arrive, boxes are in the picture where the face is, the verdict is right."""
    rate, after = best_rate(page)
    grabbed = page.evaluate(GRAB)
    results = page.evaluate("() => window.results")
    page.screenshot(path=artifact)
    print(f"{artifact.stem}: {rate:.1f} fps at {after['width']}x{after['height']}")
    assert (after["width"], after["height"]) == (WIDTH, HEIGHT)
    assert rate >= 20, f"{rate:.1f} frames/s came back"

    labels = Counter(face["label"] for result in results for face in result["faces"])
    assert labels.most_common(1)[0][0] == verdict, labels
    assert labels[verdict] >= 0.9 * sum(labels.values()), labels

    largest = max(truth, key=lambda box: box.x1 - box.x0)
    known = (largest.x0, largest.y0, largest.x1, largest.y1)
    told = [corners(face) for result in results for face in result["faces"]]
    matching = [box for box in told if overlap(box, known) > 0.4]
    assert len(matching) >= 0.9 * len(results), "the face was not found where it is"
    check_drawn(grabbed, verdict)


def best_rate(page: Any, enough: float = 20, windows: int = 4) -> tuple[float, dict[str, Any]]:
    """Frames/s in 5 s that a busy machine did not spoil, and the statistics after them."""
    best = 0.0
    for _ in range(windows):
        before = page.evaluate(INBOUND)
        page.evaluate("() => { window.results = []; }")
        time.sleep(5)
        after = page.evaluate(INBOUND)
        rate = (after["frames"] - before["frames"]) / (after["at"] - before["at"]) * 1000
        best = max(best, rate)
        if best >= enough:
            break
    return best, after


def check_drawn(grabbed: dict[str, Any], verdict: str) -> None:
    """The pixels along the told box have the verdict's colour, those well inside have not."""
    png = np.frombuffer(base64.b64decode(grabbed["png"]), np.uint8)
    bgr = cv2.imdecode(png, cv2.IMREAD_COLOR).astype(int)
    blue, green, red = bgr[..., 0], bgr[..., 1], bgr[..., 2]
    coloured = {
        "with_mask": (green - red > 40) & (green - blue > 20),
        "without_mask": (red - green > 60) & (red - blue > 20),
    }[verdict]
    best = 0.0
    for result in grabbed["results"]:
        for face in result["faces"]:
            best = max(best, frame_share(coloured, corners(face)))
    assert best > 0.6, f"only {best:.0%} of the box is drawn in the picture"


def frame_share(mask: Any, box: tuple[float, ...]) -> float:
    """The share of a box's four sides near which `mask` is set."""
    near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    left, top, right, bottom = (round(edge) for edge in box)
    height, width = near.shape
    xs = np.arange(max(left, 0), min(right, width - 1))
    ys = np.arange(max(top, 0), min(bottom, height - 1))
    sides = [near[min(max(edge, 0), height - 1), xs] for edge in (top, bottom)]
    sides += [near[ys, min(max(edge, 0), width - 1)] for edge in (left, right)]
    return float(np.concatenate(sides).mean())


def test_a_bare_face_goes_in_and_comes_back_boxed(
    server: Any, chromium: Any, fake_camera: Path, artifacts: Path
) -> None:
    running = server()
    with chromium(camera=fake_camera) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        publish_from_page(page, running.url)
        truth = true_faces(fake_camera)
        check_round_trip(page, truth, "without_mask", artifacts / "camera-bare.png")
        page.get_by_test_id("stop-camera").click()
        wait_for(page, "() => window.peers.every((p) => p.connectionState === 'closed')")


@pytest.mark.parametrize(
    ("clip", "verdict"),
    [
        ("one_person_no_mask_720p.mp4", "without_mask"),
        ("one_person_masked_at_desk.mp4", "with_mask"),
    ],
)
def test_a_real_face_goes_in_and_comes_back_boxed(
    server: Any,
    chromium: Any,
    shared_data: Path,
    tmp_path: Path,
    artifacts: Path,
    clip: str,
    verdict: str,
) -> None:
    camera = camera_file(shared_data / "video" / clip, tmp_path / "camera.mjpeg")
    running = server()
    with chromium(camera=camera) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        publish_from_page(page, running.url)
        check_round_trip(page, true_faces(camera), verdict, artifacts / f"camera-{verdict}.png")
