"""What every `FrameSource` keeps to, whatever it reads. A new source is one more `Setting`.

A source is cancelled in the middle of its stream, runs beside a second one of its kind, and is
pointed at something that is not there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stream_server.errors import SourceError
from stream_server.ingest.demo import DemoSource
from stream_server.ingest.file import FileSource
from stream_server.ingest.rtsp import RtspSource
from stream_server.ports import FrameSource
from tests.fakes.clips import make_clip
from tests.fakes.collect import Collector, Run, no_threads_left
from tests.fakes.rtsp_camera import RtspCamera

SECRET = "hunter2"


@dataclass
class Setting:
    """How one kind of source is made, what it shows, and how it is made to fail."""

    make: Callable[[], FrameSource]
    size: tuple[int, int]
    broken: Callable[[], FrameSource] | None


@asynccontextmanager
async def rtsp(clip: Path, transport: str) -> AsyncIterator[Setting]:
    camera = RtspCamera(clip, ("digest", "user", SECRET))
    try:
        await asyncio.to_thread(camera.start)
        yield Setting(
            lambda: RtspSource(camera.url, transport=transport),  # type: ignore[arg-type]
            (320, 240),
            lambda: RtspSource(camera.url.replace("/cam", "/nothing")),
        )
    finally:
        camera.kill()


@asynccontextmanager
async def file(clip: Path) -> AsyncIterator[Setting]:
    yield Setting(lambda: FileSource(clip), (320, 240), lambda: FileSource(clip / "nothing"))


@asynccontextmanager
async def demo(clip: Path) -> AsyncIterator[Setting]:
    yield Setting(lambda: DemoSource((640, 360)), (640, 360), None)


SETTINGS = {
    "rtsp-tcp": lambda clip: rtsp(clip, "tcp"),
    "rtsp-udp": lambda clip: rtsp(clip, "udp"),
    "file": file,
    "demo": demo,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, 320x240."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.ts", frames=50)


@pytest.fixture(params=SETTINGS)
async def setting(request: pytest.FixtureRequest, clip: Path) -> AsyncIterator[Setting]:
    async with SETTINGS[request.param](clip) as made:
        yield made
    await no_threads_left(6)


async def test_pictures_are_whole_and_their_times_advance(setting: Setting) -> None:
    sink, started = Collector(), time.monotonic()
    async with Run(setting.make(), sink) as run:
        await run.pictures(30)
    for shot in sink.shown:
        assert (shot.picture.width, shot.picture.height) == setting.size
        assert shot.picture.width % 2 == shot.picture.height % 2 == 0
        assert shot.picture.i420.dtype == np.uint8
        assert shot.picture.i420.flags["C_CONTIGUOUS"]
        assert started <= shot.captured <= shot.at
    captured = [shot.captured for shot in sink.shown]
    assert captured == sorted(captured)
    media = [shot.media_time for shot in sink.shown if shot.media_time is not None]
    assert media == sorted(media)


async def test_a_picture_is_never_written_to_again(setting: Setting) -> None:
    sink = Collector()
    async with Run(setting.make(), sink) as run:
        await run.pictures(1)
        first, copy = sink.shown[0].picture, sink.shown[0].picture.i420.copy()
        await run.pictures(20)
    assert (first.i420 == copy).all()


async def test_cancelling_ends_it_within_a_second_and_leaves_no_thread(setting: Setting) -> None:
    before, sink = set(threading.enumerate()), Collector()
    async with Run(setting.make(), sink) as run:
        await run.pictures(3)
        assert await run.cancel() < 1.0
        assert run.task.cancelled()
    count = len(sink.shown)
    await no_threads_left(6)
    assert set(threading.enumerate()) <= before
    assert len(sink.shown) == count, "pictures came after the end"


async def test_cancelling_before_the_first_picture(setting: Setting) -> None:
    for delay in (0.0, 0.01, 0.1):
        async with Run(setting.make(), Collector()) as run:
            await asyncio.sleep(delay)
            assert await run.cancel() < 1.0
    await no_threads_left(6)


async def test_it_never_blocks_the_event_loop(setting: Setting) -> None:
    sink, longest = Collector(), 0.0
    async with Run(setting.make(), sink) as run:
        while len(sink.shown) < 20 and not run.task.done():
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)
    # Opening a camera takes longer than this; a crowded machine alone takes a good part of it.
    assert longest < 0.4


async def test_two_of_a_kind_run_side_by_side(setting: Setting) -> None:
    sinks = [Collector(), Collector()]
    async with AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(Run(setting.make(), sink)) for sink in sinks]
        for run in runs:
            await run.pictures(10)


async def test_an_error_of_the_sink_is_not_swallowed(setting: Setting) -> None:
    class Full(Collector):
        def __call__(self, *_: object, **__: object) -> None:
            raise MemoryError("no room")

    async with Run(setting.make(), Full()) as run:
        assert isinstance(await run.error(15), MemoryError)


async def test_what_cannot_be_read_is_told_in_one_line_without_a_password(
    setting: Setting,
) -> None:
    if setting.broken is None:
        return
    async with Run(setting.broken(), Collector()) as run:
        error = await run.error(10)
    assert isinstance(error, SourceError), repr(error)
    assert "nothing" in str(error)
    assert "\n" not in str(error)
    while error is not None:
        assert SECRET not in repr(error)
        assert SECRET not in repr(vars(error))
        error = error.__cause__ or error.__context__
