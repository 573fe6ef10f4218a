"""Files: the right speed, seamless loops, and a clear word about those that cannot be played."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import pytest

from stream_server.errors import SourceUnsupported
from stream_server.frames import AnyPicture, made
from stream_server.ingest import decode
from stream_server.ingest import file as file_module
from stream_server.ingest.decode import Decoding
from stream_server.ingest.file import FileSource
from stream_server.telemetry.metrics import Decoder, Metrics
from tests.fakes.clips import counter, make_clip, read_counter


@dataclass
class Seen:
    number: int
    captured: float
    media_time: float
    at: float


async def play(source: FileSource, seconds: float | None = None) -> list[Seen]:
    """What a source delivers until its end, or for so many seconds."""
    seen: list[Seen] = []

    def sink(picture: AnyPicture, *, captured: float, media_time: float | None = None) -> None:
        assert media_time is not None
        seen.append(Seen(read_counter(made(picture).y), captured, media_time, time.monotonic()))

    try:
        async with asyncio.timeout(seconds):
            await source.run(sink)
    except TimeoutError:
        assert seconds is not None
    return seen


def numbers(seen: list[Seen]) -> list[int]:
    return [one.number for one in seen]


async def test_once_plays_every_picture_at_the_files_own_speed(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=25, fps=25, paint=counter)
    seen = await play(FileSource(clip, loop=False))
    assert numbers(seen) == list(range(25))
    assert 0.9 < seen[-1].captured - seen[0].captured < 1.1
    assert [round((one.media_time - seen[0].media_time) * 25) for one in seen] == list(range(25))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi", "h264", "mjpeg", "webm", "gif"])
async def test_loops_follow_without_a_gap(tmp_path, ending):
    codec = {"mjpeg": "mjpeg", "webm": "libvpx-vp9", "gif": "gif", "avi": "mpeg4"}.get(
        ending, "libx264"
    )
    pixels = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
    clip = make_clip(
        tmp_path / f"clip.{ending}", frames=10, codec=codec, pixels=pixels, paint=counter
    )
    seen = await play(FileSource(clip), seconds=1.5)
    assert numbers(seen)[:30] == list(range(10)) * 3
    media = [one.media_time for one in seen]
    steps = [later - earlier for earlier, later in pairwise(media)]
    assert all(0.035 < step < 0.045 for step in steps), steps
    # Paced by the clock from the first picture on: nothing adds up over the loops. A busy machine
    # delays single pictures.
    late = [one.captured - seen[0].captured - one.media_time + media[0] for one in seen]
    assert abs(min(late[20:30], key=abs)) < 0.04


async def test_time_stamps_that_leap_hold_up_nothing(tmp_path):
    hours = 3 * 3600 * 25
    stamps = [0, 1, 2, hours, hours + 1, hours + 2]
    clip = make_clip(tmp_path / "leap.mp4", stamps=stamps, paint=counter)
    started = time.monotonic()
    seen = await play(FileSource(clip, loop=False))
    assert numbers(seen) == list(range(6))
    assert time.monotonic() - started < 2
    assert seen[-1].media_time - seen[0].media_time < 1


async def test_without_real_time_it_is_as_fast_as_the_decoder(tmp_path):
    clip = make_clip(tmp_path / "long.mp4", frames=200, paint=counter)
    started = time.monotonic()
    seen = await play(FileSource(clip, loop=False, realtime=False))
    assert len(seen) == 200
    assert time.monotonic() - started < 4


async def test_when_decoding_is_too_slow_it_leaves_pictures_out_instead_of_slowing(
    tmp_path, monkeypatch
):
    clip = make_clip(tmp_path / "long.mp4", frames=120, paint=counter)
    whole = file_module.PacketDecoder.feed

    def slow(self, packet, **times):
        shots = list(whole(self, packet, **times))
        # Twice as long as the picture is shown for.
        time.sleep(0.08 if shots else 0)
        return shots

    monkeypatch.setattr(file_module.PacketDecoder, "feed", slow)
    drops: dict[str, int] = {}

    def count(reason: str, number: int) -> None:
        drops[reason] = drops.get(reason, 0) + number

    started = time.monotonic()
    seen = await play(FileSource(clip, loop=False, on_drop=count))
    assert 4.5 < time.monotonic() - started < 7
    assert drops["decoder_behind"] > 20
    assert len(seen) + drops["decoder_behind"] == 120
    assert max(one.at - seen[0].at - one.media_time for one in seen) < 2.5


async def test_cancelling_a_looped_file_leaves_no_thread(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    await play(FileSource(clip), seconds=0.3)
    deadline = time.monotonic() + 1
    while any(t.name == "source-file clip.mp4" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_after_a_long_halt_it_goes_on_without_hurrying(monkeypatch):
    clock = {"ahead": 0.0}
    real = time.monotonic

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return real() + clock["ahead"]

    monkeypatch.setattr(file_module, "time", Clock)
    pacer = file_module._Pacer()
    first = pacer.due(0.0, 0.04)
    clock["ahead"] = 3600.0
    late = pacer.due(0.04, 0.04)
    assert abs(late - Clock.monotonic()) < 0.1
    assert late - first > 3590


async def test_a_file_that_was_deleted_plays_on(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=5, paint=counter)
    seen: list[int] = []

    def sink(picture: AnyPicture, *, captured: float, media_time: float | None = None) -> None:
        clip.unlink(missing_ok=True)
        seen.append(read_counter(made(picture).y))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.8):
            await FileSource(clip).run(sink)
    assert seen[:10] == [*range(5), *range(5)]


async def test_a_playlist_opens_no_connection(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts"
        playlist = f"#EXTM3U\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"
        path = write(tmp_path / "list.m3u8", playlist.encode())
        with pytest.raises(SourceUnsupported, match="not a video"):
            await play(FileSource(path), seconds=5)
        with pytest.raises(BlockingIOError):
            listener.accept()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def unplayable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Files that can't be played, and a word of what is said of each."""
    fifo = tmp_path / "pipe.mp4"
    os.mkfifo(fifo)
    clip = make_clip(tmp_path / "whole.mp4")
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    still = tmp_path / "still.png"
    with av.open(str(still), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        container.mux(stream.encode(av.VideoFrame(32, 32, "rgb24")))
        container.mux(stream.encode(None))
    return {
        "missing": (tmp_path / "nowhere.mp4", "there is no file"),
        "folder": (tmp_path, "not a regular file"),
        "pipe": (fifo, "not a regular file"),
        "device": (Path("/dev/zero"), "not a regular file"),
        "empty": (write(tmp_path / "empty.mp4", b""), "not a video"),
        "text": (write(tmp_path / "text.mp4", b"hello " * 1000), "not a video"),
        "half": (write(tmp_path / "half.mp4", clip.read_bytes()[:2000]), "not a video"),
        "sound": (sound, "no video in it"),
        "picture": (still, "still picture"),
        "long name": (tmp_path / ("n" * 300), "cannot be opened"),
        "null": (Path("a\0b"), "cannot be opened"),
    }


KINDS = [
    "missing", "folder", "pipe", "device", "empty", "text", "half", "sound", "picture",
    "long name", "null",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_played_is_told_in_one_line(tmp_path, kind):
    path, word = unplayable(tmp_path)[kind]
    started = time.monotonic()
    with pytest.raises(SourceUnsupported) as caught:
        await play(FileSource(path), seconds=5)
    assert time.monotonic() - started < 2
    message = str(caught.value)
    assert word in message
    assert "\n" not in message
    assert str(path) in message
    assert not caught.value.retryable


def test_every_unplayable_kind_is_tried(tmp_path):
    assert list(unplayable(tmp_path)) == KINDS


async def test_a_file_that_nobody_watches_shows_its_key_frames_loop_after_loop(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=20, paint=counter)
    nobody = Decoding("key", lambda: False)
    seen = await play(FileSource(clip, realtime=False, decoding=nobody), seconds=0.5)
    assert numbers(seen)[:6] == [0, 10, 0, 10, 0, 10]


async def test_a_file_plays_on_the_cpu_where_no_device_works(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_device", lambda: (None, "a test"))
    clip = make_clip(tmp_path / "clip.mp4", frames=12, paint=counter)
    told = Metrics().stream("gate")
    decoding = Decoding(hardware="auto", on_decoder=told.decoded_on)
    source = FileSource(clip, loop=False, realtime=False, decoding=decoding)
    assert numbers(await play(source)) == list(range(12))
    assert told.decoder == Decoder("cpu", "hwaccel is auto, but no device works: a test")
