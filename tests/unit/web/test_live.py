"""Endless answers on a real socket: they start at once, skip what is late, and really end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import APIRouter, Response

from stream_server.flow.latest import Broadcast
from stream_server.frames import Analysis, FaceEvent, FaceEventKind, Frame, Picture, Verdict
from stream_server.streams import SourceSpec
from stream_server.web import WebLimits, events
from stream_server.web.live import LiveResponse
from tests.fakes.camera import FACE
from tests.fakes.house import House, add_demo, build, served, until


async def read_events(
    lines: AsyncIterator[str], count: int, only: str = ""
) -> list[tuple[str, dict[str, object]]]:
    """The next events; those of one name where others may come between them."""
    found: list[tuple[str, dict[str, object]]] = []
    name = ""
    async for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: ") and only in ("", name):
            found.append((name, json.loads(line.removeprefix("data: "))))
            if len(found) == count:
                return found
    raise AssertionError(f"ended after {found}")


@pytest.fixture
async def live(house: House) -> AsyncIterator[httpx.AsyncClient]:
    await add_demo(house)
    async with served(house.app) as url, httpx.AsyncClient(base_url=url, timeout=5) as client:
        yield client


async def test_all_streams_at_once_and_then_each_second(
    house: House, live: httpx.AsyncClient
) -> None:
    started = time.monotonic()
    async with live.stream("GET", "/api/events") as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        lines = response.aiter_lines()
        ((name, data),) = await read_events(lines, 1)
        assert time.monotonic() - started < 0.5
        assert name == "streams"
        assert [stream["name"] for stream in data["streams"]] == ["lobby"]
        await house.hub.add(SourceSpec("yard", "demo:"), persist=False)
        ((_, data),) = await read_events(lines, 1)
        assert 0.7 < time.monotonic() - started < 2
        assert [stream["name"] for stream in data["streams"]] == ["lobby", "yard"]


async def test_results_come_as_frames_are_analysed_and_end_with_the_stream(
    house: House, live: httpx.AsyncClient
) -> None:
    async with live.stream("GET", "/api/streams/lobby/events") as response:
        lines = response.aiter_lines()
        results = await read_events(lines, 3, only="result")
        numbers = [result["frame"] for _, result in results]
        assert numbers == sorted(set(numbers))
        name, first = results[0]
        assert name == "result"
        assert first["stream"] == "lobby"
        assert abs(first["time"] - time.time()) < 5
        assert 0 <= first["latency_ms"] < 5000
        assert (first["width"], first["height"]) == (64, 48)
        assert first["faces"][0]["box"] == [8.0, 4.0, 32.0, 40.0]
        await house.hub.remove("lobby")
        async with asyncio.timeout(2):
            async for _ in lines:
                pass
    assert (await live.get("/api/streams/lobby/events")).status_code == 404


async def test_silence_is_filled_with_comments() -> None:
    results: Broadcast[Analysis] = Broadcast()
    happened: Broadcast[FaceEvent] = Broadcast()
    with results.subscribe(1) as reading, happened.subscribe(9) as told:
        chunks = events.each_result(reading, told, ping_seconds=0.01)
        assert await anext(chunks) == events.PING
        assert await anext(chunks) == events.PING
        frame = Frame("a", 7, time.monotonic(), time.time(), None, Picture.from_bgr(_grey()))
        results.publish(Analysis(frame, (FACE,)))
        assert (await anext(chunks)).startswith(b"event: result\ndata: {")
        for track in (4, 5):
            happened.publish(_left(track))
        for track in (4, 5):
            chunk = await anext(chunks)
            assert chunk.startswith(b"event: face_left\ndata: {")
            assert json.loads(chunk.partition(b"data: ")[2])["track"] == track
        results.close()
        happened.close()
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


def _left(track: int) -> FaceEvent:
    return FaceEvent(
        FaceEventKind.LEFT, "a", track, 1e9, Verdict.WITH_MASK, None, 0.9, 3.0, Verdict.WITH_MASK
    )


def _grey() -> np.ndarray:
    return np.full((8, 8, 3), 99, np.uint8)


async def test_a_reader_that_leaves_is_forgotten(house: House, live: httpx.AsyncClient) -> None:
    results = house.hub.get("lobby").results
    async with live.stream("GET", "/api/streams/lobby/events"):
        await until(lambda: results.readers == 1)
    await until(lambda: results.readers == 0)


async def test_so_many_readers_of_events_and_no_more(tmp_path: Path) -> None:
    async with (
        build(tmp_path, WebLimits(event_readers=2)) as house,
        served(house.app) as url,
        httpx.AsyncClient(base_url=url, timeout=5) as client,
    ):
        await add_demo(house)
        async with client.stream("GET", "/api/events"):
            async with client.stream("GET", "/api/streams/lobby/events"):
                refused = await client.get("/api/events")
                assert refused.status_code == 429
                assert "limit of 2" in refused.json()["detail"]
            await asyncio.sleep(0.1)
            async with client.stream("GET", "/api/events") as response:
                assert response.status_code == 200


async def test_the_board_is_built_once_for_all_its_readers() -> None:
    now, built = [0.0], []

    class Listing:
        def model_dump_json(self) -> str:
            built.append(now[0])
            return "{}"

    board = events.Board(Listing, clock=lambda: now[0])  # type: ignore[arg-type]
    for at in (0.0, 0.1, 0.4, 0.6, 0.7, 1.2):
        now[0] = at
        board.json()
    assert built == [0.0, 0.6, 1.2]


async def jpegs_of(response: httpx.Response) -> AsyncIterator[bytes]:
    boundary = response.headers["content-type"].split("boundary=")[1].encode()
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        while body.count(b"--" + boundary) >= 2:
            _, part, rest = body.split(b"--" + boundary, 2)
            body = b"--" + boundary + rest
            head, _, jpeg = part.partition(b"\r\n\r\n")
            jpeg = jpeg.removesuffix(b"\r\n")
            assert b"Content-Type: image/jpeg" in head
            assert f"Content-Length: {len(jpeg)}".encode() in head
            yield jpeg


async def test_motion_jpeg(house: House, live: httpx.AsyncClient) -> None:
    stream = house.hub.get("lobby")
    async with live.stream("GET", "/streams/lobby.mjpg") as response:
        assert response.headers["content-type"].startswith("multipart/x-mixed-replace; boundary=")
        assert response.headers["cache-control"] == "no-store"
        shown = jpegs_of(response)
        jpegs = [await anext(shown) for _ in range(5)]
        assert stream.status().viewers == 1
    for jpeg in jpegs:
        assert jpeg.startswith(b"\xff\xd8")
        assert jpeg.endswith(b"\xff\xd9")
    assert len(set(jpegs)) > 2, "the picture must change"
    await until(lambda: stream.status().viewers == 0)


async def test_motion_jpeg_slowed_down(live: httpx.AsyncClient) -> None:
    async with live.stream("GET", "/streams/lobby.mjpg?fps=4") as response:
        shown = jpegs_of(response)
        # The last picture, and one that was new when the request came, are sent at once.
        await anext(shown)
        await anext(shown)
        started = time.monotonic()
        for _ in range(4):
            await anext(shown)
        assert 0.7 < time.monotonic() - started < 2.5


@pytest.mark.parametrize("fps", ["0", "31", "-1", "x", "nan", "inf", ""])
async def test_rates_that_cannot_be(live: httpx.AsyncClient, fps: str) -> None:
    response = await live.get(f"/streams/lobby.mjpg?fps={fps}")
    assert response.status_code == 422
    assert "'fps'" in response.json()["detail"]


async def test_viewers_are_limited(live: httpx.AsyncClient) -> None:
    async with live.stream("GET", "/streams/lobby.mjpg"), live.stream("GET", "/streams/lobby.mjpg"):
        refused = await live.get("/streams/lobby.mjpg")
        assert refused.status_code == 429
        assert "limit of 2 viewers" in refused.json()["detail"]


async def test_motion_jpeg_ends_with_the_stream(house: House, live: httpx.AsyncClient) -> None:
    async with live.stream("GET", "/streams/lobby.mjpg") as response:
        shown = jpegs_of(response)
        await anext(shown)
        await house.hub.remove("lobby")
        async with asyncio.timeout(2):
            async for _ in shown:
                pass


async def test_snapshot(house: House, live: httpx.AsyncClient) -> None:
    jpeg = await live.get("/streams/lobby.jpg")
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert jpeg.headers["cache-control"] == "no-store"
    assert jpeg.content.startswith(b"\xff\xd8")
    await house.hub.add(SourceSpec("later", "webrtc:"), persist=False)
    early = await live.get("/streams/later.jpg")
    assert early.status_code == 503
    assert early.headers["content-type"] == "application/problem+json"
    assert "'later'" in early.json()["detail"]
    for path in ("/streams/nobody.jpg", "/streams/nobody.mjpg"):
        assert (await live.get(path)).status_code == 404


async def test_closing_ends_every_endless_answer_at_once(
    house: House, live: httpx.AsyncClient
) -> None:
    paths = ("/api/events", "/api/streams/lobby/events", "/streams/lobby.mjpg")

    async def read(path: str) -> float:
        async with live.stream("GET", path) as response:
            async for _ in response.aiter_raw():
                pass
        return time.monotonic()

    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(read(path)) for path in paths]
        await asyncio.sleep(0.3)
        closed_at = time.monotonic()
        house.services.closing.set()
    for path, task in zip(paths, reading, strict=True):
        assert 0 <= task.result() - closed_at < 1, path


def flooding(pulled: list[int], ended: list[bool]) -> APIRouter:
    routes = APIRouter()

    @routes.get("/flood")
    async def flood() -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                pulled[0] += 1
                yield bytes(1 << 20)

        held = ExitStack()
        held.callback(lambda: ended.append(True))
        return LiveResponse(chunks(), "x/y", asyncio.Event(), held, send_seconds=0.5)

    return routes


async def test_a_client_that_does_not_read_holds_no_memory_and_is_let_go(tmp_path: Path) -> None:
    pulled, ended = [0], []
    async with (
        build(tmp_path, routers=[flooding(pulled, ended)]) as house,
        served(house.app) as url,
    ):
        port = int(url.rsplit(":", 1)[1])
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: pulled[0] > 0)
        await until(lambda: bool(ended), 3)
        assert pulled[0] < 30, "what nobody reads must not be made"
        writer.close()
