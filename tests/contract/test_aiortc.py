"""Guards every private attribute of aiortc that stream_server/rtc/internals.py touches.

If aiortc is upgraded and one of these fails, read internals.py before touching the pin.
"""

import asyncio
import fractions
import random
import time

import av
import numpy as np
import pytest
from aioice import Connection
from aiortc import (
    MediaStreamTrack,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RtcpPsfbPacket,
    RtcpSrPacket,
    RtpPacket,
    pack_remb_fci,
)

from stream_server.frames import Picture
from stream_server.publish.encode import EncodeOptions, VideoEncoder
from stream_server.rtc.internals import (
    DECODE_BACKLOG,
    LOSS_PATIENCE,
    NTP_EPOCH,
    BoundedDecodeQueue,
    LiveJitterBuffer,
    NewestFrameQueue,
    SenderClock,
    bound_receiver,
    is_keyframe,
    on_feedback,
    on_keyframe_request,
    present_connection,
    restart_ice,
    survive_ice_restart,
)

H264 = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90000, payloadType=97)
VP8 = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90000, payloadType=98)


def packet(sequence: int, timestamp: int, *, marker: bool, data: bytes = b"x") -> RtpPacket:
    made = RtpPacket(sequence_number=sequence & 0xFFFF, timestamp=timestamp, marker=int(marker))
    made._data = data
    return made


def noise(seed: int, width: int = 64, height: int = 48) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 255, (height * 3 // 2, width), np.uint8)
    return Picture(pixels)


class Drops:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def __call__(self, reason: str, count: int) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count


def test_a_frame_is_given_on_its_marker_not_on_the_next_frame() -> None:
    buffer = LiveJitterBuffer(Drops())
    assert buffer.add(packet(10, 0, marker=False, data=b"a")) == (False, None)
    ask, frame = buffer.add(packet(11, 0, marker=True, data=b"b"))
    assert not ask
    assert frame is not None
    assert frame.data == b"ab"


def test_reordered_packets_make_whole_frames_in_order() -> None:
    order = list(range(60))
    rng = random.Random(4)
    for start in range(0, 60, 6):
        chunk = order[start : start + 6]
        rng.shuffle(chunk)
        order[start : start + 6] = chunk
    order.remove(0)
    order.insert(0, 0)  # the first packet sets the origin
    buffer = LiveJitterBuffer(Drops())
    frames = []
    for number in order:
        sequence = 65530 + number  # wraps round
        _, frame = buffer.add(
            packet(sequence, number // 3, marker=number % 3 == 2, data=bytes([number]))
        )
        if frame is not None:
            frames.append((frame.timestamp, frame.data))
    for number in range(60, 100):  # what was held back comes out with the packets that follow
        _, frame = buffer.add(
            packet(65530 + number, number // 3, marker=number % 3 == 2, data=bytes([number]))
        )
        if frame is not None:
            frames.append((frame.timestamp, frame.data))
    assert frames[:20] == [(n, bytes([3 * n, 3 * n + 1, 3 * n + 2])) for n in range(20)]


def test_a_lost_packet_stalls_no_longer_than_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    drops = Drops()
    buffer = LiveJitterBuffer(drops)
    buffer.add(packet(0, 0, marker=True))
    # Packet 1 is lost; frames 2, 3, ... wait behind it, then the wait ends with a key frame asked.
    delivered, asked = [], False
    for number in range(2, 40):
        ask, frame = buffer.add(packet(number, number, marker=True))
        asked = asked or ask
        if frame is not None:
            delivered.append((frame.timestamp, now[0]))
        now[0] += 1 / 30
    assert asked
    assert drops.counts == {"packet_loss": 1}
    assert delivered[0][0] == 2
    assert delivered[0][1] - 100.0 <= LOSS_PATIENCE + 2 / 30
    assert [timestamp for timestamp, _ in delivered] == list(range(2, 2 + len(delivered)))


async def test_newest_decoded_frame_wins_and_the_end_is_kept() -> None:
    drops = Drops()
    frames: NewestFrameQueue = NewestFrameQueue(drops)
    made = [av.VideoFrame(16, 16, "yuv420p") for _ in range(5)]
    for frame in made:
        await frames.put(frame)
    assert frames.qsize() == 1
    await frames.put(None)
    assert await frames.get() is made[-1]
    assert await frames.get() is None
    assert drops.counts == {"superseded": 4}


@pytest.mark.parametrize("codec", [H264, VP8], ids=["h264", "vp8"])
def test_a_decoder_that_falls_behind_resumes_at_a_key_frame(codec: RTCRtpCodecParameters) -> None:
    encoder = VideoEncoder("h264" if codec is H264 else "vp8", EncodeOptions())
    asked, drops = [], Drops()
    waiting = BoundedDecodeQueue(drops, lambda: asked.append(True))
    timestamp = 0

    def send(*, keyframe: bool) -> None:
        nonlocal timestamp
        for encoded in encoder.encode(noise(timestamp), timestamp / 30, keyframe=keyframe):
            assert is_keyframe(codec.name, bytes(encoded.packet)) == encoded.keyframe
            waiting.put((codec, JitterFrame(data=bytes(encoded.packet), timestamp=timestamp)))
            timestamp += 1

    for number in range(DECODE_BACKLOG + 4):  # nobody takes any
        send(keyframe=number == 0)
    assert waiting.qsize() == 0
    assert asked
    assert drops.counts["decoder_behind"] == DECODE_BACKLOG + 4
    send(keyframe=True)
    send(keyframe=False)
    assert waiting.qsize() == 2
    assert waiting.get()[1].timestamp == DECODE_BACKLOG + 4


def test_stopping_the_decoder_does_not_wait_for_the_backlog() -> None:
    waiting = BoundedDecodeQueue(Drops(), lambda: None)
    for timestamp in range(3):
        waiting.put((VP8, JitterFrame(data=b"\x00", timestamp=timestamp)))
    waiting.put(None)
    assert waiting.get() is None


async def connect(
    receiver_side: RTCPeerConnection, sender_side: RTCPeerConnection, track: VideoStreamTrack
) -> tuple[Drops, object]:
    sender = sender_side.addTrack(track)
    offer = await sender_side.createOffer()
    await sender_side.setLocalDescription(offer)
    survive_ice_restart(sender_side.getSenders()[0].transport.transport)
    await receiver_side.setRemoteDescription(
        RTCSessionDescription(sender_side.localDescription.sdp, "offer")
    )
    drops = Drops()
    survive_ice_restart(receiver_side.getReceivers()[0].transport.transport)
    arrival = bound_receiver(receiver_side.getReceivers()[0], drops)
    answer = await receiver_side.createAnswer()
    await receiver_side.setLocalDescription(answer)
    await sender_side.setRemoteDescription(
        RTCSessionDescription(receiver_side.localDescription.sdp, "answer")
    )
    return drops, (arrival, sender)


class Ticking(VideoStreamTrack):
    """Thirty frames a second."""


async def test_a_real_peer_through_the_bounded_receiver() -> None:
    """Frames arrive with their arrival times; one that is never read costs one frame of memory."""
    here, there = RTCPeerConnection(), RTCPeerConnection()
    try:
        drops, (arrival, sender) = await connect(here, there, Ticking())
        track = here.getReceivers()[0].track
        frame = await asyncio.wait_for(track.recv(), 15)
        assert 0 <= time.monotonic() - arrival(frame.pts) < 2
        await asyncio.sleep(1.0)  # nobody reads
        assert track._queue.qsize() <= 1
        assert drops.counts.get("superseded", 0) >= 10
        asked: list[bool] = []
        on_keyframe_request(sender, lambda: asked.append(True))
        receiver = here.getReceivers()[0]
        for ssrc in receiver._RTCRtpReceiver__remote_streams:
            await receiver._send_rtcp_pli(ssrc)
        for _ in range(50):
            if asked:
                break
            await asyncio.sleep(0.05)
        assert asked
    finally:
        started = time.monotonic()
        await here.close()
        await there.close()
        assert time.monotonic() - started < 3


async def test_a_new_ice_connection_takes_over_under_the_same_dtls_session() -> None:
    here, there = RTCPeerConnection(), RTCPeerConnection()
    try:
        await connect(here, there, Ticking())
        track = here.getReceivers()[0].track
        await asyncio.wait_for(track.recv(), 15)
        transports = [
            here.getReceivers()[0].transport.transport,
            there.getSenders()[0].transport.transport,
        ]
        before = [transport._connection for transport in transports]
        fresh = [Connection(ice_controlling=old.ice_controlling) for old in before]
        for mine, other in (fresh, fresh[::-1]):
            await mine.gather_candidates()
            mine.remote_username = other.local_username
            mine.remote_password = other.local_password
        for mine, other in (fresh, fresh[::-1]):
            for candidate in other.local_candidates:
                await mine.add_remote_candidate(candidate)
            await mine.add_remote_candidate(None)
        await asyncio.wait_for(
            asyncio.gather(*(restart_ice(t, c) for t, c in zip(transports, fresh, strict=True))), 15
        )
        assert [present_connection(transport) for transport in transports] == fresh
        for _ in range(45):  # far more than could have been under way on the old path
            await asyncio.wait_for(track.recv(), 5)
        assert here.connectionState == there.connectionState == "connected"
        with pytest.raises(ConnectionError):
            await before[0].recv()
    finally:
        await here.close()
        await there.close()


class Encoded(MediaStreamTrack):
    """Twenty encoded frames a second, each captured a second before it is sent."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._encoder = VideoEncoder("vp8", EncodeOptions())
        self.on_sent = lambda pts, captured: None
        self.sent: list[tuple[int, float]] = []

    async def recv(self) -> av.Packet:
        if self.sent:
            self.on_sent(*self.sent[-1])
        await asyncio.sleep(0.05)
        captured = time.monotonic() - 1.0
        (frame,) = self._encoder.encode(noise(1), captured, keyframe=False)
        self.sent.append((frame.rtp_time, captured))
        return frame.packet


def overhear(receiver: RTCRtpReceiver) -> tuple[list[int], list[RtcpSrPacket]]:
    """The RTP time stamps and the sender reports that arrive from now on."""
    stamps, reports = [], []
    handle_rtp, handle_rtcp = receiver._handle_rtp_packet, receiver._handle_rtcp_packet

    async def rtp(packet: RtpPacket, arrival_time_ms: int) -> None:
        stamps.append(packet.timestamp)
        await handle_rtp(packet, arrival_time_ms)

    async def rtcp(packet: object) -> None:
        if isinstance(packet, RtcpSrPacket):
            reports.append(packet)
        await handle_rtcp(packet)

    receiver._handle_rtp_packet, receiver._handle_rtcp_packet = rtp, rtcp
    return stamps, reports


async def test_the_rtp_time_of_each_frame_is_known_and_reports_name_its_capture() -> None:
    here, there = RTCPeerConnection(), RTCPeerConnection()
    try:
        track = Encoded()
        _, (_, sender) = await connect(here, there, track)
        clock = SenderClock(sender)
        assert clock.rtp_time(0) is None
        track.on_sent = clock.sent
        stamps, reports = overhear(here.getReceivers()[0])
        for _ in range(100):
            await asyncio.sleep(0.1)
            if len(reports) >= 2:
                break
        told = {clock.rtp_time(pts): captured for pts, captured in track.sent}
        assert set(stamps) <= set(told)
        assert len(set(stamps)) > 20
        for report in reports[1:]:
            info = report.sender_info
            assert info is not None
            ago = time.monotonic() - told[info.rtp_timestamp]
            said = time.time() - (info.ntp_timestamp / 2**32 - NTP_EPOCH)
            assert said == pytest.approx(ago, abs=0.005)
    finally:
        await here.close()
        await there.close()


async def test_what_a_receiver_reports_is_heard() -> None:
    here, there = RTCPeerConnection(), RTCPeerConnection()
    heard: list[tuple[float | None, float | None]] = []
    try:
        _, (_, sender) = await connect(here, there, Encoded())
        on_feedback(sender, lambda estimate, loss: heard.append((estimate, loss)))
        receiver = here.getReceivers()[0]
        await asyncio.wait_for(receiver.track.recv(), 15)
        somebody_else = sender._ssrc ^ 1
        for ssrc, bits in ((sender._ssrc, 700_000), (somebody_else, 300_000)):
            fci = pack_remb_fci(bits, [ssrc])
            await receiver._send_rtcp(
                RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=0, media_ssrc=0, fci=fci)
            )
        for _ in range(40):
            await asyncio.sleep(0.1)
            if any(loss is not None for _, loss in heard):
                break
        estimates = [estimate for estimate, _ in heard if estimate is not None]
        assert any(estimate == pytest.approx(700_000, rel=1e-4) for estimate in estimates)
        assert not any(estimate == pytest.approx(300_000, rel=1e-4) for estimate in estimates)
        assert (None, 0.0) in heard
    finally:
        await here.close()
        await there.close()


def test_packets_pass_through_the_sender_unencoded() -> None:
    """aiortc's sender packs an av.Packet as it is: the base of encoding once for all viewers."""
    from aiortc.codecs import get_encoder

    encoder = VideoEncoder("h264", EncodeOptions())
    encoded = encoder.encode(noise(1), 1.0, keyframe=True)[0]
    payloads, timestamp = get_encoder(H264).pack(encoded.packet)
    assert timestamp == 90_000
    assert sum(map(len, payloads)) > 0
    assert encoded.packet.time_base == fractions.Fraction(1, 90_000)
