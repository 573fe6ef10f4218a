"""The real app and the real hub over fake cameras, served in process and on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from stream_server.streams import SourceSpec, StreamHub, StreamOptions
from stream_server.telemetry.metrics import Metrics
from stream_server.web import Services, SourcePolicy, WebLimits, create_app
from stream_server.web.models import (
    DetectorOut,
    InfoOut,
    LimitsOut,
    ModelOut,
    RuntimeOut,
)
from tests.fakes.camera import FakeAnalyser, fake_sources

LABELS = ["with_mask", "without_mask", "incorrect"]
INFO = InfoOut(
    version="1.2.3",
    uptime_seconds=1.5,
    model=ModelOut(name="tiny", labels=LABELS, input_size=32, uncertain_below=0.6),
    runtime=RuntimeOut(name="fake", device="cpu", precision="fp32", reason="a test"),
    detector=DetectorOut(name="fake", reason="a test"),
    ice_servers=[],
    limits=LimitsOut(
        max_streams=4, max_viewers_per_stream=2, max_upload_bytes=1, max_upload_pixels=1
    ),
    source_schemes=["rtsp", "demo"],
)


@dataclass
class House:
    """What a test may reach into."""

    app: FastAPI
    hub: StreamHub
    analyser: FakeAnalyser
    metrics: Metrics
    services: Services
    reason: list[str | None] = field(default_factory=lambda: [None])


@asynccontextmanager
async def build(
    tmp_path: Path, limits: WebLimits | None = None, *, viewers: int = 2, **options: Any
) -> AsyncIterator[House]:
    """A running house with room for `viewers` of each stream; `options` go to create_app."""
    metrics, analyser = Metrics(), FakeAnalyser()
    reason: list[str | None] = [None]
    with ThreadPoolExecutor(2) as workers:
        hub = StreamHub(
            fake_sources(),
            analyser,  # type: ignore[arg-type]
            metrics,
            workers,
            StreamOptions(max_streams=4, max_viewers=viewers),
            store=tmp_path / "streams.json",
        )
        services = Services(
            hub=hub,
            metrics=metrics,
            analyse=analyser.analyse,
            info=lambda: INFO,
            not_ready=lambda: reason[0],
        )
        given: dict[str, Any] = {
            "limits": limits or WebLimits(max_upload_bytes=1 << 20, max_upload_pixels=1_000_000),
            "sources": SourcePolicy(("rtsp", "rtsps", "demo")),
            "page_folder": tmp_path / "no-page",
        }
        app = create_app(services, **(given | options))
        async with hub:
            yield House(app, hub, analyser, metrics, services, reason)


def in_process(app: FastAPI, root_path: str = "") -> httpx.AsyncClient:
    """A client without a socket. Errors that escape the app fail the test."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://maskstream")


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The app on a free port of the loopback; gives its URL."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False)
    )
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


async def add_demo(house: House, name: str = "lobby") -> None:
    """A live stream."""
    stream = await house.hub.add(SourceSpec(name, "demo:"), persist=False)
    await until(lambda: stream.status().state == "live" and bool(stream.status().faces))


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that nobody signals; fails the test when it does not come."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"did not come true within {seconds} s")
