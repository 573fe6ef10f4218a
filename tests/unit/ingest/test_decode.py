"""Every kind of frame becomes upright I420 with square pixels, even sides and a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import structlog
from av.error import FFmpegError
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.errors import SourceEnded
from stream_server.frames import Picture
from stream_server.ingest import decode
from stream_server.ingest.decode import (
    Decoding,
    Economy,
    Extent,
    Normaliser,
    PacketDecoder,
    Shot,
    accelerator,
    device_of,
    target_size,
)
from tests.fakes.clips import BLUE, GREEN, GREY, RED, counter, make_clip, read_counter

SIDES = st.integers(1, 5000)
ASPECTS = st.one_of(st.none(), st.fractions(Fraction(1, 8), 8, max_denominator=1000))


def pictures(path: Path, **options: int) -> list[Picture]:
    """All pictures of a clip, through the decoder of live sources."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = PacketDecoder(stream, **options)
        found = []
        for packet in container.demux(stream):
            if packet.size:
                found += [shot.make() for shot in decoder.feed(packet, arrived=0.0, lag=0.0)]
        return found + [shot.make() for shot in decoder.flush(now=0.0)]


def corners(picture: Picture) -> list[tuple[int, int, int]]:
    """RGB in the middle of each quarter: upper left, upper right, lower left, lower right."""
    bgr, height, width = picture.bgr(), picture.height, picture.width
    middles = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return [tuple(int(v) for v in bgr[place][::-1]) for place in middles]


def assert_colours(picture: Picture, *expected: tuple[int, int, int], off: int = 12) -> None:
    for found, wanted in zip(corners(picture), expected, strict=True):
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= off, corners(picture)


UPRIGHT = (RED, GREEN, BLUE, GREY)


@given(SIDES, SIDES, ASPECTS, st.integers(2, 4000))
def test_sizes_are_even_bounded_and_keep_the_shape(width, height, aspect, longest):
    out_width, out_height = target_size(width, height, aspect, longest)
    assert out_width % 2 == out_height % 2 == 0
    assert min(out_width, out_height) >= 2
    assert max(out_width, out_height) <= max(longest, 2)
    shown = width * float(aspect or 1) / height
    # Rounding to even moves each side by a pixel, ignoring 1 % the shape by as much.
    low = (out_width - 2.5) / (out_height + 2.5) / 1.011
    high = (out_width + 2.5) / max(out_height - 2.5, 0.1) * 1.011
    assert low <= shown <= high or min(out_width, out_height) <= 4


@pytest.mark.parametrize(
    ("size", "aspect", "longest", "expected"),
    [
        ((1280, 720), None, 1920, (1280, 720)),
        ((1280, 720), Fraction(872, 873), 1920, (1280, 720)),
        ((1281, 721), None, 1920, (1280, 720)),
        ((720, 576), Fraction(64, 45), 1920, (1024, 576)),
        ((1440, 1080), Fraction(4, 3), 1920, (1920, 1080)),
        ((704, 480), Fraction(1, 2), 1920, (704, 960)),
        ((3840, 2160), None, 1920, (1920, 1080)),
        ((2160, 3840), None, 1920, (1080, 1920)),
        ((640, 480), Fraction(0), 1920, (640, 480)),
        ((640, 480), Fraction(1000), 1920, (640, 480)),
    ],
)
def test_sizes_of_well_known_cameras(size, aspect, longest, expected):
    assert target_size(*size, aspect, longest) == expected


EVEN = [(320, 240), (324, 182)]
ODD = [*EVEN, (321, 241)]


@pytest.mark.parametrize(
    ("codec", "pixels", "ending", "size"),
    [
        (codec, pixels, ending, size)
        for codec, pixels, ending, sizes in (
            ("libx264", "yuv420p", "mp4", EVEN),
            ("libx264", "yuvj420p", "mp4", EVEN),
            ("libx264", "yuv444p", "mkv", ODD),
            ("libx265", "yuv420p10le", "mp4", EVEN),
            ("mjpeg", "yuvj420p", "avi", ODD),
            ("mjpeg", "yuvj422p", "avi", ODD),
            ("ffv1", "yuv420p", "mkv", ODD),
            ("ffv1", "bgra", "mkv", ODD),
            ("libvpx-vp9", "yuv420p", "webm", ODD),
        )
        for size in sizes
    ],
)
def test_pixel_formats_and_odd_sizes_keep_colours_and_place(tmp_path, codec, pixels, ending, size):
    clip = make_clip(tmp_path / f"clip.{ending}", codec=codec, pixels=pixels, size=size, frames=3)
    found = pictures(clip)
    assert len(found) == 3
    for picture in found:
        assert (picture.width, picture.height) == (size[0] & ~1, size[1] & ~1)
        assert picture.i420.flags["C_CONTIGUOUS"]
        assert_colours(picture, *UPRIGHT)


def test_grey_pictures_have_no_colour(tmp_path):
    picture = pictures(make_clip(tmp_path / "grey.mkv", codec="ffv1", pixels="gray"))[0]
    assert abs(int(picture.u.mean()) - 128) <= 1
    assert abs(int(picture.v.mean()) - 128) <= 1


def test_full_range_becomes_limited_range():
    white = np.full((96, 64), 255, np.uint8)
    white[64:] = 128
    for name in ("yuvj420p", "yuv420p"):
        frame = VideoFrame.from_ndarray(white, format=name)
        if name == "yuv420p":
            frame.color_range = 2
        picture = Normaliser()(frame)
        assert int(picture.y[0, 0]) == 235, name


def test_what_is_converted_anyway_leaves_bt_709_behind():
    flat = np.broadcast_to(np.array([120, 110, 160], np.uint8)[:, None, None], (3, 64, 64))
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(flat), format="yuv444p")
    frame.colorspace, frame.color_range = 1, 1
    picture = Normaliser()(frame)
    # By the matrices of BT.709 and BT.601; the scaler rounds down.
    for plane, exact in ((picture.y, 124.4), (picture.u, 106.6), (picture.v, 160.8)):
        assert exact - 2 < int(plane[9, 9]) <= exact + 1


def test_limited_range_is_taken_without_a_change():
    noise = np.random.default_rng(0).integers(0, 256, (96, 64), np.uint8)
    frame = VideoFrame.from_ndarray(noise, format="yuv420p")
    assert (Normaliser()(frame).i420 == noise).all()


def test_lines_longer_than_the_picture_are_cut():
    """82 is no multiple of any alignment: the decoder's lines are longer."""
    noise = np.random.default_rng(0).integers(0, 256, (75, 82), np.uint8)
    frame = VideoFrame.from_ndarray(noise, format="yuv420p")
    assert frame.planes[0].line_size > 82 or frame.planes[1].line_size > 41
    assert (Normaliser()(frame).i420 == noise).all()


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        (90, (GREEN, GREY, RED, BLUE)),
        (180, (GREY, BLUE, GREEN, RED)),
        (-90, (BLUE, RED, GREY, GREEN)),
        (270, (BLUE, RED, GREY, GREEN)),
    ],
)
def test_rotation_is_applied(tmp_path, rotation, expected):
    clip = make_clip(tmp_path / "turned.mp4", rotation=rotation, size=(324, 182), frames=2)
    picture = pictures(clip)[0]
    upright = rotation == 180
    assert (picture.width, picture.height) == ((324, 182) if upright else (182, 324))
    assert_colours(picture, *expected)


def test_rotation_limit_and_stretched_pixels_together(tmp_path):
    clip = make_clip(
        tmp_path / "all.mp4", rotation=90, size=(360, 288), aspect=Fraction(64, 45), frames=2
    )
    picture = pictures(clip, longest_side=256)[0]
    # 512 x 288 shown, halved to 256 x 144, then turned.
    assert (picture.width, picture.height) == (144, 256)
    assert_colours(picture, GREEN, GREY, RED, BLUE)


def test_stretched_pixels_become_square(tmp_path):
    clip = make_clip(tmp_path / "pal.mp4", size=(360, 288), aspect=Fraction(64, 45), frames=2)
    picture = pictures(clip)[0]
    assert (picture.width, picture.height) == (512, 288)
    assert_colours(picture, *UPRIGHT)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from(["yuv444p", "rgb24", "gray", "nv12"])
)
def test_any_size_of_any_format_gives_a_valid_picture(width, height, pixels):
    if pixels == "nv12":
        width, height = width + width % 2, height + height % 2
    shape = {"yuv444p": (3, height, width), "rgb24": (height, width, 3)}.get(pixels)
    if pixels == "nv12":
        shape = (height * 3 // 2, width)
    frame = VideoFrame.from_ndarray(np.full(shape or (height, width), 128, np.uint8), format=pixels)
    picture = Normaliser()(frame)
    assert (picture.width, picture.height) == (max(2, width & ~1), max(2, height & ~1))
    assert picture.v.shape == (picture.height // 2, picture.width // 2)


def test_a_normaliser_follows_a_change_of_size():
    normalise = Normaliser(longest_side=64)
    for width, height in ((320, 240), (160, 120), (240, 320)):
        frame = VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
        assert max(normalise(frame).i420.shape[1], normalise(frame).height) == 64


def feed_all(clip: Path, lag: float, drops: dict[str, int]) -> list[int]:
    """The numbers of the pictures that come out at this lag."""

    def count(reason: str, number: int) -> None:
        drops[reason] = drops.get(reason, 0) + number

    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        decoder = PacketDecoder(stream, on_drop=count)
        shots = []
        for number, packet in enumerate(container.demux(stream)):
            if packet.size:
                shots += decoder.feed(packet, arrived=number * 0.04, lag=lag if number else 0.0)
        shots += decoder.flush(now=9.0)
    return [read_counter(shot.make().y) for shot in shots]


B_FRAMES = {"preset": "ultrafast", "bf": "2", "b_strategy": "0", "b-pyramid": "none"}


def test_a_decoder_a_little_behind_skips_only_what_nothing_refers_to(tmp_path):
    clip = make_clip(tmp_path / "b.mp4", frames=24, paint=counter, options=B_FRAMES)
    everything: dict[str, int] = {}
    assert feed_all(clip, 0.0, everything) == list(range(24))
    assert everything == {}
    drops: dict[str, int] = {}
    shown = feed_all(clip, 0.5, drops)
    assert shown == sorted(shown)
    assert 6 <= len(shown) <= 14
    assert 10 <= drops[decode.DECODER_BEHIND] <= 18


def test_a_decoder_far_behind_shows_key_frames_only(tmp_path):
    clip = make_clip(tmp_path / "p.mp4", frames=25, paint=counter)
    drops: dict[str, int] = {}
    assert feed_all(clip, 3.0, drops) == [0, 10, 20]
    assert drops == {decode.DECODER_BEHIND: 22}


def test_pictures_come_in_order_and_arrive_with_the_packet_that_lets_them_be_shown(tmp_path):
    """What comes before pictures that are shown before it (B-frames) has to wait for them."""
    clip = make_clip(tmp_path / "b.mp4", frames=12, paint=counter, options=B_FRAMES)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        decoder = PacketDecoder(stream)
        arrivals, shots = {}, []
        for number, packet in enumerate(container.demux(stream)):
            if packet.size:
                arrivals[packet.pts] = float(number)
                shots += decoder.feed(packet, arrived=float(number), lag=0.0)
        shots += decoder.flush(now=99.0)
    assert [read_counter(shot.make().y) for shot in shots] == list(range(12))
    captured = [shot.captured for shot in shots]
    own = [arrivals[pts] for pts in sorted(arrivals)]
    assert own != sorted(own)
    assert captured == sorted(captured)
    assert all(mine <= at for mine, at in zip(own, captured, strict=True))
    assert len(set(captured)) >= 10


def broken(clip: Path, numbers: Collection[int], on_drop) -> list[int]:
    """The pictures of a clip some of whose packets are noise."""
    noise = np.random.default_rng(1).bytes(2000)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        decoder = PacketDecoder(stream, on_drop=on_drop)
        shots = []
        for number, packet in enumerate(container.demux(stream)):
            if not packet.size:
                continue
            sent = packet
            if number in numbers:
                sent = av.Packet(noise)
                sent.pts, sent.dts, sent.time_base = packet.pts, packet.dts, packet.time_base
            shots += decoder.feed(sent, arrived=number * 0.04, lag=0.0)
    return [read_counter(shot.make().y) for shot in shots]


def test_broken_packets_are_counted_and_the_next_key_frame_is_whole_again(tmp_path):
    clip = make_clip(tmp_path / "p.mp4", frames=30, paint=counter)
    drops: list[tuple[str, int]] = []
    shown = broken(clip, range(4, 8), lambda reason, count: drops.append((reason, count)))
    assert drops == [(decode.DECODE_ERROR, 1)] * 4
    assert shown[:4] == [0, 1, 2, 3]
    assert shown[-20:] == list(range(10, 30))


def test_broken_packets_far_apart_do_not_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BAD_PACKETS", 4)
    clip = make_clip(tmp_path / "p.mp4", frames=40, paint=counter)
    drops: list[str] = []
    numbers = [*range(3, 6), *range(23, 26)]
    shown = broken(clip, numbers, lambda reason, count: drops.append(reason))
    assert len(drops) == 6
    assert shown[-10:] == list(range(30, 40))


def test_nothing_but_broken_packets_ends_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BAD_PACKETS", 5)
    clip = make_clip(tmp_path / "p.mp4", frames=10)
    drops: list[str] = []
    with pytest.raises(SourceEnded, match=r"^5 packets in a row could not be decoded as h264"):
        broken(clip, range(10), lambda reason, count: drops.append(reason))
    assert drops == [decode.DECODE_ERROR] * 5


# --- decoding less while nobody watches -----------------------------------------------------------

# Two key frames in a row would hide what is lost between them: groups of ten, as `make_clip` does.
STRUCTURES = {
    "no B-frames": ("libx264", {"preset": "ultrafast", "bf": "0"}),
    "B-frames": ("libx264", B_FRAMES),
    "B-frames that others refer to": (
        "libx264",
        {"preset": "ultrafast", "bf": "3", "b_strategy": "0", "b-pyramid": "normal", "refs": "3"},
    ),
    "open groups": (
        "libx264",
        {"preset": "ultrafast", "bf": "2", "b_strategy": "0", "x264-params": "open-gop=1"},
    ),
    "HEVC, open groups": (
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2:open-gop=1:keyint=10"},
    ),
}
LENGTH = 60


@pytest.fixture(scope="module")
def structures(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("structures")
    return {
        name: make_clip(
            folder / f"{number}.ts", codec=codec, options=options, frames=LENGTH, paint=counter
        )
        for number, (name, (codec, options)) in enumerate(STRUCTURES.items())
    }


def sparing(
    clip: Path,
    extent: Extent,
    watched: Callable[[int], bool],
    drops: dict[str, int] | None = None,
) -> Iterator[tuple[int, bool, Shot]]:
    """The packet's number, whether it is a key frame, and each picture that comes out at it."""
    now = 0

    def count(reason: str, number: int) -> None:
        if drops is not None:
            drops[reason] = drops.get(reason, 0) + number

    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        decoding = Decoding(extent, lambda: watched(now))
        decoder = PacketDecoder(stream, on_drop=count, live=False, decoding=decoding)
        for packet in container.demux(stream):
            if packet.size:
                for shot in decoder.feed(packet, arrived=float(now), lag=0.0):
                    yield now, packet.is_keyframe, shot
                now += 1
        for shot in decoder.flush(now=float(now)):
            yield now, False, shot


def whole(clip: Path) -> dict[int, Picture]:
    """All pictures by their media time in 1/25 s, decoded without a gap."""
    return {round(shot.media_time * 25): shot.make() for _, _, shot in sparing(clip, "all", bool)}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(STRUCTURES)),
    st.sampled_from(["reference", "key"]),
    st.sets(st.integers(0, LENGTH - 1), max_size=6),
)
def test_no_change_between_extents_spoils_a_picture(structures, name, extent, turns):
    clip = structures[name]
    expected = whole(clip)
    shown = [
        (round(shot.media_time * 25), shot)
        for _, _, shot in sparing(clip, extent, lambda now: sum(t <= now for t in turns) % 2 == 1)
    ]
    assert shown
    places = [place for place, _ in shown]
    assert places == sorted(set(places))
    for place, shot in shown:
        assert (shot.make().i420 == expected[place].i420).all(), f"{name}: picture {place}"


@pytest.mark.parametrize("name", STRUCTURES)
def test_key_frames_alone_come_at_once_and_nothing_else_does(structures, name):
    drops: dict[str, int] = {}
    shown = list(sparing(structures[name], "key", lambda now: False, drops))
    assert len(shown) >= LENGTH // 10
    for number, is_key, shot in shown:
        assert is_key
        assert shot.captured == number
    assert drops == {decode.UNWATCHED: LENGTH - len(shown)}


@pytest.mark.parametrize("name", ["no B-frames", "B-frames"])
def test_after_key_frames_alone_the_whole_stream_begins_with_a_key_frame(structures, name):
    drops: dict[str, int] = {}
    shown = list(sparing(structures[name], "key", lambda now: now >= 25, drops))
    before = [number for number, _, _ in shown if number < 30]
    assert before == [0, 10, 20]
    assert len(shown) == 3 + 30
    # Nothing is given to the decoder in vain.
    assert drops == {decode.UNWATCHED: 27}


def test_the_last_pictures_before_key_frames_alone_are_not_held_back(structures):
    shown = list(sparing(structures["B-frames"], "key", lambda now: now < 25))
    assert max(number - shot.captured for number, _, shot in shown) <= 3
    assert len(shown) == 30 + 3


def name_of(shot: Shot) -> int:
    """Milliseconds of the clip."""
    return round(1e3 * shot.media_time)


def test_leaving_out_what_nothing_refers_to_delays_no_picture_by_more_than_one_packet(structures):
    for name in ("B-frames", "B-frames that others refer to"):
        clip, drops = structures[name], dict[str, int]()
        out = {name_of(shot): at for at, _, shot in sparing(clip, "all", bool)}
        less = {
            name_of(shot): at for at, _, shot in sparing(clip, "reference", lambda _: False, drops)
        }
        assert 0.3 * LENGTH < len(less) < 0.7 * LENGTH
        assert LENGTH - len(less) <= drops.pop(decode.UNWATCHED) <= LENGTH - len(less) + 3
        assert not drops
        assert max(at - out[name] for name, at in less.items()) <= 1


def test_a_watched_stream_is_decoded_whole(structures):
    for extent in ("reference", "key"):
        drops: dict[str, int] = {}
        shown = sparing(structures["B-frames"], extent, lambda now: True, drops)
        assert len(list(shown)) == LENGTH
        assert drops == {}


def test_where_hardly_any_picture_is_referred_to_all_are_decoded_after_a_while(tmp_path):
    options = {"preset": "ultrafast", "bf": "5", "b_strategy": "0", "b-pyramid": "none"}
    clip = make_clip(tmp_path / "b.ts", frames=180, paint=counter, options=options)
    at = [number for number, _, _ in sparing(clip, "reference", lambda now: False)]
    assert sum(number < 60 for number in at) < 18
    assert sum(number > 60 for number in at) > 110


def test_the_share_is_that_of_each_stretch_of_packets():
    economy = Economy("reference", lambda: False)
    for _ in range(10):
        for number in range(decode.SHARE_PACKETS):
            assert economy.next(is_key=False) == "reference"
            economy.count(1 if number % 3 == 0 else 0)
    for _ in range(decode.SHARE_PACKETS):
        assert economy.next(is_key=False) == "reference"
        economy.count(0)
    assert economy.next(is_key=False) == "all"


# --- hardware -------------------------------------------------------------------------------------


@pytest.fixture
def devices(monkeypatch):
    """What FFmpeg offers, and what each device does: "works", "no h264", or an error."""

    def set_up(**kinds: str) -> None:
        class Context:
            def __init__(self, is_hwaccel: bool) -> None:
                self.is_hwaccel = is_hwaccel

            @classmethod
            def create(cls, codec: str, mode: str, *, hwaccel: str) -> Context:
                if kinds[hwaccel] not in ("works", "no h264"):
                    raise FFmpegError(1, kinds[hwaccel])
                return cls(kinds[hwaccel] == "works")

        monkeypatch.setattr(decode, "hwdevices_available", lambda: list(kinds))
        monkeypatch.setattr(decode, "HWAccel", lambda kind, **_: kind)
        monkeypatch.setattr(decode, "CodecContext", Context)

    decode._device.cache_clear()
    yield set_up
    decode._device.cache_clear()


@pytest.mark.parametrize(
    ("wish", "kinds", "accelerated", "device", "reason"),
    [
        ("none", {"vaapi": "works"}, False, "cpu", "hwaccel is none"),
        ("auto", {"vaapi": "works"}, True, "vaapi", "it works"),
        ("auto", {"vaapi": "works"}, False, "cpu", "vaapi does not decode mpeg4"),
        ("auto", {"cuda": "no driver"}, False, "cpu", "no device works: cuda: no driver"),
    ],
)
def test_where_a_video_is_decoded_and_why(devices, wish, kinds, accelerated, device, reason):
    devices(**kinds)
    context = SimpleNamespace(name="mpeg4", is_hwaccel=accelerated)
    used, why = device_of(context, wish)
    assert used == device
    assert reason in why


def test_the_first_device_that_works_is_used(devices):
    devices(cuda="no driver", drm="no h264", vaapi="works", qsv="works")
    assert accelerator("auto", "gate") == "vaapi"
    assert accelerator("none", "gate") is None


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        ({"cuda": "no driver", "drm": "no h264"}, "cuda: no driver; drm: does not decode H.264"),
        ({}, "this FFmpeg knows no device"),
    ],
)
def test_without_a_device_the_cpu_decodes_and_the_log_says_why(devices, kinds, reason):
    devices(**kinds)
    with structlog.testing.capture_logs() as logs:
        assert accelerator("auto", "gate") is None
    assert logs == [
        {
            "event": "hardware_decoding",
            "log_level": "info",
            "source": "gate",
            "device": "none: by the CPU",
            "reason": reason,
        }
    ]
