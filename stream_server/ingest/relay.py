"""A camera's own H.264, made ready to go to viewers as it is, or the reason why it cannot."""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

from stream_server.frames import CameraPacket
from stream_server.ingest.decode import seconds
from stream_server.ingest.pace import Timeline
from stream_server.ports import PacketSink

RTP_CLOCK = 90_000
_SLICE, _IDR, _PARAMETERS = 1, 5, 7
_START = b"\x00\x00\x01"
_B_SLICES = (1, 6)
_FORMATS = ("yuv420p", "yuvj420p", None)


class NoPackets:
    """A sink for those who want none."""

    def offer(self, packet: CameraPacket) -> None:
        """Let it go."""

    def refuse(self, reason: str) -> None:
        """Nobody asked."""


NO_PACKETS: PacketSink = NoPackets()


class Relay:
    """One run's packets on their way to viewers. Not thread-safe.

    Browsers play H.264 in 4:2:0 whose pictures come in the order in which they are shown. For
    anything else the sink is told the reason, once, and gets no packet.
    """

    def __init__(self, stream: VideoStream, sink: PacketSink) -> None:
        self._sink = sink
        self._timeline = Timeline()
        self._start: tuple[float, float] | None = None
        self._last = 0.0
        self._open = True
        self._filter: BitStreamFilterContext | None = None
        self._parameters = b""
        if reason := unsuited(stream):
            self._refuse(reason)
            return
        extra = bytes(stream.codec_context.extradata or b"")
        if extra[:1] == b"\x01":  # length-prefixed, as in MP4 and Matroska
            self._filter = BitStreamFilterContext("h264_mp4toannexb", stream)
        else:
            self._parameters = extra

    def feed(self, packet: Packet[VideoStream], captured: float) -> None:
        """Hand the packet on; `captured` (monotonic s) is that of the frame decoded from it."""
        if not self._open:
            return
        stamp = seconds(packet.pts if packet.pts is not None else packet.dts, packet.time_base)
        for data in self._annex_b(packet):
            kinds = set()
            for kind, slice_kind in units(data):
                if slice_kind in _B_SLICES:
                    self._refuse(
                        "the camera's video has B-frames, which WebRTC cannot carry: "
                        "turn them off in the camera (often: profile Baseline)"
                    )
                    return
                kinds.add(kind)
            key = _IDR in kinds
            whole = self._parameters + data if key and _PARAMETERS not in kinds else data
            self._sink.offer(CameraPacket(whole, key, captured, self._rtp_time(stamp, captured)))

    def check_upright(self, rotation: int) -> None:
        """Refuse a file whose pictures are to be turned by so many degrees: packets cannot be."""
        if rotation and self._open:
            self._refuse("the file's pictures lie on their side: turn them with FFmpeg")

    def _rtp_time(self, stamp: float | None, captured: float) -> int:
        """The camera's own clock, begun at the first packet's arrival, so that another run of
        the same camera goes on where this one ends."""
        media = self._timeline.place(stamp, captured - self._last)
        self._last = captured
        if self._start is None:
            self._start = media, captured
        return int((media - self._start[0] + self._start[1]) * RTP_CLOCK)

    def _annex_b(self, packet: Packet[VideoStream]) -> Iterator[bytes]:
        data = bytes(packet)
        if self._filter is None:
            yield data
            return
        # The filter takes what it is given; the decoder needs the packet too.
        copy = av.Packet(data)
        copy.is_keyframe = packet.is_keyframe
        for filtered in self._filter.filter(copy):
            yield bytes(filtered)

    def _refuse(self, reason: str) -> None:
        self._open = False
        self._sink.refuse(reason)


def unsuited(stream: VideoStream) -> str | None:
    """Why browsers cannot play this stream as it is, by what it says of itself. None: they can."""
    context = stream.codec_context
    if context.name != "h264":
        return (
            f"the camera sends {context.name}, which browsers do not play by WebRTC: "
            "set it to H.264"
        )
    if context.pix_fmt not in _FORMATS:
        return (
            f"the camera's H.264 is {context.pix_fmt}, and browsers play 4:2:0 with 8 bits: "
            "choose another profile in the camera"
        )
    return None


def units(data: bytes) -> Iterator[tuple[int, int | None]]:
    """(type, slice type) of each NAL unit of an Annex-B picture; None for what is no slice."""
    start = data.find(_START)
    while 0 <= start < len(data) - 4:
        kind = data[start + 3] & 0x1F
        yield kind, _slice_type(data[start + 4 : start + 16]) if kind in (_SLICE, _IDR) else None
        if kind in (_SLICE, _IDR):
            # Slices are nearly all of a picture, and its other slices are of the same kind.
            return
        start = data.find(_START, start + 3)


def _slice_type(header: bytes) -> int:
    """The second of the Exp-Golomb numbers that a slice begins with (H.264, 7.3.3)."""
    bits, length = int.from_bytes(header, "big"), 8 * len(header)
    value = -1
    for _ in range(2):
        zeros = length - bits.bit_length()
        length -= 2 * zeros + 1
        value = (bits >> max(length, 0)) - 1
        bits &= (1 << max(length, 0)) - 1
    return value
