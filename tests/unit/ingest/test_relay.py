"""What of a camera's own packets may go to browsers, and in what form."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import av
import pytest

from stream_server.frames import CameraPacket
from stream_server.ingest.relay import Relay, units
from tests.fakes import numbered_clip

RATE = 10
IDR, SEQUENCE, PICTURE = 5, 7, 8


class Taken:
    """A packet sink that keeps everything."""

    def __init__(self) -> None:
        self.packets: list[CameraPacket] = []
        self.refusals: list[str] = []

    def offer(self, packet: CameraPacket) -> None:
        self.packets.append(packet)

    def refuse(self, reason: str) -> None:
        self.refusals.append(reason)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("relay") / "clip.ts"
    return numbered_clip.write(target, rate=RATE, seconds=3)


def remuxed(clip: Path, target: Path, *options: str) -> Path:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", str(clip), *options, str(target)]
    subprocess.run(command, check=True, timeout=60)
    return target


def relay(clip: Path, start: float = 100.0) -> Taken:
    taken = Taken()
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        made = Relay(stream, taken)
        for number, packet in enumerate(container.demux(stream)):
            if packet.size:
                before = bytes(packet)
                made.feed(packet, start + number / RATE)
                assert bytes(packet) == before, "the decoder needs the packet, too"
    return taken


def numbers(packets: list[CameraPacket]) -> list[int | None]:
    """The numbers in the pictures, decoded from the packets alone."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    found = []
    for data in [*(packet.data for packet in packets), None]:
        frames = decoder.decode(None if data is None else av.Packet(data))
        found += [numbered_clip.read(frame.to_ndarray(format="gray")) for frame in frames]
    return found


@pytest.mark.parametrize("ending", ["ts", "mp4", "mkv", "h264"])
def test_packets_play_alone_from_any_key_frame_on(clip: Path, tmp_path: Path, ending: str) -> None:
    taken = relay(remuxed(clip, tmp_path / f"clip.{ending}", "-c", "copy"))
    assert not taken.refusals
    assert numbers(taken.packets) == list(range(3 * RATE))
    keys = [number for number, packet in enumerate(taken.packets) if packet.keyframe]
    assert keys == [0, RATE, 2 * RATE]
    for first in keys:
        kinds = [kind for kind, _ in units(taken.packets[first].data)]
        assert {IDR, SEQUENCE, PICTURE} <= set(kinds)
        assert numbers(taken.packets[first:])[0] == first


def test_parameter_sets_known_from_the_session_alone_are_put_before_each_key_frame(
    clip: Path, tmp_path: Path
) -> None:
    """Many cameras tell them in the SDP only."""
    strip = ("-c", "copy", "-bsf:v", "filter_units=remove_types=7-9")
    bare = remuxed(clip, tmp_path / "b.mkv", *strip)
    taken = Taken()
    with av.open(str(clip)) as described, av.open(str(bare)) as container:
        parameters = bytes(described.streams.video[0].codec_context.extradata)
        stream = container.streams.video[0]
        made = Relay(described.streams.video[0], taken)
        assert parameters[:3] in (b"\0\0\0", b"\0\0\1")
        for number, packet in enumerate(container.demux(stream)):
            if packet.size:
                raw = av.Packet(annex_b(bytes(packet)))
                raw.pts, raw.time_base = packet.pts, packet.time_base
                made.feed(raw, number / RATE)
    assert numbers(taken.packets) == list(range(3 * RATE))


def annex_b(data: bytes) -> bytes:
    """From NAL units behind their length, in four bytes."""
    made, at = b"", 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        made += b"\0\0\0\1" + data[at + 4 : at + 4 + size]
        at += 4 + size
    return made


def test_time_stamps_are_the_cameras_and_begin_at_the_first_arrival(clip: Path) -> None:
    taken = relay(clip, start=100.0)
    stamps = [packet.rtp_time for packet in taken.packets]
    assert stamps[0] == 100 * 90_000
    steps = [after - before for before, after in itertools.pairwise(stamps)]
    assert steps == pytest.approx([90_000 / RATE] * len(steps), abs=1)
    assert [packet.captured for packet in taken.packets[:2]] == [100.0, 100.1]


def test_b_frames_are_refused_at_the_first(tmp_path: Path) -> None:
    clip = numbered_clip.write(tmp_path / "b.ts", rate=RATE, seconds=3, b_frames=2)
    taken = relay(clip)
    (reason,) = taken.refusals
    assert "B-frames" in reason
    assert len(taken.packets) < 4
    assert not any(kind in (1, 6) for p in taken.packets for _, kind in units(p.data))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-c:v", "libx265", "-x265-params", "log-level=none"), "hevc"),
        (("-c:v", "mpeg4"), "mpeg4"),
        (("-c:v", "libx264", "-pix_fmt", "yuv444p", "-bf", "0"), "yuv444p"),
    ],
)
def test_what_browsers_cannot_decode_is_refused_by_name(
    clip: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    taken = relay(remuxed(clip, tmp_path / "other.mkv", *options))
    (reason,) = taken.refusals
    assert says in reason
    assert not taken.packets


def test_a_file_to_be_turned_is_refused(clip: Path) -> None:
    taken = Taken()
    with av.open(str(clip)) as container:
        made = Relay(container.streams.video[0], taken)
        made.check_upright(0)
        assert not taken.refusals
        made.check_upright(90)
        made.check_upright(90)
    assert len(taken.refusals) == 1
