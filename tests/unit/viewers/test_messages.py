"""What crosses between processes comes out as it went in; a deaf other side holds nobody up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from stream_server.viewers import messages
from stream_server.viewers.messages import (
    KINDS,
    LENGTHS,
    Answered,
    Attend,
    Begin,
    Closed,
    Dismiss,
    Done,
    Dropped,
    Failed,
    Lag,
    Line,
    Message,
    Moved,
    NotAMessage,
    Ready,
    Restart,
    Shown,
    Trickle,
    Verdicts,
    Video,
    WantKeyframe,
    pack,
    unpack,
)

ALL: list[Message] = [
    Begin("auto", "info", [(["turn:t:1", "stun:s"], "bob", "hunter2"), (["stun:x"], None, None)]),
    Attend(1, 2, "h264", "source", False, "v=0\r\nä"),
    Trickle(3, 1, "a=ice-ufrag:x\r\n"),
    Restart(4, 1, ""),
    Dismiss(1),
    Video(2, "vp8", "half", 1234.5678901234567, 111111111111, True, bytes(range(256)) * 9),
    Verdicts(2, 90000, None, b'{"faces":[]}'),
    Ready(),
    Answered(1, "id", '"etag"', "v=0"),
    Done(4, '"etag"', "a=ice-ufrag:y"),
    Failed(1, "NegotiationError", "why"),
    Closed(1),
    WantKeyframe(2, "h264", "thumb"),
    Moved(1, "thumb"),
    Dropped(2, "viewer", "slow", 60),
    Shown(2, 0.1),
    Lag(1e-05),
]
Pair = tuple[Line, Line]


@pytest.fixture
async def lines() -> AsyncIterator[Pair]:
    one, other = socket.socketpair()
    pair = await Line.over(one), await Line.over(other)
    yield pair
    for line in pair:
        line.close()


def test_each_kind_is_tried_here() -> None:
    assert {type(message).__name__ for message in ALL} == set(KINDS)


async def test_messages_come_in_order_as_they_went(lines: Pair) -> None:
    near, far = lines
    for message in ALL:
        near.tell(message)
    came = [await asyncio.wait_for(far.receive(), 1) for _ in ALL]
    # JSON knows no tuples.
    assert came[0] == Begin(
        "auto", "info", [[["turn:t:1", "stun:s"], "bob", "hunter2"], [["stun:x"], None, None]]
    )  # type: ignore[list-item]
    assert came[1:] == ALL[1:]


async def test_the_end_of_the_line_is_no_error(lines: Pair) -> None:
    near, far = lines
    near.tell(Ready())
    await near.room()
    await asyncio.sleep(0.05)
    near.close()
    near.tell(Ready())
    assert [message async for message in far] == [Ready()]
    assert await far.receive() is None
    with pytest.raises(ConnectionError):
        await near.room()


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'["Nobody"]',
        b'["Closed"]',
        b'["Closed",1,2]',
        b'["__import__"]',
        b"\xff",
    ],
)
def test_what_is_no_message_is_refused(words: bytes) -> None:
    with pytest.raises(NotAMessage):
        unpack(words, b"")


async def test_a_monstrous_message_is_not_waited_for() -> None:
    one, other = socket.socketpair()
    far = await Line.over(other)
    one.send(LENGTHS.pack(1 << 31, 1 << 31))
    with pytest.raises(NotAMessage, match="4294967296 bytes"):
        await asyncio.wait_for(far.receive(), 1)
    far.close()
    one.close()


async def test_a_deaf_other_side_holds_up_whoever_waits_for_room_and_nobody_else(
    lines: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, _deaf = lines
    monkeypatch.setattr(messages, "READ_AHEAD", 1024)
    frame = Video(1, "h264", "full", 0.0, 0, False, bytes(100_000))
    sent = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                near.tell(frame)
                sent += 1
                await near.room()
    assert sent < 30
    for _ in range(200):  # what must be said is said, up to a limit
        near.tell(frame)
    with pytest.raises(ConnectionError):
        await near.room()


def test_a_frame_takes_little_more_than_its_bytes() -> None:
    assert len(pack(Video(1, "h264", "full", 12345.678, 1 << 40, False, bytes(5000)))) < 5100
