"""The page, the docs, and what the service says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.fakes.house import INFO, House, add_demo, build, in_process


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>maskstream</title>")
    (folder / "assets" / "index-abc123.js").write_text("console.log(1)")
    (folder / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "secret").write_text("secret")
    return folder


async def test_the_page(tmp_path: Path, page: Path) -> None:
    async with build(tmp_path, page_folder=page) as house, in_process(house.app) as client:
        index = await client.get("/")
        assert index.headers["content-type"].startswith("text/html")
        assert index.headers["cache-control"] == "no-cache"
        again = await client.get("/", headers={"if-none-match": index.headers["etag"]})
        assert again.status_code == 304
        script = await client.get("/assets/index-abc123.js")
        assert "javascript" in script.headers["content-type"]
        assert "immutable" in script.headers["cache-control"]
        icon = await client.get("/favicon.svg")
        assert icon.headers["content-type"] == "image/svg+xml"
        missing = await client.get("/assets/other.js")
        assert missing.status_code == 404
        assert missing.headers["content-type"] == "application/problem+json"
        assert "immutable" not in missing.headers.get("cache-control", "")


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../secret",
        "/assets/%2e%2e/%2e%2e/secret",
        "/assets/..%2f..%2fsecret",
        "/assets//etc/passwd",
        "/assets/%00",
        "/assets/",
        "/assets",
        "/../secret",
    ],
)
async def test_no_way_out_of_the_folder(tmp_path: Path, page: Path, path: str) -> None:
    async with build(tmp_path, page_folder=page) as house, in_process(house.app) as client:
        response = await client.get(path)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"


async def test_without_a_page_the_rest_works_and_says_what_to_run(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/")
    assert response.status_code == 503
    assert "make install" in response.text
    assert (await client.get("/api/info")).status_code == 200


async def test_info(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/info")).json() == INFO.model_dump()


async def test_alive_and_ready(house: House, client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    house.reason[0] = "the model is loading"
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "not ready", "reason": "the model is loading"}
    assert (await client.get("/healthz")).status_code == 200


async def test_metrics_count_requests_by_route(house: House, client: httpx.AsyncClient) -> None:
    await add_demo(house)
    for name in ("lobby", "nobody", "somebody"):
        await client.get(f"/api/streams/{name}")
    await client.get("/made/up/path")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    counted = re.findall(r"maskstream_http_requests_total\{(.*)\} (.*)", response.text)
    route = 'method="GET",route="/api/streams/{name}",'
    assert (f'{route}status="200"', "1.0") in counted
    assert (f'{route}status="404"', "2.0") in counted
    assert ('method="GET",route="none",status="404"', "1.0") in counted
    assert "made" not in response.text


async def test_docs_need_no_script_and_no_network(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")
    assert "POST /api/streams" in response.text
    assert "application/problem+json" in response.text
    assert "<script" not in response.text
    assert "//" not in re.sub(r"rtsp://|https?://www", "", response.text).replace("://", "")
    style = re.search(r"<style>(.*?)</style>", response.text, re.DOTALL)
    assert style is not None
    assert "style-src 'sha256-" in response.headers["content-security-policy"]


async def test_every_operation_documents_its_problems(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    assert "Problem" in schema["components"]["schemas"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            for status, answer in operation["responses"].items():
                if status >= "400" and path != "/readyz":
                    assert list(answer["content"]) == ["application/problem+json"], (method, path)
