"""A source's thread: its end, its errors, and that a stuck one holds nobody up."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from stream_server.errors import SourceEnded, SourceUnreachable
from stream_server.frames import AnyPicture, Picture
from stream_server.ingest.reader import SETTLE_SECONDS, STUCK_LIMIT, Reader, drive

PICTURE = Picture(np.zeros((3, 2), np.uint8))


def nowhere(picture: AnyPicture, *, captured: float, media_time: float | None = None) -> None:
    """A sink that keeps nothing."""


def threads_of(key: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if isinstance(t, Reader) and t.key == key]


async def test_it_returns_what_the_body_ends_with():
    await drive(lambda reader: None, nowhere, key="fine")

    def fail(reader: Reader) -> None:
        try:
            raise OSError("rtsp://user:secret@host")
        except OSError:
            raise SourceEnded("over") from None

    with pytest.raises(SourceEnded, match=r"^over$") as caught:
        await drive(fail, nowhere, key="fails")
    # A context would be printed by a logger that shows it, password and all.
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


async def test_a_bug_in_the_body_is_raised_as_it_is():
    def bug(reader: Reader) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await drive(bug, nowhere, key="bug")


async def test_pictures_arrive_and_none_after_the_end():
    got: list[tuple[float, float | None]] = []

    def sink(picture: AnyPicture, *, captured: float, media_time: float | None = None) -> None:
        got.append((captured, media_time))

    late: list[Reader] = []

    def body(reader: Reader) -> None:
        reader.deliver(PICTURE, 1.0, 2.0)
        late.append(reader)

    await drive(body, sink, key="pictures")
    late[0].deliver(PICTURE, 3.0, 4.0)
    assert got == [(1.0, 2.0)]


async def test_cancelling_ends_a_waiting_body_at_once():
    task = asyncio.create_task(
        drive(lambda reader: reader.wait_until(time.monotonic() + 60) and None, nowhere, key="wait")
    )
    await asyncio.sleep(0.05)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < SETTLE_SECONDS
    for thread in threads_of("wait"):
        thread.join(1.0)
        assert not thread.is_alive()


async def stuck_try(release: threading.Event) -> float:
    """Start a body that looks at nothing, cancel it; how long the cancelling took."""
    task = asyncio.create_task(drive(lambda reader: release.wait() and None, nowhere, key="stuck"))
    await asyncio.sleep(0.02)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - started


async def test_a_stuck_body_is_left_behind_and_their_number_is_bounded():
    release = threading.Event()
    try:
        for _ in range(STUCK_LIMIT + 1):
            assert await stuck_try(release) < SETTLE_SECONDS + 0.3
        with pytest.raises(SourceUnreachable, match=r"^stuck: 3 earlier tries still hang"):
            await drive(lambda reader: None, nowhere, key="stuck")
        await drive(lambda reader: None, nowhere, key="another camera")
        assert all(thread.daemon for thread in threads_of("stuck"))
    finally:
        release.set()
    for thread in threads_of("stuck"):
        await asyncio.to_thread(thread.join, 2.0)
    await drive(lambda reader: None, nowhere, key="stuck")


def test_a_thread_that_outlives_its_loop_says_nothing():
    release = threading.Event()
    failures: list[object] = []
    before, threading.excepthook = threading.excepthook, failures.append
    try:

        async def begin_and_leave() -> None:
            await stuck_try(release)

        asyncio.run(begin_and_leave())
        (thread,) = threads_of("stuck")
        release.set()
        thread.join(2.0)
        assert not thread.is_alive()
        assert failures == []
    finally:
        threading.excepthook = before
