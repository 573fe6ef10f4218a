"""All that is private in aiortc 1.16 and touched here; tests/contract/test_aiortc.py guards it.

Why: aiortc's receive queues are unbounded, so latency grows without limit under load; its jitter
buffer holds each frame until the next one begins, and an unrecovered loss stalls it for hundreds
of packets; a key-frame request does nothing for tracks that carry encoded packets; and ICE cannot
be restarted. A sender adds a random origin to time stamps, so that nobody can tell which frame a
player shows, puts the time of sending into its reports, and keeps what the receiver says of the
network to itself.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from aioice import Connection
from aiortc import RTCIceTransport, RTCRtpReceiver, RTCRtpSender
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import (
    RTCP_PSFB_APP,
    AnyRtcpPacket,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtpPacket,
    unpack_remb_fci,
)
from aiortc.utils import uint16_add, uint16_gt
from av.frame import Frame

DropCounter = Callable[[str, int], None]

# About a quarter of a second at 30 frames/s: a decoder further behind than this never catches up.
DECODE_BACKLOG = 8
# A retransmission over the Internet takes up to about 200 ms; waiting longer only adds delay.
LOSS_PATIENCE = 0.25
JITTER_CAPACITY = 512
ARRIVALS_KEPT = 256
# Seconds from 1900, where NTP begins, to 1970.
NTP_EPOCH = 2_208_988_800


class NewestFrameQueue(asyncio.Queue[Frame | None]):
    """A receive queue of one decoded frame: a new one displaces one that was not taken."""

    def __init__(self, on_drop: DropCounter) -> None:
        super().__init__()
        self._on_drop = on_drop

    async def put(self, item: Frame | None) -> None:
        """Never waits. None (end of track) is kept behind the last frame."""
        if item is not None:
            while not self.empty():
                waiting = self.get_nowait()
                if waiting is None:  # the track has ended: nothing may come after
                    self.put_nowait(None)
                    return
                self._on_drop("superseded", 1)
        self.put_nowait(item)


class BoundedDecodeQueue(queue.Queue[Any]):
    """The decoder thread's input: over the backlog it skips to the next key frame and asks for it.

    Remembers when each encoded frame arrived, by its RTP time stamp.
    """

    def __init__(self, on_drop: DropCounter, ask_keyframe: Callable[[], None]) -> None:
        super().__init__()
        self._on_drop = on_drop
        self._ask_keyframe = ask_keyframe
        self._skipping = False
        self._asked_at = 0.0
        self._arrivals: OrderedDict[int, float] = OrderedDict()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Called on the event loop; never blocks. None stops the decoder, ahead of what waits."""
        if item is None:
            self._clear()
            super().put(None)
            return
        codec, frame = item
        if self.qsize() >= DECODE_BACKLOG:
            self._on_drop("decoder_behind", self._clear())
            self._skipping = True
        if self._skipping and not self._resume_at(codec, frame):
            self._on_drop("decoder_behind", 1)
            return
        self._arrivals[frame.timestamp] = time.monotonic()
        while len(self._arrivals) > ARRIVALS_KEPT:
            self._arrivals.popitem(last=False)
        super().put(item)

    def arrival(self, pts: int) -> float:
        """Monotonic seconds when the encoded frame with this time stamp was complete."""
        return self._arrivals.pop(pts, None) or time.monotonic()

    def _resume_at(self, codec: RTCRtpCodecParameters, frame: JitterFrame) -> bool:
        if is_keyframe(codec.name, frame.data):
            self._skipping = False
            return True
        now = time.monotonic()
        if now - self._asked_at > 0.5:
            self._asked_at = now
            self._ask_keyframe()
        return False

    def _clear(self) -> int:
        dropped = 0
        while True:
            try:
                self.get_nowait()
            except queue.Empty:
                return dropped
            dropped += 1


class LiveJitterBuffer(JitterBuffer):
    """Gives a frame on its last packet (RTP marker) and gives up on a lost packet after a while."""

    def __init__(self, on_drop: DropCounter) -> None:
        super().__init__(capacity=JITTER_CAPACITY, is_video=True)
        self._on_drop = on_drop
        self._gap_since: float | None = None
        self._newest = 0

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """(whether to ask for a key frame, a complete encoded frame or None)."""
        if self._origin is None or uint16_gt(packet.sequence_number, self._newest):
            self._newest = packet.sequence_number
        ask_keyframe, frame = super().add(packet)
        behind_gap = None if frame is not None else self._held_behind_gap()
        now = time.monotonic()
        if behind_gap is None:
            self._gap_since = None
        elif self._gap_since is None:
            self._gap_since = now
        elif now - self._gap_since > LOSS_PATIENCE:
            self._gap_since = None
            self._on_drop("packet_loss", 1)
            self.smart_remove(behind_gap)
            return True, self._remove_frame(packet.sequence_number)
        return ask_keyframe, frame

    def _at(self, offset: int) -> RtpPacket | None:
        assert self._origin is not None  # set by the first packet
        return self._packets[(self._origin + offset) % self._capacity]

    def _held_behind_gap(self) -> int | None:
        """Offset of the first packet that waits behind a missing one, None without a gap."""
        span = uint16_add(self._newest, 1 - (self._origin or 0))
        missing = False
        for offset in range(min(self._capacity, span)):
            held = self._at(offset) is not None
            if missing and held:
                return offset
            missing = missing or not held
        return None

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        packets: list[RtpPacket] = []
        for offset in range(self._capacity):
            packet = self._at(offset)
            if packet is None:
                return None
            if packets and packet.timestamp != packets[0].timestamp:
                return self._take(packets)
            packets.append(packet)
            if packet.marker:
                return self._take(packets)
        return None

    def _take(self, packets: list[RtpPacket]) -> JitterFrame:
        self.remove(len(packets))
        return JitterFrame(
            data=b"".join(packet._data for packet in packets),  # type: ignore[attr-defined]
            timestamp=packets[0].timestamp,
        )


def is_keyframe(codec: str, data: bytes) -> bool:
    """Whether an encoded frame can be decoded without those before it (H.264 Annex-B or VP8)."""
    if codec.upper() == "VP8":
        return bool(data) and not data[0] & 1
    start = data.find(b"\x00\x00\x01")
    while 0 <= start < len(data) - 3:
        if data[start + 3] & 0x1F in (5, 7):  # IDR slice, sequence parameter set
            return True
        start = data.find(b"\x00\x00\x01", start + 3)
    return False


def bound_receiver(receiver: RTCRtpReceiver, on_drop: DropCounter) -> Callable[[int], float]:
    """Bound every queue of a video receiver. Call between setRemote- and setLocalDescription.

    Returns a function from a decoded frame's pts to its arrival in monotonic seconds.
    """
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def ask_keyframe() -> None:
        for ssrc in receiver._RTCRtpReceiver__remote_streams:  # type: ignore[attr-defined]
            task = loop.create_task(receiver._send_rtcp_pli(ssrc))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    decode_queue = BoundedDecodeQueue(on_drop, ask_keyframe)
    receiver._RTCRtpReceiver__decoder_queue = decode_queue  # type: ignore[attr-defined]
    receiver._RTCRtpReceiver__jitter_buffer = LiveJitterBuffer(on_drop)  # type: ignore[attr-defined]
    receiver._track._queue = NewestFrameQueue(on_drop)  # type: ignore[union-attr]
    return decode_queue.arrival


def on_keyframe_request(sender: RTCRtpSender, ask: Callable[[], None]) -> None:
    """Route a viewer's PLI and FIR to `ask` instead of to aiortc's own encoder."""
    sender._send_keyframe = ask  # type: ignore[method-assign]


class SenderClock:
    """What a sender makes of its frames' time stamps."""

    def __init__(self, sender: RTCRtpSender) -> None:
        self._sender = sender
        self._origin: int | None = None

    def sent(self, pts: int, captured: float) -> None:
        """The frame with this time stamp (1/90000 s) has left, and nothing after it.

        The sender reports pair time stamps with the time of sending; from now on they name that
        of the capture (`captured`, monotonic seconds), so that a player can tell a picture's age.
        """
        private: Any = self._sender
        self._origin = (private._RTCRtpSender__rtp_timestamp - pts) % 2**32
        wall = time.time() - (time.monotonic() - captured)
        private._RTCRtpSender__ntp_timestamp = int((wall + NTP_EPOCH) * 2**32)

    def rtp_time(self, pts: int) -> int | None:
        """The RTP time stamp under which a frame leaves; None before the first one has left."""
        return None if self._origin is None else (self._origin + pts) % 2**32


def on_feedback(sender: RTCRtpSender, tell: Callable[[float | None, float | None], None]) -> None:
    """Pass on what the receiver says: (bits per second it can take, share of packets lost).

    Either is None where a report does not have it.
    """
    handle = sender._handle_rtcp_packet

    async def listen(packet: AnyRtcpPacket) -> None:
        await handle(packet)
        if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP:
            try:
                bits, _ = unpack_remb_fci(packet.fci)
            except ValueError:
                return
            tell(float(bits), None)
        elif isinstance(packet, RtcpRrPacket):
            for report in packet.reports:
                if report.ssrc == sender._ssrc:
                    tell(None, report.fraction_lost / 256)

    sender._handle_rtcp_packet = listen  # type: ignore[method-assign]


def present_connection(ice: RTCIceTransport) -> Connection:
    """The ICE connection that is in use, for the candidates that come later."""
    return ice._connection


def survive_ice_restart(ice: RTCIceTransport) -> None:
    """Let the DTLS session read from whichever ICE connection is current. Call before it starts."""

    async def receive() -> bytes:
        while True:
            connection = ice._connection
            try:
                data: bytes = await connection.recv()
            except ConnectionError:
                if ice._connection is connection:
                    raise
            else:
                return data

    ice._recv = receive


async def restart_ice(ice: RTCIceTransport, connection: Connection) -> None:
    """Replace the ICE connection under a DTLS session that goes on (RFC 8445, section 9).

    `connection` has its local candidates and the remote credentials; returns when it is connected
    and has taken over, or, closed again, when it could not be: then the old one stays.
    """
    try:
        await connection.connect()
    except ConnectionError:
        await connection.close()
        return
    except asyncio.CancelledError:
        await connection.close()
        raise
    previous, ice._connection = ice._connection, connection
    ice._send = connection.send
    # The monitor of the old connection would take its closing for a failure of the transport.
    ice._RTCIceTransport__monitor_task.cancel()  # type: ignore[attr-defined]
    ice._RTCIceTransport__monitor_task = asyncio.ensure_future(  # type: ignore[attr-defined]
        ice._monitor()
    )
    await previous.close()
