"""Answers without an end: they stop when the client leaves, stops reading, or the service stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stream_server.errors import MaskstreamError

log = structlog.get_logger(__name__)

# The server's send buffer has been full for so long that the client is not reading any more.
SEND_SECONDS = 10.0


class Seats:
    """So many at once, and no more."""

    def __init__(self, limit: int, refusal: MaskstreamError) -> None:
        self._limit = limit
        self._refusal = refusal
        self.taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold one seat; raises the refusal when there is none."""
        if self.taken >= self._limit:
            raise type(self._refusal)(*self._refusal.args)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class LiveResponse(Response):
    """Sends `chunks` as they come; `held` is let go at the end, however it comes.

    Nothing is buffered here: the next chunk is asked for once the server took the last one.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        media_type: str,
        closing: asyncio.Event,
        held: ExitStack,
        *,
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-store"})
        # An endless body has no length; proxies must not collect it either.
        del self.headers["content-length"]
        self.headers["X-Accel-Buffering"] = "no"
        self._chunks = chunks
        self._closing = closing
        self._held = held
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            sending = asyncio.create_task(self._send_all(send))
            ends = {
                sending,
                asyncio.create_task(_disconnected(receive)),
                asyncio.create_task(self._closing.wait()),
            }
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in ends:
                    task.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        if not sending.cancelled():
            sending.result()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        async for chunk in self._chunks:
            try:
                async with asyncio.timeout(self._send_seconds):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                log.info("client_stopped_reading", seconds=self._send_seconds)
                return


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
