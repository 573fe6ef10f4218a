"""Server-sent events: the state of all streams each second, the faces of one as they are found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

from fastapi import APIRouter
from starlette.responses import Response

from stream_server.errors import TooManyStreams
from stream_server.flow.latest import Subscription
from stream_server.frames import Analysis
from stream_server.web.live import LiveResponse, Seats
from stream_server.web.models import FrameResult, StreamList, StreamName, StreamStatusOut
from stream_server.web.problems import documented
from stream_server.web.services import Services, WebLimits

EVENT_STREAM = "text/event-stream"
PERIOD_SECONDS = 1.0
PING_SECONDS = 15.0
PING = b": still here\n\n"


def event(name: str, data: str) -> bytes:
    """One server-sent event; `data` is one line of JSON."""
    return f"event: {name}\ndata: {data}\n\n".encode()


def router(services: Services, limits: WebLimits) -> APIRouter:
    """The two event streams."""
    routes = APIRouter(tags=["events"])
    board = Board(lambda: _list(services))
    seats = Seats(
        limits.event_readers,
        TooManyStreams(
            f"the limit of {limits.event_readers} readers of events is reached: close one"
        ),
    )

    def endless(chunks: AsyncIterator[bytes], held: ExitStack) -> Response:
        return LiveResponse(chunks, EVENT_STREAM, services.closing, held)

    @routes.get(
        "/api/events",
        summary="The state of all streams, at once and then each second",
        response_class=Response,
        responses={200: _documented_event("streams", "StreamList"), **documented(429)},
    )
    async def all_streams() -> Response:
        held = ExitStack()
        held.enter_context(seats.take())
        return endless(every_second(board), held)

    @routes.get(
        "/api/streams/{name}/events",
        summary="The faces of each analysed frame; the newest wins",
        response_class=Response,
        responses={
            200: _documented_event("result", "FrameResult"),
            **documented(404, 422, 429),
        },
    )
    async def results(name: StreamName) -> Response:
        stream = services.hub.get(name)
        held = ExitStack()
        held.enter_context(seats.take())
        return endless(each_result(held.enter_context(stream.results.subscribe(1))), held)

    return routes


class Board:
    """The list of streams as JSON, built at most twice a second however many read it."""

    def __init__(
        self, build: Callable[[], StreamList], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._build = build
        self._clock = clock
        self._built_at = float("-inf")
        self._json = ""

    def json(self) -> str:
        """One line of JSON, at most half a second old."""
        now = self._clock()
        if now - self._built_at >= PERIOD_SECONDS / 2:
            self._json = self._build().model_dump_json()
            self._built_at = now
        return self._json


async def every_second(board: Board, period: float = PERIOD_SECONDS) -> AsyncIterator[bytes]:
    """`streams` events without end, the first at once."""
    while True:
        yield event("streams", board.json())
        await asyncio.sleep(period)


async def each_result(
    results: Subscription[Analysis], ping_seconds: float = PING_SECONDS
) -> AsyncIterator[bytes]:
    """A `result` event per analysed frame until the stream is removed; comments in silence."""
    yield PING
    while True:
        try:
            async with asyncio.timeout(ping_seconds):
                analysis = await anext(results)
        except TimeoutError:
            yield PING
        except StopAsyncIteration:
            return
        else:
            yield event("result", FrameResult.from_analysis(analysis).model_dump_json())


def _list(services: Services) -> StreamList:
    streams = services.hub.streams()
    return StreamList(streams=[StreamStatusOut.from_status(stream.status()) for stream in streams])


def _documented_event(name: str, model: str) -> dict[str, object]:
    return {
        "description": f"Without end: events `{name}` whose data is a {model} as JSON.",
        "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
    }
