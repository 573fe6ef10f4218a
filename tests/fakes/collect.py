"""A sink that keeps what sources deliver, and ways to run a source for a while."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stream_server.frames import AnyPicture, Picture, made
from stream_server.ingest.reader import Reader
from stream_server.ports import FrameSource


@dataclass
class Shown:
    """A delivered picture; times are monotonic seconds."""

    picture: Picture
    captured: float
    media_time: float | None
    at: float


@dataclass
class Collector:
    """A `PictureSink` that keeps everything, and counts what a source drops."""

    shown: list[Shown] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)

    def __call__(
        self,
        picture: AnyPicture,
        *,
        captured: float,
        media_time: float | None = None,
    ) -> None:
        self.shown.append(Shown(made(picture), captured, media_time, time.monotonic()))

    def count_drop(self, reason: str, count: int) -> None:
        """The source's `on_drop`."""
        self.drops[reason] = self.drops.get(reason, 0) + count

    async def wait_for(self, count: int, seconds: float = 15.0) -> None:
        """Until so many pictures have come."""
        await until(lambda: len(self.shown) >= count, seconds, f"{count} pictures")


async def until(check: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something that nobody signals."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


class Run:
    """`async with Run(source, sink) as run:` runs a source; leaving cancels it."""

    def __init__(self, source: FrameSource, sink: Collector) -> None:
        self._source, self._sink = source, sink

    async def __aenter__(self) -> Run:
        self.task = asyncio.create_task(self._source.run(self._sink))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    async def cancel(self) -> float:
        """Cancel the source; the seconds it took."""
        started = time.monotonic()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        return time.monotonic() - started

    async def error(self, seconds: float) -> BaseException:
        """What the source ends with."""
        await asyncio.wait([self.task], timeout=seconds)
        assert self.task.done(), f"still running after {seconds} s"
        failure = self.task.exception()
        assert failure is not None, "it ended without an error"
        return failure

    async def pictures(self, count: int, seconds: float = 15.0) -> None:
        """Until so many pictures have come; fails at once with the source's own error."""
        await until(
            lambda: len(self._sink.shown) >= count or self.task.done(), seconds, f"{count} pictures"
        )
        if self.task.done():
            self.task.result()
            assert len(self._sink.shown) >= count, "the source ended before"


def reader_threads() -> list[threading.Thread]:
    """The threads of sources that are alive."""
    return [thread for thread in threading.enumerate() if isinstance(thread, Reader)]


async def no_threads_left(seconds: float) -> None:
    """Until the last source's thread has ended."""
    await until(lambda: not reader_threads(), seconds, "the end of the sources' threads")
