"""Compressed packets to pictures: decoding, and bringing every kind of frame into one form."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from queue import SimpleQueue
from typing import Literal

import av
import av.error
import cv2
import numpy as np
import structlog
from av.codec.context import CodecContext, Flags
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from stream_server.errors import SourceEnded
from stream_server.frames import Picture, Pixels
from stream_server.ingest.pace import CatchUp, Timeline

log = structlog.get_logger(__name__)

DropCounter = Callable[[str, int], None]
Watched = Callable[[], bool]
Extent = Literal["all", "reference", "key"]
Hardware = Literal["none", "auto"]

DECODE_ERROR = "decode_error"
DECODER_BEHIND = "decoder_behind"
UNWATCHED = "unwatched"
LEAST_SHARE = 0.3
"""Less than this share of the pictures is too few to follow faces: of 30 a second, 9."""
SHARE_PACKETS = 60
# In a row. A camera joined in the middle of a long group of pictures may need some seconds.
MAX_BAD_PACKETS = 300

_PLACES: SimpleQueue[int] = SimpleQueue()
"""As many as there are cores; whoever decodes takes one. More pictures at once would get in each
other's way and all be late: cameras of one recorder show theirs at the same instant. (A semaphore,
written in Python, takes a fifth of the time for which sources hold the interpreter's lock.)"""
for _place in range(max(1, os.cpu_count() or 1)):
    _PLACES.put(_place)

_FULL_RANGE = int(ColorRange.JPEG)
_TURNS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}


def ignore_drops(reason: str, count: int) -> None:
    """For callers that don't count."""


def ignore_device(device: str, reason: str) -> None:
    """For callers to whom it makes no difference where pictures are decoded."""


def always_watched() -> bool:
    """For callers that want every picture."""
    return True


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a source is decoded: `unwatched` is the extent while `watched()` is false.

    `hardware` "auto" uses the first device that FFmpeg can decode on, else the CPU. `on_decoder` is
    told, from the source's thread, on which device a video is decoded ("cpu" or FFmpeg's name for
    it), and why there.
    """

    unwatched: Extent = "all"
    watched: Watched = always_watched
    hardware: Hardware = "none"
    on_decoder: Callable[[str, str], None] = ignore_device


EVERYTHING = Decoding()


def accelerator(wish: Hardware, source: str) -> HWAccel | None:
    """What `av.open` is to decode `source` on; None for the CPU. Says in the log what and why.

    A video that the device cannot decode falls back to the CPU by itself.
    """
    if wish == "none":
        return None
    kind, reason = _device()
    log.info("hardware_decoding", source=source, device=kind or "none: by the CPU", reason=reason)
    return HWAccel(kind, allow_software_fallback=True) if kind else None


def device_of(context: CodecContext, wish: Hardware) -> tuple[str, str]:
    """On which device an open decoder decodes, and why there; "cpu" where it is none."""
    if wish == "none":
        return "cpu", "hwaccel is none"
    kind, reason = _device()
    if kind is None:
        return "cpu", f"hwaccel is auto, but no device works: {reason}"
    if not context.is_hwaccel:
        return "cpu", f"hwaccel is auto, but {kind} does not decode {context.name}"
    return kind, "hwaccel is auto, and it works"


@cache
def _device() -> tuple[str | None, str]:
    """The first kind of device that works, and what became of those before it."""
    reasons = []
    for kind in hwdevices_available():
        try:
            context = CodecContext.create("h264", "r", hwaccel=HWAccel(kind))
        except av.error.FFmpegError as error:
            reasons.append(f"{kind}: {describe(error)}")
            continue
        if context.is_hwaccel:
            return kind, "it works"
        reasons.append(f"{kind}: does not decode H.264")
    return None, "; ".join(reasons) or "this FFmpeg knows no device"


def target_size(
    width: int, height: int, aspect: Fraction | None, longest_side: int
) -> tuple[int, int]:
    """The even size, before turning, that shows a decoded picture with square pixels.

    `aspect` is the pixel's width by its height; within 1 % of square, or absurd, it is ignored.
    A stretched picture grows in the direction that loses nothing, then shrinks to `longest_side`.
    Where nothing but an odd line or column has to go, the size is the picture's less that line.
    """
    wide, high = float(width), float(height)
    if aspect is not None and 0.1 < aspect < 10 and not 0.99 < aspect < 1.01:
        wide, high = (wide * float(aspect), high) if aspect > 1 else (wide, high / float(aspect))
    scale = min(1.0, longest_side / max(wide, high))
    if scale == 1.0 and (wide, high) == (width, height):
        return max(2, width & ~1), max(2, height & ~1)
    return _even(wide * scale, longest_side), _even(high * scale, longest_side)


def _even(side: float, limit: int) -> int:
    return max(2, min(2 * round(side / 2), limit & ~1))


class Normaliser:
    """Brings decoded frames to `Picture`; keeps the scaler between frames of one stream."""

    def __init__(self, *, longest_side: int = 1920) -> None:
        self._longest_side = longest_side
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, aspect: Fraction | None = None) -> Picture:
        """Square pixels, upright, even sides, none over the limit, 8-bit limited range.

        Limited-range yuv420p is taken as it is, so BT.709 keeps its own matrix: its colours are
        off by up to 20 of 255, and converting costs eight times the copy.
        """
        width, height = target_size(frame.width, frame.height, aspect, self._longest_side)
        as_is = (
            frame.format.name == "yuv420p"
            and frame.color_range != _FULL_RANGE
            and (width, height) == (max(2, frame.width & ~1), max(2, frame.height & ~1))
            and min(frame.width, frame.height) >= 2
        )
        if not as_is:
            frame = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="yuv420p",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
        return _gather(frame, width, height, _quarter_turns(frame.rotation))


def _quarter_turns(rotation: int) -> int:
    """Degrees counter-clockwise, as the display matrix asks, to the nearest quarter turn."""
    return round(rotation / 90) * 90 % 360


def _gather(frame: VideoFrame, width: int, height: int, rotation: int) -> Picture:
    """The planes of a yuv420p frame without their padding, cut to size and turned."""
    on_side = rotation in (90, 270)
    out_width, out_height = (height, width) if on_side else (width, height)
    i420 = np.empty((out_height * 3 // 2, out_width), np.uint8)
    picture = Picture(i420)
    targets = (picture.y, picture.u, picture.v)
    for index, (plane, target) in enumerate(zip(frame.planes, targets, strict=True)):
        shrink = 2 if index else 1
        lines: Pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        source = lines[: height // shrink, : width // shrink]
        if rotation:
            cv2.rotate(source, _TURNS[rotation], dst=target)
        else:
            target[:] = source
    return picture


@dataclass(frozen=True, slots=True)
class Shot:
    """A decoded picture with its times (s): `captured` monotonic, `media_time` of the source.

    Captured is when the packet came with which it could be shown: with B-frames not its own.
    `make` brings it into our form, which costs as much as a tenth of a decode or more.
    """

    make: Callable[[], Picture]
    captured: float
    media_time: float


class Economy:
    """Decides which packets of a stream that nobody watches are decoded. Pure."""

    def __init__(self, unwatched: Extent, watched: Watched) -> None:
        self._unwatched = unwatched
        self._watched = watched
        self._packets = self._pictures = 0
        self.extent: Extent = "all"

    def next(self, *, is_key: bool) -> Extent:
        """The extent that holds from the next packet on.

        To and from key frames alone it changes at a key frame: a picture before it would refer
        to pictures that were left out.
        """
        if is_key or self._unwatched != "key":
            self.extent = "all" if self._watched() else self._unwatched
        return self.extent

    def count(self, pictures: int) -> None:
        """A packet of this extent gave so many pictures.

        Where hardly any picture is referred to, leaving out the others would leave too few.
        """
        if self.extent != "reference":
            return
        self._packets += 1
        self._pictures += pictures
        if self._packets == SHARE_PACKETS:
            if self._pictures < LEAST_SHARE * SHARE_PACKETS:
                self._unwatched = "all"
            self._packets = self._pictures = 0


class PacketDecoder:
    """One video stream's decoder with low delay; skips when behind and survives broken packets."""

    def __init__(
        self,
        stream: VideoStream,
        *,
        longest_side: int = 1920,
        on_drop: DropCounter = ignore_drops,
        live: bool = True,
        decoding: Decoding = EVERYTHING,
    ) -> None:
        """`live`: time stamps are checked against the clock, else against the frame rate."""
        self._live = live
        self._decoding = decoding
        self._economy = Economy(decoding.unwatched, decoding.watched)
        self._normalise = Normaliser(longest_side=longest_side)
        self._timeline = Timeline()
        self._catch_up = CatchUp()
        self._on_drop = on_drop
        self._bad_packets = 0
        self._last_captured: float | None = None
        self.rotation = 0  # degrees that the file asks to turn its pictures by
        self.renew(stream)

    def renew(self, stream: VideoStream) -> None:
        """Go on with this stream, of the same file opened again."""
        self._stream = stream
        self._context = stream.codec_context
        # Frame threads hold back one picture each; slice threads don't, but few cameras slice.
        self._context.thread_type = "SLICE"
        self._context.thread_count = 1
        self._context.flags |= Flags.low_delay
        self._skipping = False
        self.interval = _interval(stream)
        self._decoding.on_decoder(*device_of(self._context, self._decoding.hardware))

    def feed(self, packet: Packet[VideoStream], *, arrived: float, lag: float) -> Iterator[Shot]:
        """The pictures that this packet completes, in order of showing.

        `arrived`: monotonic seconds when it had been read; `lag`: seconds behind, above which
        pictures are left out and counted. Raises `SourceEnded` after too many bad packets.
        """
        if not self._catch_up.admit(lag=lag, is_key=packet.is_keyframe, now=arrived):
            self._on_drop(DECODER_BEHIND, 1)
            return
        extent = self._economy.next(is_key=packet.is_keyframe)
        if extent == "key" and not packet.is_keyframe:
            self._on_drop(UNWATCHED, 1)
            return
        behind = self._catch_up.skip_unreferenced
        self._skip_unreferenced(behind or extent == "reference")
        frames = self._decode(packet)
        if extent == "key":
            frames += self._drain()
        self._economy.count(len(frames))
        if self._skipping and not frames:
            self._on_drop(DECODER_BEHIND if behind else UNWATCHED, 1)
        for frame in frames:
            yield self._shot(frame, arrived)

    def _skip_unreferenced(self, skip: bool) -> None:
        if skip != self._skipping:
            self._skipping = skip
            self._context.skip_frame = "NONREF" if skip else "DEFAULT"

    def _drain(self) -> list[VideoFrame]:
        """The pictures held back for sorting: a key frame's would wait for the next key frames."""
        frames = self._decode(None)
        self._context.flush_buffers()
        return frames

    def flush(self, *, now: float) -> Iterator[Shot]:
        """The pictures still held back, at the end of the stream."""
        for frame in self._decode(None):
            yield self._shot(frame, now)

    def _decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            frames = self._in_turn(packet)
        except av.error.FFmpegError as error:
            self._bad_packets += 1
            self._on_drop(DECODE_ERROR, 1)
            if self._bad_packets >= MAX_BAD_PACKETS:
                raise SourceEnded(
                    f"{self._bad_packets} packets in a row could not be decoded as "
                    f"{self._context.name} ({error.strerror}): check the camera's video settings"
                ) from None
            return []
        if frames:
            self._bad_packets = 0
        return frames

    def _in_turn(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        place = _PLACES.get()
        try:
            return self._stream.decode(packet)
        finally:
            _PLACES.put(place)

    def _shot(self, frame: VideoFrame, arrived: float) -> Shot:
        last, self._last_captured = self._last_captured, arrived
        elapsed = arrived - last if self._live and last is not None else self.interval
        stamp: float | None = frame.time
        if stamp is not None and math.isnan(stamp):  # what is drained comes without its time base
            stamp = seconds(frame.pts, self._stream.time_base)
        media_time = self._timeline.place(stamp, elapsed)
        self.rotation = frame.rotation
        return Shot(partial(self._made, frame, self._stream), arrived, media_time)

    def _made(self, frame: VideoFrame, stream: VideoStream) -> Picture:
        return self._normalise(frame, stream.sample_aspect_ratio)


def _interval(stream: VideoStream) -> float:
    """Seconds from picture to picture, by what the stream says of itself; 1/25 if nothing."""
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    return 1 / rate if math.isfinite(rate) and 1 <= rate <= 240 else 1 / 25


def seconds(stamp: int | None, time_base: Fraction | None) -> float | None:
    """A time stamp in seconds; None if there is none."""
    if stamp is None or time_base is None:
        return None
    return stamp * time_base.numerator / time_base.denominator


def describe(error: av.error.FFmpegError) -> str:
    """The library's reason without the file's or camera's name, which may hold a password."""
    return error.strerror or type(error).__name__
