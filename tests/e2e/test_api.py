"""The API of the installed service: real model, real sockets, real browser."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import skimage.data
from PIL import Image
from playwright.sync_api import Browser

from models.mask_painter import paint_mask
from tests import peers
from tests.media import clips

Server = Callable[..., peers.Service]
DEMO = ("--source", "demo=demo:")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[peers.Service]:
    """One service with the demo for all tests that leave nothing behind."""
    running = peers.start_service(tmp_path_factory.mktemp("api"), cache_dir, *DEMO, env={})
    peers.wait_until(lambda: running.get("/api/streams/demo")["faces"], 60, "faces in the demo")
    yield running
    running.stop()


@pytest.fixture
def client(service: peers.Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as made:
        yield made


def portrait(*, masked: bool) -> bytes:
    """The JPEG of a known face, whose middle is clips.CENTRE."""
    bgr = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    if masked:
        rng = np.random.default_rng(3)
        bgr = paint_mask(bgr, clips.LANDMARKS, wearing="correct", style="surgical", rng=rng)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


# --- predict --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("masked", "label"), [(False, "without_mask"), (True, "with_mask")])
def test_the_face_of_a_picture_is_found_and_judged(
    client: httpx.Client, masked: bool, label: str
) -> None:
    jpeg = portrait(masked=masked)
    raw = client.post("/api/predict", content=jpeg, headers={"content-type": "image/jpeg"})
    assert raw.status_code == 200, raw.text
    found = raw.json()
    assert (found["width"], found["height"]) == (512, 512)
    best = found["faces"][0]
    x, y, width, height = best["box"]
    assert x < clips.CENTRE[0] < x + width
    assert y < clips.CENTRE[1] < y + height
    assert 60 < width < 200
    assert best["label"] == label
    assert abs(sum(best["probabilities"].values()) - 1) < 0.01
    assert found["model"] == client.get("/api/info").json()["model"]
    form = client.post("/api/predict", files={"image": ("me.jpg", jpeg)}).json()
    assert form["faces"][0]["label"] == label


def test_the_annotated_picture_has_its_box_where_the_face_is(client: httpx.Client) -> None:
    jpeg = portrait(masked=False)
    headers = {"content-type": "image/jpeg"}
    x, y, width, height = client.post("/api/predict", content=jpeg, headers=headers).json()[
        "faces"
    ][0]["box"]
    answer = client.post("/api/predict", content=jpeg, headers=headers | {"accept": "image/jpeg"})
    assert answer.headers["content-type"] == "image/jpeg"
    before = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    after = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
    assert after.shape == before.shape
    changed = np.abs(after - before).max(axis=2) > 60
    rows, columns = slice(round(y), round(y + height)), slice(round(x), round(x + width))
    assert changed[rows, round(x) - 3 : round(x) + 6].any(axis=1).mean() > 0.9, "no left edge"
    assert changed[round(y + height) - 6 : round(y + height) + 3, columns].any(axis=0).mean() > 0.9
    inner = changed[rows, columns][20:-20, 20:-20]
    assert inner.mean() < 0.02, "the face itself must stay to be seen"
    assert changed[400:, 300:].mean() == 0, "nothing is drawn far from the face"


# --- live -----------------------------------------------------------------------------------------


def events(response: httpx.Response, name: str, count: int) -> list[dict[str, object]]:
    """The data of the next events of this name; what happens to faces comes between them."""
    found, kind = [], ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        if line.startswith("data: ") and kind == name:
            found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == count:
                return found
    raise AssertionError(f"ended after {len(found)} events")


def test_events_of_all_streams_and_of_one(client: httpx.Client) -> None:
    with client.stream("GET", "/api/events") as response:
        first, second = events(response, "streams", 2)
    assert first["streams"][0]["name"] == "demo"
    assert second["streams"][0]["frames_in"] > first["streams"][0]["frames_in"]
    with client.stream("GET", "/api/streams/demo/events") as response:
        results = events(response, "result", 5)
    numbers = [result["frame"] for result in results]
    assert numbers == sorted(set(numbers))
    assert abs(results[-1]["time"] - time.time()) < 5
    assert any(result["faces"] for result in results)


def test_motion_jpeg_and_snapshot_show_the_annotated_stream(client: httpx.Client) -> None:
    status = client.get("/api/streams/demo").json()
    body = b""
    with client.stream("GET", "/streams/demo.mjpg?fps=10") as response:
        boundary = response.headers["content-type"].split("boundary=")[1].encode()
        for chunk in response.iter_raw():
            body += chunk
            if body.count(boundary) > 4:
                break
    jpegs = [part.split(b"\r\n\r\n", 1)[1] for part in body.split(b"--" + boundary)[1:4]]
    for jpeg in [*jpegs, client.get("/streams/demo.jpg").content]:
        assert Image.open(io.BytesIO(jpeg)).size == (status["width"], status["height"])


def test_a_stop_ends_endless_answers_in_time(server: Server) -> None:
    service = server(*DEMO)
    peers.wait_until(lambda: service.get("/api/streams/demo")["faces"], 60, "faces in the demo")
    ended: list[str] = []
    reading = threading.Barrier(4)

    def read(path: str) -> None:
        with httpx.stream("GET", service.url + path, timeout=20) as response:
            chunks = response.iter_raw()
            next(chunks)
            reading.wait(20)
            for _ in chunks:
                pass
        ended.append(path)

    paths = ("/api/events", "/api/streams/demo/events", "/streams/demo.mjpg")
    readers = [threading.Thread(target=read, args=(path,)) for path in paths]
    for reader in readers:
        reader.start()
    reading.wait(20)
    assert service.stop() < peers.STOP_SECONDS
    for reader in readers:
        reader.join(5)
    assert sorted(ended) == sorted(paths), "each answer must end properly, not be cut"


# --- streams --------------------------------------------------------------------------------------


def test_added_streams_outlast_a_restart_and_keep_their_password_to_themselves(
    server: Server,
) -> None:
    first = server()
    body = {"name": "yard", "url": "rtsp://admin:hunter2@127.0.0.1:9/1"}
    added = httpx.post(f"{first.url}/api/streams", json=body)
    assert added.status_code == 201
    first.stop()
    second = server()
    status = peers.wait_until(
        lambda: (s := second.get("/api/streams/yard"))["state"] == "retrying" and s, 20, "retrying"
    )
    assert status["source"] == "rtsp://***@127.0.0.1:9/1"
    assert status["detail"]
    for text in (second.text("/api/streams"), second.text("/metrics"), second.log.read_text()):
        assert "hunter2" not in text
    assert second.ask("DELETE", "/api/streams/yard") == 204
    second.stop()
    assert server().get("/api/streams") == {"streams": []}


def test_files_of_the_media_folder_and_no_others(
    server: Server, tmp_path: Path, face_clip: Path
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "clip.mp4").write_bytes(face_clip.read_bytes())
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(face_clip.read_bytes())
    allowed = {
        "MASKSTREAM__API__SOURCE_SCHEMES": '["file"]',
        "MASKSTREAM__API__MEDIA_DIR": str(media),
    }
    service = server(env=allowed)
    assert service.get("/api/info")["source_schemes"] == ["file"]
    for url in (outside.as_uri(), f"file://{media}/../outside.mp4", "demo:", "rtsp://127.0.0.1/1"):
        assert service.ask("POST", "/api/streams", {"name": "no", "url": url}) == 422
    inside = {"name": "clip", "url": (media / "clip.mp4").as_uri()}
    assert service.ask("POST", "/api/streams", inside) == 201
    peers.wait_until(lambda: service.get("/api/streams/clip")["faces"], 30, "a face of the clip")


# --- a browser ------------------------------------------------------------------------------------


ATTACK = """
async (service) => {
  const body = JSON.stringify({name: 'evil', url: 'demo:'});
  const json = {'Content-Type': 'application/json'};
  const tries = [
    fetch(service + '/api/streams', {method: 'POST', mode: 'no-cors', body}),
    fetch(service + '/api/streams', {method: 'POST', headers: json, body}),
    fetch(service + '/api/streams/demo', {method: 'DELETE'}),
    fetch(service + '/whip/evil', {method: 'POST', mode: 'no-cors', body: 'v=0'}),
    fetch(service + '/api/streams').then((answer) => answer.text()),
  ];
  return (await Promise.allSettled(tries)).map((each) => each.status);
}
"""


class _Anywhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title>")

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_another_sites_page_can_neither_change_nor_read_anything(
    service: peers.Service, chromium: Callable[..., AbstractContextManager[Browser]]
) -> None:
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), _Anywhere)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.goto(f"http://localhost:{elsewhere.server_port}/")
            outcome = page.evaluate(ATTACK, service.url)
    finally:
        elsewhere.shutdown()
        elsewhere.server_close()
    # The first and fourth were sent, for a page may send what it cannot read; they were refused.
    assert outcome == ["fulfilled", "rejected", "rejected", "fulfilled", "rejected"]
    assert [stream["name"] for stream in service.get("/api/streams")["streams"]] == ["demo"]
    samples = service.text("/metrics")
    assert 'method="POST",route="none",status="403"' in samples


def test_the_page_and_the_docs_keep_to_their_own_policy(
    service: peers.Service, chromium: Callable[..., AbstractContextManager[Browser]]
) -> None:
    said: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(service.url)
        page.get_by_test_id("tile-demo").wait_for(timeout=20_000)
        page.goto(f"{service.url}/docs")
        assert page.get_by_role("heading", name="POST /api/predict").is_visible()
    refused = [line for line in said if "Content Security Policy" in line or "Error" in line]
    assert not refused, refused
