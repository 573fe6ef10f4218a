"""A source's own thread, and the asyncio side that waits for it without ever joining it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from stream_server.errors import SourceError, SourceUnreachable
from stream_server.frames import AnyPicture
from stream_server.ports import PictureSink

# How long a cancelled `drive` waits for the thread to end in good order.
SETTLE_SECONDS = 0.5
# Threads of one camera that were told to stop and still hang in a read or a name look-up.
STUCK_LIMIT = 2

Body = Callable[["Reader"], None]


class Reader(threading.Thread):
    """Runs `body(reader)`. A daemon: one stuck in C code holds up neither stop nor exit."""

    def __init__(self, body: Body, sink: PictureSink, *, key: str) -> None:
        super().__init__(name=f"source-{key}", daemon=True)
        self.key = key
        self._body = body
        self._sink = sink
        self._stop_asked = threading.Event()
        self._gate = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[BaseException | None] = self._loop.create_future()

    @property
    def stopped(self) -> bool:
        """The body is to return as soon as it can."""
        return self._stop_asked.is_set()

    def stop(self) -> None:
        """Ask the body to end; nothing is delivered after this. Returns at once."""
        with self._gate:
            self._stop_asked.set()

    def wait_until(self, deadline: float) -> bool:
        """Sleep until `deadline` (monotonic); False when asked to stop."""
        return not self._stop_asked.wait(max(0.0, deadline - time.monotonic()))

    def deliver(
        self,
        picture: AnyPicture,
        captured: float,
        media_time: float | None,
    ) -> None:
        """Hand a picture, or how to make it, on, unless asked to stop."""
        with self._gate:
            if not self._stop_asked.is_set():
                self._sink(picture, captured=captured, media_time=media_time)

    def run(self) -> None:
        """The thread: the body, then word to the loop of how it ended."""
        failure: BaseException | None = None
        try:
            self._body(self)
        except SourceError as error:
            # The library's own error, kept as the context, holds the URL with its password.
            error.__cause__ = error.__context__ = None
            failure = error
        except BaseException as error:  # noqa: BLE001 - raised again where `drive` is awaited
            failure = error
        # A loop that has closed has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, failure)

    def _tell(self, failure: BaseException | None) -> None:
        if not self.over.done():
            self.over.set_result(failure)


async def drive(body: Body, sink: PictureSink, *, key: str) -> None:
    """Run `body` in its own thread until it returns; raises what it raised.

    When cancelled it ends within `SETTLE_SECONDS`, the thread by itself as soon as its body
    looks at `stopped`. Raises `SourceUnreachable` while too many threads of the same `key`
    still hang from earlier tries.
    """
    stuck = sum(
        isinstance(thread, Reader) and thread.key == key and thread.stopped
        for thread in threading.enumerate()
    )
    if stuck > STUCK_LIMIT:
        raise SourceUnreachable(
            f"{key}: {stuck} earlier tries still hang in a read; the next one waits for them"
        )
    reader = Reader(body, sink, key=key)
    reader.start()
    try:
        await asyncio.wait([reader.over])
    finally:
        reader.stop()
        if not reader.over.done():
            await asyncio.wait([reader.over], timeout=SETTLE_SECONDS)
    failure = reader.over.result()
    if failure is not None:
        raise failure
