"""Annotated pictures over plain HTTP, for whatever cannot do WebRTC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Query, Response

from stream_server.streams import Stream
from stream_server.web.live import LiveResponse
from stream_server.web.models import StreamName
from stream_server.web.problems import documented, problem
from stream_server.web.services import Services

BOUNDARY = "maskstream-frame"
MULTIPART = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
MAX_FPS = 30
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def router(services: Services) -> APIRouter:
    """`/streams/{name}.mjpg` and `/streams/{name}.jpg`."""
    routes = APIRouter(tags=["media"])
    hub = services.hub

    @routes.get(
        "/streams/{name}.mjpg",
        summary="The annotated stream as motion JPEG",
        response_class=Response,
        responses={
            200: {
                "description": "Without end: a JPEG for each picture; the newest wins.",
                "content": {"multipart/x-mixed-replace": _BINARY},
            },
            **documented(404, 422, 429),
        },
    )
    async def motion_jpeg(
        name: StreamName,
        fps: Annotated[
            float, Query(ge=1, le=MAX_FPS, description="Most pictures per second.")
        ] = MAX_FPS,
    ) -> Response:
        stream = hub.get(name)
        held = ExitStack()
        viewer = held.enter_context(stream.jpegs())
        return LiveResponse(pictures(stream, viewer, fps), MULTIPART, services.closing, held)

    @routes.get(
        "/streams/{name}.jpg",
        summary="The newest annotated picture",
        response_class=Response,
        responses={
            200: {"description": "A JPEG.", "content": {"image/jpeg": _BINARY}},
            **documented(404, 422, 503),
        },
    )
    async def snapshot(name: StreamName) -> Response:
        jpeg = await hub.get(name).snapshot()
        if jpeg is None:
            return problem(
                503,
                "No picture yet",
                f"stream {name!r} has not shown a picture yet: GET /api/streams/{name} says why",
                Retry_After="1",
            )
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    return routes


async def pictures(
    stream: Stream, viewer: AsyncIterable[bytes], fps: float
) -> AsyncIterator[bytes]:
    """Multipart parts until the stream is removed: the last picture at once, then each new one.

    Each part ends with the next boundary, for browsers show a picture when they see it.
    """
    yield f"--{BOUNDARY}\r\n".encode()
    first = await stream.snapshot()
    if first is not None:
        yield _part(first)
    async for jpeg in viewer:
        due = time.monotonic() + 1 / fps
        yield _part(jpeg)
        if fps < MAX_FPS:
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def _part(jpeg: bytes) -> bytes:
    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
    return head + jpeg + f"\r\n--{BOUNDARY}\r\n".encode()
