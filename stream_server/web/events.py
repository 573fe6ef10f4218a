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
from stream_server.frames import Analysis, FaceEvent
from stream_server.web.live import LiveResponse, Seats
from stream_server.web.models import (
    FaceEventOut,
    FrameResult,
    StreamList,
    StreamName,
    StreamStatusOut,
)
from stream_server.web.problems import documented
from stream_server.web.services import Services, WebLimits

EVENT_STREAM = "text/event-stream"
PERIOD_SECONDS = 1.0
PING_SECONDS = 15.0
EVENTS_KEPT = 256
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
        summary="The faces of each analysed frame, the newest wins; and what happens to faces",
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
        results = held.enter_context(stream.results.subscribe(1))
        happened = held.enter_context(stream.events.subscribe(EVENTS_KEPT))
        return endless(each_result(results, happened), held)

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
    results: Subscription[Analysis],
    happened: Subscription[FaceEvent],
    ping_seconds: float = PING_SECONDS,
) -> AsyncIterator[bytes]:
    """Until the stream is removed: a `result` event per analysed frame, newest wins, and one named
    after its kind per face event, none left out for the last 256; comments in silence."""
    yield PING
    waiting = {
        asyncio.ensure_future(_next_result(results)): results,
        asyncio.ensure_future(_next_happened(happened)): happened,
    }
    try:
        while waiting:
            done, _ = await asyncio.wait(
                waiting, timeout=ping_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                yield PING
            for task in done:
                source = waiting.pop(task)
                if (text := task.result()) is None:
                    continue
                yield text
                again = _next_result(results) if source is results else _next_happened(happened)
                waiting[asyncio.ensure_future(again)] = source
    finally:
        for task in waiting:
            task.cancel()


async def _next_result(results: Subscription[Analysis]) -> bytes | None:
    """The newest result as an event; None when there will be no more."""
    try:
        analysis = await anext(results)
    except StopAsyncIteration:
        return None
    return event("result", FrameResult.from_analysis(analysis).model_dump_json())


async def _next_happened(happened: Subscription[FaceEvent]) -> bytes | None:
    """What happened next to a face as an event; None when there will be no more."""
    try:
        told = await anext(happened)
    except StopAsyncIteration:
        return None
    return event(told.kind.value, FaceEventOut.from_event(told).model_dump_json())


def _list(services: Services) -> StreamList:
    streams = services.hub.streams()
    return StreamList(streams=[StreamStatusOut.from_status(stream.status()) for stream in streams])


def _documented_event(name: str, model: str) -> dict[str, object]:
    return {
        "description": f"Without end: events `{name}` whose data is a {model} as JSON.",
        "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
    }
