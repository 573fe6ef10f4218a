"""A process gets each frame once, and one that is behind costs its own viewers pictures only."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stream_server.frames import Analysis
from stream_server.publish.encode import framed
from stream_server.publish.rendition import VIEWER_QUEUE, RenditionName
from stream_server.streams import SourceSpec, Stream
from stream_server.viewers.messages import Line, Message, Verdicts, Video
from stream_server.viewers.relay import BEHIND, Relay, RemoteSeat
from tests.fakes.house import add_demo, build, until


@dataclass
class Far:
    """A stream's relay, and what came out of the line's other end."""

    stream: Stream
    relay: Relay
    near: Line
    far: Line
    came: list[Message] = field(default_factory=list)
    left: list[RenditionName] = field(default_factory=list)

    def sit(self, name: RenditionName = "full") -> RemoteSeat:
        return self.stream.publisher.admit(
            "h264",
            name,
            lambda rendition, changed: RemoteSeat(
                rendition, changed, self.relay, lambda: self.left.append(name)
            ),
        )

    async def _read(self) -> None:
        async for message in self.far:
            self.came.append(message)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._read())
        yield
        task.cancel()

    def frames(self, name: RenditionName = "full") -> list[Video]:
        return [m for m in self.came if isinstance(m, Video) and m.rendition == name]

    def give(self, number: int, *, keyframe: bool, size: int = 100) -> None:
        """A frame of `full`, by hand."""
        frame = framed(bytes(size), number * 3000, keyframe, number / 30)
        self.stream.publisher.rendition("h264", "full").give([frame])


@asynccontextmanager
async def relayed(stream: Stream) -> AsyncIterator[Far]:
    one, other = socket.socketpair()
    near, far = await Line.over(one), await Line.over(other)
    relay = Relay(7, stream, near, lambda analysis: f'{{"n":{analysis.frame.number}}}'.encode())
    yield Far(stream, relay, near, far)
    relay.close()
    near.close()
    far.close()


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Far]:
    """Of a stream that shows pictures."""
    async with build(tmp_path) as house:
        await add_demo(house)
        async with relayed(house.hub.get("lobby")) as far:
            yield far


@pytest.fixture
async def still(tmp_path: Path) -> AsyncIterator[Far]:
    """Of a stream whose frames the test makes."""
    async with build(tmp_path) as house:
        await add_demo(house)
        stream = house.hub.get("lobby")
        await stream.stop()
        stream.publisher._closed = False
        async with relayed(stream) as far:
            yield far


async def test_each_frame_and_each_verdict_goes_once_however_many_watch(live: Far) -> None:
    seats = [live.sit(), live.sit()]
    live.relay.open()
    async with live.reading():
        await until(lambda: len(live.frames()) > 20)
        frames = live.frames()
        assert (frames[0].hall, frames[0].keyframe) == (7, True)
        ticks = [frame.ticks for frame in frames]
        assert ticks == sorted(set(ticks)), "a frame came twice, or out of order"
        told = [m for m in live.came if isinstance(m, Verdicts)]
        assert len({m.data for m in told}) == len(told) > 5
        assert {m.ticks for m in told} & set(ticks)
        for seat in seats:
            seat.close()
            seat.close()
        assert (live.left, live.stream.publisher.viewers) == (["full", "full"], 0)
        count = len(live.frames())
        await asyncio.sleep(0.2)
        assert len(live.frames()) <= count + 1, "frames go to where nobody watches"


async def test_a_seat_moves_with_the_first_key_frame_of_the_other_size(live: Far) -> None:
    seat = live.sit()
    async with live.reading():
        await until(lambda: bool(live.frames()))
        seat.go("half")
        await until(lambda: len(live.frames("half")) > 5)
        assert live.frames("half")[0].keyframe
        assert seat.rendition.name == "half"
        count = len(live.frames())
        await until(lambda: len(live.frames("half")) > 15)
        assert len(live.frames()) == count
        seat.close()
        seat.go("full")
        assert live.stream.publisher.viewers == 0, "who has left cannot move"


async def test_a_process_that_is_behind_skips_to_a_key_frame_and_it_is_counted(still: Far) -> None:
    """Nothing reads: the pipe fills, then the queue, and the loop never waits."""
    still.sit()
    watched = still.stream.publisher.watch("h264")
    drops = still.stream.metrics.drops
    for number in range(400):
        still.give(number, keyframe=number % 100 == 0, size=20_000)
        with suppress(TimeoutError):
            await asyncio.wait_for(watched.next(), 0.2)
        await asyncio.sleep(0)
    behind = drops[f"viewer/{BEHIND}"]
    assert behind >= 2 * VIEWER_QUEUE
    assert behind % VIEWER_QUEUE == 0
    assert drops["viewer/slow"] == 0, "who is on this loop suffers for it"
    async with still.reading():
        for number in range(400, 460):
            still.give(number, keyframe=number == 420)
            await asyncio.sleep(0.001)
        await until(lambda: still.frames()[-1].ticks == 459 * 3000)
        ticks = [frame.ticks // 3000 for frame in still.frames()]
        gaps = [b for a, b in itertools.pairwise(ticks) if b != a + 1]
        assert gaps, "nothing was left out"
        keyframes = {frame.ticks // 3000 for frame in still.frames() if frame.keyframe}
        assert set(gaps) <= keyframes, "a decoder was given a frame without those before it"


async def test_verdicts_that_a_process_does_not_take_are_counted(live: Far) -> None:
    live.sit()
    padding = "x" * 40_000

    def encode(analysis: Analysis) -> bytes:
        return padding.encode()

    live.relay._encode = encode
    live.relay.open()
    await until(lambda: live.stream.metrics.drops[f"data_channel/{BEHIND}"] > 2, 10)
    assert live.stream.status().frames_dropped[f"data_channel/{BEHIND}"] > 2


async def test_the_cameras_own_packets_go_too(tmp_path: Path) -> None:
    async with build(tmp_path) as house:
        stream = await house.hub.add(SourceSpec("gate", "demo:own"), persist=False)
        await until(lambda: stream.status().source_view_refusal is None)
        async with relayed(stream) as far, far.reading():
            far.sit("source")
            far.relay.open()
            await until(lambda: len(far.frames("source")) > 10)
            stamps = {frame.ticks for frame in far.frames("source")}
            told = {m.source_ticks for m in far.came if isinstance(m, Verdicts)}
            assert told & stamps
            assert (stream.publisher.viewers, stream.publisher.drawn_for) == (1, 0)
