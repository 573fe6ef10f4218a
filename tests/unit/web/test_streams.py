"""/api/streams as a resource, and which URLs it takes."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from stream_server.errors import SourceUnsupported
from stream_server.web.sources import SourcePolicy
from tests.fakes.camera import FACE
from tests.fakes.house import House, add_demo, build, in_process

CAMERA = {"name": "yard", "url": "rtsp://admin:hunter2@cam.example:554/1"}


async def test_add_look_at_and_remove(client: httpx.AsyncClient) -> None:
    added = await client.post("/api/streams", json=CAMERA)
    assert added.status_code == 201
    assert added.headers["location"] == "/api/streams/yard"
    assert added.json()["source"] == "rtsp://***@cam.example:554/1"
    found = await client.get(added.headers["location"])
    assert found.json()["name"] == "yard"
    assert found.json()["kind"] == "rtsp"
    listed = await client.get("/api/streams")
    assert [stream["name"] for stream in listed.json()["streams"]] == ["yard"]
    gone = await client.delete("/api/streams/yard")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await client.get("/api/streams/yard")).status_code == 404
    assert (await client.delete("/api/streams/yard")).status_code == 404
    assert (await client.get("/api/streams")).json() == {"streams": []}


async def test_a_password_is_in_no_answer(client: httpx.AsyncClient) -> None:
    answers = [
        await client.post("/api/streams", json=CAMERA),
        await client.post("/api/streams", json=CAMERA),
        await client.get("/api/streams"),
        await client.get("/api/streams/yard"),
    ]
    assert [answer.status_code for answer in answers] == [201, 409, 200, 200]
    for answer in answers:
        assert "hunter2" not in answer.text


async def test_a_dead_cameras_reason_is_told_without_its_password(
    house: House, client: httpx.AsyncClient
) -> None:
    await client.post("/api/streams", json=CAMERA)
    status = (await client.get("/api/streams/yard")).json()
    assert status["state"] == "retrying"
    assert "refused" in status["detail"]
    assert "hunter2" not in status["detail"]
    assert status["retry_in_seconds"] > 0


async def test_live_status(house: House, client: httpx.AsyncClient) -> None:
    await add_demo(house)
    status = (await client.get("/api/streams/lobby")).json()
    assert status["state"] == "live"
    assert (status["width"], status["height"]) == (64, 48)
    assert status["frames_in"] > 0
    assert status["capture_to_result_ms"]["p50"] >= 0
    (face,) = status["faces"]
    assert face["box"] == [8.0, 4.0, 32.0, 40.0]
    assert face["label"] == "with_mask"
    assert face["probabilities"] == {"with_mask": 0.9, "without_mask": 0.06, "incorrect": 0.04}
    assert face["landmarks"] == [[16.0, 16.0], [32.0, 16.0]]
    assert face["confidence"] == FACE.confidence
    assert face["track"] == 1


async def test_privacy_is_asked_for_when_a_stream_is_added(client: httpx.AsyncClient) -> None:
    added = await client.post("/api/streams", json=CAMERA | {"privacy": "blur"})
    assert added.json()["privacy"] == "blur"
    view = added.json()["source_view"]
    assert not view["available"]
    assert "privacy: blur" in view["reason"]
    wrong = await client.post("/api/streams", json={**CAMERA, "name": "b", "privacy": "blurr"})
    assert wrong.status_code == 422
    assert "privacy" in wrong.json()["detail"]


async def test_limit_of_streams(client: httpx.AsyncClient) -> None:
    for number in range(4):
        body = {"name": f"s{number}", "url": "demo:"}
        assert (await client.post("/api/streams", json=body)).status_code == 201
    refused = await client.post("/api/streams", json={"name": "s5", "url": "demo:"})
    assert refused.status_code == 429
    assert "limit of 4 streams" in refused.json()["detail"]


async def test_added_streams_are_remembered(tmp_path: Path) -> None:
    async with build(tmp_path) as house, in_process(house.app) as client:
        await client.post("/api/streams", json=CAMERA)
    async with build(tmp_path) as house, in_process(house.app) as client:
        assert (await client.get("/api/streams/yard")).status_code == 200
        await client.delete("/api/streams/yard")
    async with build(tmp_path) as house, in_process(house.app) as client:
        assert (await client.get("/api/streams/yard")).status_code == 404


async def test_location_behind_a_prefix(house: House) -> None:
    async with in_process(house.app, root_path="/cams") as client:
        added = await client.post("/cams/api/streams", json=CAMERA)
        assert added.headers["location"] == "/cams/api/streams/yard"


@pytest.mark.parametrize("name", ["A", "-a", "a.b", "a" * 64, "%00", "é", "a%20b"])
async def test_bad_names_in_the_path(client: httpx.AsyncClient, name: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await client.request(method, f"/api/streams/{name}")
        assert answer.status_code == 422
        assert "lower-case" in answer.json()["detail"]


POLICY = SourcePolicy(("rtsp", "rtsps", "demo"))


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://cam/1",
        "RTSP://cam",
        "rtsps://u:p%40ss@cam.example:322/a?b=c#d",
        "rtsp://10.0.0.3:554/Streaming/Channels/101",
        "rtsp://[fe80::1]:554/x",
        "rtsp://user:p@ss@cam/1",
        "demo:",
        "webrtc:",
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    assert POLICY.check(url) == url


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("/etc/passwd", "no scheme"),
        ("cam.example", "no scheme"),
        ("file:///etc/passwd", "'file' is not taken"),
        ("http://cam/1", "'http'"),
        ("concat:/etc/passwd", "'concat'"),
        ("javascript:alert(1)", "'javascript'"),
        ("rtsp:cam/1", "no host"),
        ("rtsp://", "no host"),
        ("rtsp:///path", "no host"),
        ("rtsp://cam:99999/1", "cannot be read"),
        ("rtsp://cam:port/1", "cannot be read"),
        ("rtsp://cam:0/1", "port 0"),
        ("rtsp://[::1/1", "cannot be read"),
        ("rtsp://ca|m/1", "host name"),
        ("rtsp://cam/1\n", "control"),
        ("rtsp://cam/a b", "blanks"),
        ("rtsp://cam/\u202egpj", "control"),
        ("demo:faces", "just 'demo:'"),
        ("webrtc://a", "just 'webrtc:'"),
    ],
)
def test_urls_that_are_refused(url: str, word: str) -> None:
    with pytest.raises(SourceUnsupported, match=word):
        POLICY.check(url)


def test_files_only_inside_the_media_folder(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    clip = media / "a clip.mp4"
    clip.write_bytes(b"x")
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    (media / "link").symlink_to(secret)
    policy = SourcePolicy(("file",), media)
    assert policy.check(clip.as_uri()) == clip.as_uri()
    for url in (
        secret.as_uri(),
        (media / "link").as_uri(),
        "file:///../secret",
        f"file://{media}/../secret",
        f"file://{media}/%2e%2e/secret",
        media.as_uri(),
        (media / "missing").as_uri(),
        f"file://{media}/%00",
        f"file://{media}/%ff",
        f"file://{media}/{'x' * 1000}",
    ):
        with pytest.raises(SourceUnsupported, match="no file inside"):
            policy.check(url)
    for url in (
        clip.as_uri().replace("file://", "file://host"),
        f"{clip.as_uri()}?a",
        f"{clip.as_uri()}#a",
    ):
        with pytest.raises(SourceUnsupported, match="without host"):
            policy.check(url)
    with pytest.raises(SourceUnsupported, match="media_dir"):
        SourcePolicy(("file",)).check(clip.as_uri())
