"""Cameras that answer wrongly, fall silent, hang up or garble: bounded in time, clear in words."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from stream_server.errors import (
    SourceAuthError,
    SourceEnded,
    SourceError,
    SourceUnreachable,
    SourceUnsupported,
)
from stream_server.ingest import decode
from stream_server.ingest.access_units import TRIAL
from stream_server.ingest.rtsp import RtspSource
from tests.fakes.clips import counter, make_clip, read_counter
from tests.fakes.collect import Collector, Run, no_threads_left
from tests.fakes.rtsp_faults import FPS, SDP, FaultyRtsp

OPEN, READ = 1.5, 1.5
# `timeout=` of the library is late by up to the value again.
LATE = 2.2


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred numbered pictures, a key frame every ten."""
    return make_clip(tmp_path_factory.mktemp("clips") / "count.h264", frames=100, paint=counter)


def source(camera: FaultyRtsp | str, sink: Collector | None = None) -> RtspSource:
    url = camera if isinstance(camera, str) else camera.url
    drops = {} if sink is None else {"on_drop": sink.count_drop}
    return RtspSource(url, open_timeout=OPEN, read_timeout=READ, **drops)


async def failure(camera: FaultyRtsp | str, seconds: float) -> SourceError:
    """The error that a try ends with, which must be one line and come in time."""
    async with Run(source(camera), Collector()) as run:
        error = await run.error(seconds)
    assert isinstance(error, SourceError), repr(error)
    assert "\n" not in str(error)
    assert "secret" not in str(error)
    await no_threads_left(OPEN + READ + LATE)
    return error


def status(line: str) -> bytes:
    return f"RTSP/1.0 {line}\r\nCSeq: CSEQ\r\n\r\n".encode()


WRONG_ANSWERS = {
    "HTTP": ("OPTIONS", b"HTTP/1.1 400 Bad Request\r\n\r\n", "not with RTSP"),
    "SSH": ("OPTIONS", b"SSH-2.0-OpenSSH_9.2\r\n", "not with RTSP"),
    "bytes": ("OPTIONS", bytes(range(256)) * 40, "not with RTSP"),
    "401": ("DESCRIBE", status("401 Unauthorized"), "asks for a user name"),
    "403": ("DESCRIBE", status("403 Forbidden"), "asks for a user name"),
    "404": ("DESCRIBE", status("404 Not Found"), "no stream at /cam"),
    "500": ("DESCRIBE", status("500 Internal Error"), "refuses to play /cam (RTSP error 5xx)"),
    "503": ("DESCRIBE", status("503 Service Unavailable"), "refuses to play /cam"),
    "453": ("SETUP", status("453 Not Enough Bandwidth"), "refuses to play /cam (RTSP error 4xx)"),
    "454": ("PLAY", status("454 Session Not Found"), "refuses to play /cam"),
    "garbage later": ("DESCRIBE", b"\xff\xfe garbage \r\n\r\n", "127.0.0.1"),
    "no description": ("DESCRIBE", status("200 OK"), "127.0.0.1"),
    "media too early": ("SETUP", b"$\x00\xff\xff" * 5000, "127.0.0.1"),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
async def test_wrong_answers(case, clip):
    method, answer, word = WRONG_ANSWERS[case]
    async with FaultyRtsp(clip, answers={method: answer}).serving() as camera:
        error = await failure(camera, OPEN + LATE)
    assert isinstance(error, SourceAuthError) == (case in ("401", "403")), repr(error)
    assert word in str(error)


async def test_a_camera_without_tcp_is_asked_for_udp(clip):
    refusal = {"SETUP": status("461 Unsupported Transport")}
    async with FaultyRtsp(clip, answers=refusal).serving() as camera:
        await failure(camera, OPEN + LATE)
    assert len(camera.transports) >= 2
    assert "RTP/AVP/TCP" in camera.transports[0]
    assert "RTP/AVP/UDP" in camera.transports[1]


async def test_a_wrong_password_is_told_apart_from_none():
    async with FaultyRtsp(answers={"DESCRIBE": status("401 Unauthorized")}).serving() as camera:
        url = camera.url.replace("//", "//me:secret@")
        error = await failure(url, OPEN)
    assert isinstance(error, SourceAuthError)
    assert "refuses this user name or password" in str(error)


@pytest.mark.parametrize(
    ("sdp", "word"),
    [
        (SDP.replace("m=video 0 RTP/AVP 96", "m=audio 0 RTP/AVP 0"), "sends no video"),
        (SDP.replace("H264/90000", "x-unknown/90000"), "cannot be decoded"),
        ("garbage\r\n" * 200, "sends no video"),
        ("", "127.0.0.1"),
        ("m=video " * 100_000, "127.0.0.1"),
    ],
    ids=["audio only", "unknown codec", "garbage", "empty", "huge"],
)
async def test_descriptions_without_usable_video(sdp, word, clip):
    async with FaultyRtsp(clip, sdp=sdp).serving() as camera:
        error = await failure(camera, OPEN + LATE)
    assert isinstance(error, SourceUnsupported | SourceUnreachable)
    assert word in str(error)


@pytest.mark.parametrize("moment", ["CONNECT", "OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
async def test_hanging_up(moment, clip):
    async with FaultyRtsp(clip, closes_at=moment).serving() as camera:
        started = time.monotonic()
        error = await failure(camera, OPEN + LATE)
    assert isinstance(error, SourceUnreachable), repr(error)
    assert any(word in str(error) for word in ("closed the", "Connection reset", "hung up"))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("moment", ["CONNECT", "OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
async def test_falling_silent_before_the_first_picture(moment, clip):
    async with FaultyRtsp(clip, silent_at=moment).serving() as camera:
        error = await failure(camera, OPEN + LATE)
    assert isinstance(error, SourceUnreachable)
    expected = "did not answer" if moment in ("CONNECT", "OPTIONS") else "sent no video"
    assert expected in str(error)


@pytest.mark.parametrize("moment", ["CONNECT", "DESCRIBE", "PLAY"])
async def test_a_silent_camera_is_left_at_once_when_cancelled(moment, clip):
    async with FaultyRtsp(clip, silent_at=moment).serving() as camera:
        async with Run(source(camera), Collector()) as run:
            await asyncio.sleep(0.4)
            assert await run.cancel() < 1.0
        # Its thread ends by its own time-out; nobody waits for it.
        await no_threads_left(OPEN + LATE)


async def test_falling_silent_in_the_middle(clip):
    sink = Collector()
    async with (
        FaultyRtsp(clip, stops_after=20).serving() as camera,
        Run(source(camera, sink), sink) as run,
    ):
        await run.pictures(15)
        silent_since = sink.shown[-1].at
        error = await run.error(READ + LATE)
    assert isinstance(error, SourceEnded)
    assert f"sent nothing for {READ:g} s" in str(error)
    assert READ * 0.8 < time.monotonic() - silent_since < READ + LATE
    await no_threads_left(2)


async def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = await failure(f"rtsp://me:secret@127.0.0.1:{port}/cam", 1)
    assert isinstance(error, SourceUnreachable)
    assert f"127.0.0.1:{port} cannot be reached (Connection refused)" in str(error)


async def test_no_such_host():
    error = await failure("rtsp://camera.invalid/cam", 10)
    assert isinstance(error, SourceUnreachable)
    assert "there is no host 'camera.invalid'" in str(error)


async def test_tls_where_there_is_none(clip):
    async with FaultyRtsp(clip).serving() as camera:
        error = await failure(camera.url.replace("rtsp:", "rtsps:"), OPEN + LATE)
    assert isinstance(error, SourceUnreachable)


async def test_a_picture_is_captured_when_it_arrives_not_when_it_is_released(clip):
    sink = Collector()
    async with FaultyRtsp(clip).serving() as camera, Run(source(camera), sink) as run:
        await run.pictures(60)
    late = [shot.captured - camera.sent_at[read_counter(shot.picture.y)] for shot in sink.shown]
    # The first ones were read while the stream was being opened.
    assert -0.005 < statistics.median(late[20:]) < 0.02


async def test_a_picture_is_released_with_its_last_packet_once_that_can_be_foretold(clip):
    sink = Collector()
    async with FaultyRtsp(clip).serving() as camera, Run(source(camera, sink), sink) as run:
        await run.pictures(TRIAL + 50, 20)
    delays = [shot.at - camera.sent_at[_sent_number(shot, camera)] for shot in sink.shown]
    early, late = statistics.median(delays[: TRIAL - 10]), statistics.median(delays[-40:])
    assert early - late > 0.6 / FPS, f"{early:.3f} s before, {late:.3f} s after"


async def test_a_camera_that_packs_otherwise_of_a_sudden_spoils_no_more_than_a_second(clip):
    def cut_in_uneven_parts(number: int, parts: list[bytes]) -> list[bytes]:
        return parts if number < TRIAL + 20 else [part for p in parts for part in _cut(p)]

    sink = Collector()
    async with (
        FaultyRtsp(clip, garble=cut_in_uneven_parts).serving() as camera,
        Run(source(camera, sink), sink) as run,
    ):
        await run.pictures(TRIAL + 80, 20)
    # The lowest rows, which are coded last.
    numbers = [read_counter(shot.picture.y[-32:]) for shot in sink.shown]
    change = numbers.index(TRIAL + 20)
    whole, after = numbers[:change], numbers[change + 12 :]
    for part in (whole, after):
        assert part == [(part[0] + n) % 100 for n in range(len(part))]
    assert len(after) > 40
    assert sink.drops.get("decode_error", 0) >= 1, "a spoilt picture is counted"


def _cut(payload: bytes) -> list[bytes]:
    """A slice's single packet as two fragments (RFC 6184, FU-A), the first a quarter of it."""
    if payload[0] & 0x1F not in (1, 5) or len(payload) < 30:
        return [payload]
    indicator, kind, body = payload[0] & 0xE0 | 28, payload[0] & 0x1F, payload[1:]
    quarter = len(body) // 4
    first, rest = body[:quarter], body[quarter:]
    return [bytes([indicator, kind | 0x80]) + first, bytes([indicator, kind | 0x40]) + rest]


async def test_time_stamps_that_jump_break_neither_flow_nor_media_time(clip):
    def stamp(number: int) -> float:
        """On by an hour after 30 pictures, back by two after 60, standing still after 80."""
        if number < 30:
            return 100 + number / FPS
        if number < 60:
            return 3700 + number / FPS
        return number / FPS if number < 80 else 80 / FPS

    sink = Collector()
    async with (
        FaultyRtsp(clip, stamp=stamp).serving() as camera,
        Run(source(camera, sink), sink) as run,
    ):
        await run.pictures(75, seconds=20)
        media = [shot.media_time for shot in sink.shown]
    assert None not in media
    steps = np.diff(np.array(media, float))
    assert (steps >= 0).all()
    assert steps.max() < 2
    assert media[-1] - media[0] < 10
    assert sink.drops == {}


async def test_garbled_packets_are_survived_and_counted(clip):
    noise = np.random.default_rng(2)

    def garble(number: int, parts: list[bytes]) -> list[bytes]:
        """Every seventh picture is nonsense of a kind the decoder refuses."""
        return [b"\x65" + noise.bytes(60)] if number % 7 == 6 else parts

    sink = Collector()
    async with (
        FaultyRtsp(clip, garble=garble).serving() as camera,
        Run(source(camera, sink), sink) as run,
    ):
        await run.pictures(60)
        assert not run.task.done()
    assert sink.drops.get(decode.DECODE_ERROR, 0) >= 3


async def test_a_camera_that_only_sends_nonsense_is_given_up(clip, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BAD_PACKETS", 20)

    def garble(number: int, parts: list[bytes]) -> list[bytes]:
        return parts if number < 25 else [b"\x65\xff\xff\xff\xff"]

    sink = Collector()
    async with (
        FaultyRtsp(clip, garble=garble).serving() as camera,
        Run(source(camera, sink), sink) as run,
    ):
        error = await run.error(10)
    assert isinstance(error, SourceEnded)
    assert "20 packets in a row could not be decoded as h264" in str(error)


async def test_a_slow_decoder_shows_the_present_and_counts_what_it_leaves_out(clip, monkeypatch):
    """The bytes wait in the socket; without leaving out, the delay would grow by 1 s each 2 s."""
    whole = decode.PacketDecoder._decode

    def slow(self, packet):
        frames = whole(self, packet)
        time.sleep(0.08)
        return frames

    monkeypatch.setattr(decode.PacketDecoder, "_decode", slow)
    sink = Collector()
    async with FaultyRtsp(clip).serving() as camera, Run(source(camera, sink), sink) as run:
        await asyncio.sleep(8)
        assert not run.task.done()
        behind = [shot.at - camera.sent_at[_sent_number(shot, camera)] for shot in sink.shown[5:]]
    assert sink.drops[decode.DECODER_BEHIND] > 50
    # `hard` of CatchUp, and what one group of pictures takes to decode.
    assert max(behind) < 1.5 + 10 * 0.08 + 0.5, behind
    assert len(sink.shown) > 20


def _sent_number(shot, camera: FaultyRtsp) -> int:
    """Which of the pictures sent it was: the clip repeats every 100."""
    number = read_counter(shot.picture.y)
    candidates = [n for n in camera.sent_at if n % 100 == number and camera.sent_at[n] <= shot.at]
    return max(candidates)


async def test_many_dead_cameras_delay_nobody(clip):
    """Twelve cameras that accept and never answer, beside one that works."""
    sink = Collector()
    async with (
        FaultyRtsp(silent_at="CONNECT").serving() as dead,
        FaultyRtsp(clip).serving() as live,
    ):
        runs = [Run(RtspSource(dead.url, open_timeout=30), Collector()) for _ in range(12)]
        for run in runs:
            await run.__aenter__()
        async with Run(source(live), sink) as run:
            await run.pictures(60)
        started = time.monotonic()
        await asyncio.gather(*(run.__aexit__() for run in runs))
        assert time.monotonic() - started < 1.0
    gaps = np.diff([shot.at for shot in sink.shown[15:]])
    assert gaps.max() < 0.3
    await no_threads_left(2)
