"""Every error leaves as application/problem+json and tells no secrets."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import APIRouter
from starlette.responses import StreamingResponse

from stream_server import errors
from stream_server.telemetry.logging import configure
from stream_server.web.problems import problem, problem_of
from tests.fakes.house import House, build, in_process, served

SECRET = "hunter2"


def assert_problem(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["type"]
    assert "\n" not in body["detail"]
    for word in words:
        assert word in body["detail"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.StreamNotFound("no 'a'"), 404),
        (errors.StreamExists("'a' is there"), 409),
        (errors.StreamBusy("'a' is busy"), 409),
        (errors.InvalidStreamName("'A' is not a name"), 422),
        (errors.TooManyStreams("the limit is 4"), 429),
        (errors.StateNotSaved("streams.json cannot be written"), 507),
        (errors.SourceUnsupported("no such scheme"), 422),
        (errors.SourceUnreachable("refused"), 502),
        (errors.InvalidPicture("cut off"), 422),
        (errors.Overloaded("too much"), 503),
        (errors.NegotiationError("no video"), 422),
        (errors.MalformedBody("not SDP"), 400),
    ],
)
def test_each_error_has_its_status(error: errors.MaskstreamError, status: int) -> None:
    answer = problem_of(error)
    assert answer.status_code == status
    assert str(error).encode() in answer.body
    assert (answer.headers.get("retry-after") == "1") == (status == 503)


@pytest.mark.parametrize("error", [errors.SettingsError("x: y"), errors.ModelError("/secret/path")])
def test_what_no_client_caused_is_a_500_without_internals(error: errors.MaskstreamError) -> None:
    answer = problem_of(error)
    assert answer.status_code == 500
    assert str(error).encode() not in answer.body


def test_credentials_are_taken_out_of_the_detail() -> None:
    answer = problem(400, "Bad", f"rtsp://admin:{SECRET}@cam/1 is wrong", Retry_After="3")
    assert SECRET.encode() not in answer.body
    assert b"cam/1 is wrong" in answer.body
    assert answer.headers["retry-after"] == "3"


def test_a_title_of_its_own_has_a_type_of_its_own() -> None:
    assert b'"type":"about:blank"' in problem(404, "Not Found", "x").body
    assert b"maskstream:stream-busy" in problem(409, "Stream busy", "x").body


async def test_unknown_path(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/no/such%0a/path"), 404, "/no/such\\x0a/path", "/docs")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/streams", "GET, HEAD, POST"),
        ("POST", "/api/streams/a", "GET, HEAD, DELETE"),
        ("GET", "/api/predict", "POST"),
        ("DELETE", "/", "GET, HEAD"),
        ("TRACE", "/metrics", "GET, HEAD"),
        ("BREW", "/healthz", "GET, HEAD"),
    ],
)
async def test_wrong_method_names_the_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    assert_problem(response, 405, method, allow)
    assert response.headers["allow"] == allow


async def test_wrong_method_behind_a_prefix(house: House) -> None:
    async with in_process(house.app, root_path="/cams") as client:
        response = await client.put("/cams/api/streams")
        assert response.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ("'name' is missing", "'url' is missing")),
        ({"name": "a"}, ("'url' is missing",)),
        ({"name": 3, "url": "demo:"}, ("'name'", "string")),
        ({"name": "a", "url": None}, ("'url'", "string")),
        ({"name": "A b", "url": "demo:"}, ("'A b'", "lower-case")),
        ({"name": "a", "ulr": "demo:"}, ("'ulr'", "did you mean 'url'?")),
        ({"name": "a", "url": "demo:", "zoom": 1}, ("'zoom'", "known are name, url")),
        ({"name": "a", "url": ""}, ("'url'",)),
        ({"name": "a", "url": "x" * 3000}, ("'url'", "2048")),
        ([], ("JSON object",)),
        ("demo:", ("JSON object",)),
    ],
)
async def test_validation_names_the_field_and_the_mend(
    client: httpx.AsyncClient, body: object, words: tuple[str, ...]
) -> None:
    assert_problem(await client.post("/api/streams", json=body), 422, *words)


@pytest.mark.parametrize(
    "body",
    [
        {"name": f"rtsp://admin:{SECRET}@cam/1", "url": "demo:"},
        {"name": "a", "url": [f"rtsp://admin:{SECRET}@cam/1"]},
        {"name": "a", "url": f"rtsp://admin:{SECRET}@cam/1\t"},
        {"name": "a", "url": f"rtsp://admin:{SECRET}@[cam/1"},
        {"name": "a", "url": f"gopher://admin:{SECRET}@cam/1"},
        {"name": "a", "url": "demo:", f"rtsp://admin:{SECRET}@cam/1": 1},
        f"rtsp://admin:{SECRET}@cam/1",
    ],
)
async def test_no_answer_repeats_a_password(client: httpx.AsyncClient, body: object) -> None:
    response = await client.post("/api/streams", json=body)
    assert_problem(response, 422)
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (b"{", 422, "not JSON"),
        (b"", 422, "missing"),
        (b"\x80", 400, "cannot be read"),
        (b"[" * 100_000, 400, "cannot be read"),
        (b'{"name":"a","url":"demo:"}' + b" " * 300_000, 413, "262144"),
    ],
)
async def test_bodies_that_are_not_json(
    client: httpx.AsyncClient, content: bytes, status: int, word: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/api/streams", content=content, headers=headers)
    assert_problem(response, status, word)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
async def test_bodies_of_another_type(client: httpx.AsyncClient, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    response = await client.post(
        "/api/streams", content=b'{"name":"a","url":"demo:"}', headers=headers
    )
    assert_problem(response, 415, "application/json")


def crashing() -> APIRouter:
    routes = APIRouter()

    @routes.get("/crash")
    async def crash() -> None:
        raise RuntimeError(f"cannot open rtsp://admin:{SECRET}@cam/1")

    @routes.get("/crash-late")
    async def late() -> StreamingResponse:
        async def begin():
            yield b"some"
            raise RuntimeError(f"lost rtsp://admin:{SECRET}@cam/1")

        return StreamingResponse(begin())

    return routes


@pytest.fixture
def log_text(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the service would log, as it would log it."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    text = io.StringIO()
    configure("json", "info", text)
    yield text
    structlog.reset_defaults()


async def test_a_crash_is_a_500_that_tells_nothing(tmp_path: Path, log_text: io.StringIO) -> None:
    async with build(tmp_path, routers=[crashing()]) as house, in_process(house.app) as client:
        response = await client.get("/crash")
        assert_problem(response, 500)
        assert "cam" not in response.text
        assert (await client.get("/healthz")).status_code == 200
        assert 'route="/crash",status="500"' in (await client.get("/metrics")).text
    assert "request_crashed" in log_text.getvalue()
    assert "cannot open" in log_text.getvalue()
    assert SECRET not in log_text.getvalue()


async def test_a_crash_after_the_answer_began_cuts_the_connection(
    tmp_path: Path, log_text: io.StringIO
) -> None:
    async with (
        build(tmp_path, routers=[crashing()]) as house,
        served(house.app) as url,
        httpx.AsyncClient() as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{url}/crash-late")
        assert (await client.get(f"{url}/healthz")).status_code == 200
    assert "request_crashed" in log_text.getvalue()
    assert SECRET not in log_text.getvalue()


async def test_the_500s_of_unknown_methods_do_not_grow_the_metrics(
    house: House, client: httpx.AsyncClient
) -> None:
    for method in ("BREW", "STEW"):
        await client.request(method, f"/{method}")
    samples = house.metrics.render()[0].decode()
    assert 'method="other",route="none",status="404"' in samples
    assert "BREW" not in samples
