import asyncio

import av
import cv2
import numpy as np
import pytest

from stream_server.errors import TooManyStreams, ViewUnavailable
from stream_server.flow.latest import Closed
from stream_server.frames import CameraPacket, Picture
from stream_server.publish.encode import Codec, EncodeOptions
from stream_server.publish.publisher import Publisher
from stream_server.publish.rendition import (
    SIZES,
    VIEWER_QUEUE,
    Size,
    VideoSubscription,
    encoded_time,
)
from stream_server.telemetry.metrics import Metrics, StreamMetrics


@pytest.fixture
def metrics() -> StreamMetrics:
    return Metrics().stream("cam")


@pytest.fixture
async def publisher(metrics: StreamMetrics) -> Publisher:
    return Publisher(metrics, options=EncodeOptions(), jpeg_quality=80, max_viewers=12)


def picture(number: int, width: int = 320, height: int = 240) -> Picture:
    """Grey, with a bright square that moves, so that a decoded frame can be told from others."""
    bgr = np.full((height, width, 3), 90, np.uint8)
    left = (number * 8) % (width - 40)
    bgr[100:140, left : left + 40] = 250
    return Picture.from_bgr(bgr)


def show(publisher: Publisher, first: int, count: int = 1) -> None:
    for number in range(first, first + count):
        publisher.deliver(publisher.encode(picture(number), number / 30))


async def take(viewer: VideoSubscription, count: int) -> list[av.Packet]:
    return [(await asyncio.wait_for(viewer.next(), 1)).packet for _ in range(count)]


def encodes(metrics: StreamMetrics, codec: str, size: str = "full") -> float:
    return metrics._metrics.encodes.labels("cam", codec, size)._value.get()


async def test_ten_viewers_cost_one_encode(publisher: Publisher, metrics: StreamMetrics) -> None:
    viewers = [publisher.watch("h264") for _ in range(10)]
    show(publisher, 0, 30)
    assert encodes(metrics, "h264") == 30
    assert encodes(metrics, "vp8") == 0
    packets = [await take(viewer, 30) for viewer in viewers]
    assert all(received[7] is packets[0][7] for received in packets)


async def test_nobody_watching_costs_no_encode(
    publisher: Publisher, metrics: StreamMetrics
) -> None:
    show(publisher, 0, 3)
    assert encodes(metrics, "h264") == encodes(metrics, "vp8") == 0


@pytest.mark.parametrize("codec", ["h264", "vp8"])
async def test_every_frame_can_be_decoded_and_shows_its_picture(
    publisher: Publisher, codec: Codec
) -> None:
    viewer = publisher.watch(codec)
    show(publisher, 0, 20)
    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    for number, packet in enumerate(await take(viewer, 20)):
        (frame,) = decoder.decode(packet)
        luma = frame.to_ndarray(format="yuv420p")[:240].astype(int)
        error = np.abs(luma - picture(number).y).mean()
        assert error < 3
        assert packet.pts == number * 3000


async def test_a_late_viewer_begins_with_a_key_frame(publisher: Publisher) -> None:
    first = publisher.watch("h264")
    show(publisher, 0, 20)
    late = publisher.watch("h264")
    show(publisher, 20, 5)
    (packet,) = await take(late, 1)
    assert packet.is_keyframe
    assert packet.pts == 20 * 3000
    keyframes = [packet.is_keyframe for packet in await take(first, 25)]
    assert [number for number, key in enumerate(keyframes) if key] == [0, 20]


async def test_a_viewer_right_after_a_key_frame_waits_for_the_next_one(
    publisher: Publisher,
) -> None:
    publisher.watch("h264")
    show(publisher, 0, 3)
    late = publisher.watch("h264")
    show(publisher, 3, 10)  # the next key frame may come 0.3 s after the last: frame 9
    (packet,) = await take(late, 1)
    assert packet.is_keyframe
    assert packet.pts == 9 * 3000


async def test_key_frame_requests_are_coalesced_and_rate_limited(publisher: Publisher) -> None:
    viewers = [publisher.watch("h264") for _ in range(5)]
    keys = []
    for number in range(60):  # two seconds in which everybody asks all the time
        for viewer in viewers:
            viewer.request_keyframe()
        show(publisher, number)
        keys.append((await take(viewers[0], 1))[0].is_keyframe)
    assert 6 <= sum(keys) <= 7  # one in 0.3 s


async def test_a_slow_viewer_skips_to_a_key_frame_and_hurts_nobody(
    publisher: Publisher, metrics: StreamMetrics
) -> None:
    quick, slow = publisher.watch("h264"), publisher.watch("h264")
    for number in range(VIEWER_QUEUE + 30):
        show(publisher, number)
        await take(quick, 1)
    frames = await take(slow, 1)
    assert frames[0].is_keyframe
    assert frames[0].pts >= VIEWER_QUEUE * 3000
    assert metrics.drops["viewer/slow"] == VIEWER_QUEUE


async def test_a_change_of_size_starts_a_new_sequence(publisher: Publisher) -> None:
    viewer = publisher.watch("h264")
    show(publisher, 0, 3)
    publisher.deliver(publisher.encode(picture(3, 640, 480), 0.1))
    packets = await take(viewer, 4)
    assert [packet.is_keyframe for packet in packets] == [True, False, False, True]
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    sizes = [frame.width for packet in packets for frame in decoder.decode(packet)]
    assert sizes == [320, 320, 320, 640]


async def test_time_stamps_never_go_back(publisher: Publisher) -> None:
    viewer = publisher.watch("h264")
    for captured in (1.0, 1.1, 1.1, 0.9, 1.2):
        publisher.deliver(publisher.encode(picture(0), captured))
    stamps = [packet.pts for packet in await take(viewer, 5)]
    assert stamps == sorted(set(stamps))


async def test_mjpeg_gets_the_newest_picture_once_encoded(publisher: Publisher) -> None:
    with publisher.watch_jpeg() as pictures:
        assert publisher.viewers == 1
        show(publisher, 0, 5)
        jpeg = await anext(aiter(pictures))
    assert publisher.viewers == 0
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.abs(shown.astype(int) - cv2.cvtColor(picture(4).bgr(), cv2.COLOR_BGR2GRAY)).mean() < 3


async def test_it_is_watched_while_anybody_watches_in_any_way(publisher: Publisher) -> None:
    assert not publisher.watched
    viewer = publisher.watch("vp8", "thumb")
    assert publisher.watched
    viewer.close()
    assert not publisher.watched
    with publisher.watch_jpeg():
        assert publisher.watched
    assert not publisher.watched


async def test_viewers_are_bounded_and_counted(publisher: Publisher) -> None:
    viewers = [publisher.watch("vp8") for _ in range(12)]
    with pytest.raises(TooManyStreams, match="limit of 12 viewers"):
        publisher.watch("h264")
    viewers[0].close()
    viewers[0].close()
    assert publisher.viewers == 11
    publisher.watch("h264").close()


async def test_closing_ends_every_viewer(publisher: Publisher) -> None:
    viewer, jpegs = publisher.watch("h264"), publisher.watch_jpeg()
    waiting = asyncio.create_task(viewer.next())
    await asyncio.sleep(0)
    publisher.close()
    with pytest.raises(Closed):
        await waiting
    assert [jpeg async for jpeg in jpegs] == []
    with pytest.raises(Closed):
        await publisher.watch("h264").next()


async def test_each_size_is_encoded_once_and_only_while_watched(
    publisher: Publisher, metrics: StreamMetrics
) -> None:
    viewers = {size: [publisher.watch("h264", size) for _ in range(3)] for size in SIZES[1:]}
    publisher.deliver(publisher.encode(picture(0, 1280, 720), 0.0))
    assert [encodes(metrics, "h264", size) for size in SIZES] == [0, 1, 1]
    widths = {size: decoded_width(await take(watching[0], 1)) for size, watching in viewers.items()}
    assert widths == {"half": 640, "thumb": 320}
    for viewer in viewers["half"]:
        viewer.close()
    publisher.deliver(publisher.encode(picture(1, 1280, 720), 0.1))
    assert [encodes(metrics, "h264", size) for size in SIZES] == [0, 1, 2]
    count = metrics._metrics.rendition_viewers
    assert [count.labels("cam", size)._value.get() for size in SIZES] == [0, 0, 3]


def decoded_width(packets: list[av.Packet]) -> int:
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    return [frame.width for packet in packets for frame in decoder.decode(packet)][-1]


@pytest.mark.parametrize(("first", "then"), [("full", "thumb"), ("thumb", "full")])
async def test_a_viewer_moves_at_a_key_frame_without_a_gap_or_a_time_stamp_twice(
    publisher: Publisher, first: Size, then: Size
) -> None:
    viewer = publisher.watch("h264", first)
    packets: list[av.Packet] = []
    for number in range(30):
        if number == 10:
            publisher.move(viewer, "h264", then)
        publisher.deliver(publisher.encode(picture(number, 640, 480), number / 30))
        if number in (5, 10, 11, 29):  # at other times some wait while it moves
            packets += await take(viewer, number + 1 - len(packets))
    assert [packet.pts for packet in packets] == [encoded_time(n / 30) for n in range(30)]
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    widths = [frame.width for packet in packets for frame in decoder.decode(packet)]
    wide = {"full": 640, "thumb": 320}
    assert widths == [wide[first]] * 10 + [wide[then]] * 20
    assert publisher.viewers == 1
    viewer.close()
    assert publisher.viewers == 0


async def test_a_viewer_who_moves_sees_the_former_size_until_the_key_frame(
    publisher: Publisher,
) -> None:
    viewer = publisher.watch("h264")
    show(publisher, 0, 8)
    publisher.watch("h264", "half")
    show(publisher, 8, 2)  # others' key frame: the next may come 0.3 s later, with frame 17
    publisher.move(viewer, "h264", "half")
    show(publisher, 10, 20)
    packets = await take(viewer, 30)
    assert len({packet.pts for packet in packets}) == 30
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    widths = [frame.width for packet in packets for frame in decoder.decode(packet)]
    assert widths == [320] * 17 + [160] * 13


async def test_a_viewer_who_turns_back_before_the_key_frame_stays(publisher: Publisher) -> None:
    viewer = publisher.watch("h264")
    show(publisher, 0, 3)
    publisher.move(viewer, "h264", "thumb")
    publisher.move(viewer, "h264", "full")
    show(publisher, 3, 3)
    assert viewer.rendition.name == "full"
    assert [packet.pts for packet in await take(viewer, 6)] == [n * 3000 for n in range(6)]


def camera_packet(number: int, *, keyframe: bool = False) -> CameraPacket:
    return CameraPacket(b"\0\0\1" + bytes([number % 256]), keyframe, number / 10, number * 9000)


async def test_a_cameras_own_packets_go_untouched_from_a_key_frame_on(
    publisher: Publisher, metrics: StreamMetrics
) -> None:
    publisher.source.offer(camera_packet(0, keyframe=True))
    first = publisher.watch("h264", "source")
    for number in range(1, 8):
        publisher.source.offer(camera_packet(number, keyframe=number % 4 == 0))
        await asyncio.sleep(0)
    packets = await take(first, 4)
    assert [bytes(packet) for packet in packets] == [camera_packet(n).data for n in range(4, 8)]
    assert [packet.pts for packet in packets] == [n * 9000 for n in range(4, 8)]
    assert publisher.source.rtp_time(0.5) == 5 * 9000
    assert publisher.source.rtp_time(0.55) is None
    assert publisher.viewers == 1
    assert publisher.drawn_for == 0
    show(publisher, 0)
    assert encodes(metrics, "h264") == 0


async def test_what_is_kept_of_a_camera_is_bounded_while_the_loop_is_busy(
    publisher: Publisher, metrics: StreamMetrics
) -> None:
    publisher.source.offer(camera_packet(0, keyframe=True))
    viewer = publisher.watch("h264", "source")
    publisher.source.offer(camera_packet(1, keyframe=True))
    await asyncio.sleep(0)
    await take(viewer, 1)
    for number in range(2, VIEWER_QUEUE + 20):  # all between two turns of the event loop
        publisher.source.offer(camera_packet(number, keyframe=number == VIEWER_QUEUE + 10))
    assert len(publisher.source._waiting) <= VIEWER_QUEUE
    await asyncio.sleep(0)
    (packet,) = await take(viewer, 1)
    assert bytes(packet) == camera_packet(VIEWER_QUEUE + 10).data
    assert metrics.drops["viewer/slow"] == VIEWER_QUEUE


async def test_the_source_view_is_refused_with_the_reason(publisher: Publisher) -> None:
    with pytest.raises(ViewUnavailable, match=r"no H\.264 yet.*view=annotated"):
        publisher.watch("h264", "source")
    publisher.source.offer(camera_packet(0, keyframe=True))
    viewer = publisher.watch("h264", "source")
    publisher.source.refuse("it has B-frames")
    await asyncio.sleep(0)
    with pytest.raises(Closed):
        await viewer.next()
    assert publisher.viewers == 0
    with pytest.raises(ViewUnavailable, match="B-frames"):
        publisher.watch("h264", "source")
    publisher.source.offer(camera_packet(0, keyframe=True))  # another run, set right
    publisher.watch("h264", "source")


async def test_a_camera_without_key_frames_is_refused(publisher: Publisher) -> None:
    publisher.source.offer(camera_packet(0, keyframe=True))
    for number in range(1, 131):
        publisher.source.offer(camera_packet(number))
    with pytest.raises(ViewUnavailable, match="key frame is 13 s old"):
        publisher.watch("h264", "source")


async def test_a_camera_come_back_a_little_behind_does_not_turn_time_back(
    publisher: Publisher,
) -> None:
    publisher.source.offer(camera_packet(9, keyframe=True))
    viewer = publisher.watch("h264", "source")
    for number in (9, 5, 6, 12):
        publisher.source.offer(camera_packet(number, keyframe=number in (9, 5)))
        await asyncio.sleep(0)
    stamps = [packet.pts for packet in await take(viewer, 4)]
    assert stamps == [81_000, 81_001, 81_002, 108_000]
