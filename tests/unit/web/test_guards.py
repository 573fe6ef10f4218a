"""Origin, headers, HEAD, CORS, sizes: what every request passes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.fakes.house import House, add_demo, build, in_process, served, until

BODY = {"name": "yard", "url": "rtsp://cam.example/1"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"origin": "http://maskstream"}, 201),
        ({"origin": "HTTP://MaskStream"}, 201),
        ({"origin": "https://maskstream"}, 201),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://maskstream:81"}, 403),
        ({"origin": "http://maskstream.evil.example"}, 403),
        ({"origin": "ftp://maskstream"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://proxy.example", "sec-fetch-site": "same-origin"}, 201),
        ({"origin": "http://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://evil.maskstream", "sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_foreign_pages_change_nothing(
    house: House, client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    response = await client.post("/api/streams", json=BODY, headers=headers)
    assert response.status_code == status
    assert len(house.hub.streams()) == (status == 201)
    if status == 403:
        assert response.headers["content-type"] == "application/problem+json"
        assert "cors_origins" in response.json()["detail"]


async def test_foreign_pages_may_not_delete_or_upload_either(
    house: House, client: httpx.AsyncClient
) -> None:
    await add_demo(house)
    evil = {"origin": "http://evil.example"}
    assert (await client.delete("/api/streams/lobby", headers=evil)).status_code == 403
    assert (await client.post("/api/predict", headers=evil)).status_code == 403
    assert (await client.get("/api/streams", headers=evil)).status_code == 200


async def test_no_cors_unless_asked_for(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/streams", headers={"origin": "http://a.example"})
    assert "access-control-allow-origin" not in response.headers


async def test_cors_for_the_origins_that_were_named(tmp_path: Path) -> None:
    friend, evil = {"origin": "https://a.example"}, {"origin": "https://b.example"}
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "if-match"}
    async with (
        build(tmp_path, cors_origins=["https://a.example"]) as house,
        in_process(house.app) as client,
    ):
        added = await client.post("/api/streams", json=BODY, headers=friend)
        assert added.status_code == 201
        assert added.headers["access-control-allow-origin"] == "https://a.example"
        for name in ("Location", "ETag", "Link"):
            assert name in added.headers["access-control-expose-headers"]
        preflight = await client.options("/api/streams", headers=friend | ask)
        assert preflight.status_code == 200
        assert "if-match" in preflight.headers["access-control-allow-headers"].lower()
        refused = await client.options("/api/streams", headers=evil | ask)
        assert refused.status_code == 403
        read = await client.get("/api/streams", headers=evil)
        assert "access-control-allow-origin" not in read.headers


async def test_every_answer_has_the_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/api/streams", "/nowhere", "/", "/metrics", "/healthz"):
        headers = (await client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "camera=(self)" in headers["permissions-policy"]


async def test_head_is_get_without_the_body(house: House) -> None:
    await add_demo(house)
    async with served(house.app) as url, httpx.AsyncClient(base_url=url, timeout=5) as client:
        for path in ("/api/info", "/healthz", "/metrics", "/streams/lobby.jpg", "/docs"):
            head, get = await client.head(path), await client.get(path)
            assert head.status_code == get.status_code == 200
            assert head.content == b""
            assert head.headers["content-type"] == get.headers["content-type"]
        for path in ("/api/events", "/api/streams/lobby/events", "/streams/lobby.mjpg"):
            head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
        assert house.hub.get("lobby").results.readers == 0
        assert house.hub.get("lobby").status().viewers == 0
        missing = await client.head("/api/streams/nobody")
        assert missing.status_code == 404
        samples = (await client.get("/metrics")).text
        assert 'method="HEAD",route="/api/info",status="200"' in samples


async def test_a_body_without_a_length_is_answered_at_the_limit(house: House) -> None:
    answered = asyncio.Event()

    async def endless():
        for _ in range(8):
            yield b" " * 65536
        async with asyncio.timeout(5):
            await answered.wait()
        yield b""

    async with served(house.app) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        kind = {"content-type": "application/json"}
        send = client.post("/api/streams", content=endless(), headers=kind)
        async with asyncio.TaskGroup() as group:
            posting = group.create_task(send)
            refused = b'route="/api/streams",status="413"'
            await until(lambda: refused in house.metrics.render()[0])
            answered.set()
        assert posting.result().status_code == 413


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "9" * 30])
async def test_lengths_that_are_no_length(client: httpx.AsyncClient, length: str) -> None:
    headers = {"content-type": "application/json", "content-length": length}
    response = await client.post("/api/streams", content=b"{}", headers=headers)
    assert response.status_code == 413
