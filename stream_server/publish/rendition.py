"""The forms in which a stream goes to its viewers, and each viewer's bounded queue of one."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import av
from av.video.stream import VideoStream

from stream_server.errors import ViewUnavailable
from stream_server.flow.latest import Closed
from stream_server.frames import CameraPacket, Picture
from stream_server.publish.encode import (
    CLOCK,
    TIME_BASE,
    Codec,
    EncodedFrame,
    EncodeOptions,
    VideoEncoder,
)
from stream_server.telemetry.metrics import StreamMetrics

Size = Literal["full", "half", "thumb"]
SIZES: tuple[Size, ...] = ("full", "half", "thumb")

# About two seconds at 30 frames/s: a viewer further behind sees old pictures, so it skips ahead.
VIEWER_QUEUE = 60
KEYFRAME_INTERVAL = 0.3
THUMB_WIDTH = 320
# Longer than that nobody waits for a first picture.
KEYFRAME_PATIENCE = 10.0
# Verdicts come within the latency budget; this is over two seconds at 60 frames/s.
TIMES_KEPT = 150
RATE_SECONDS = 2.0


class VideoSubscription:
    """One viewer's bounded queue of encoded frames. On overflow it skips to the next key frame."""

    def __init__(
        self,
        rendition: Rendition,
        changed: Callable[[], None],
        on_drop: Callable[[int], None],
    ) -> None:
        """`changed` is called when it has left a rendition for another one or for good."""
        self.rendition = rendition
        self._next: Rendition | None = None
        self._changed = changed
        self._on_drop = on_drop
        self._frames: deque[EncodedFrame] = deque()
        self._ready = asyncio.Event()
        self._needs_keyframe = True
        self.ended = asyncio.Event()
        rendition.viewers.add(self)
        rendition.request_keyframe()

    def move(self, rendition: Rendition) -> None:
        """Go over to another rendition of the same codec with its next key frame."""
        if self._next is not None:
            self._next.viewers.discard(self)
        self._next = None if rendition is self.rendition else rendition
        if self._next is not None:
            rendition.viewers.add(self)
            rendition.request_keyframe()

    def push(self, frame: EncodedFrame, rendition: Rendition) -> None:
        """Called by a rendition for each of its frames."""
        if rendition is self._next and frame.keyframe:
            self._arrive(rendition, frame)
        if rendition is not self.rendition:
            return
        if self._needs_keyframe:
            if not frame.keyframe:
                return
            self._needs_keyframe = False
        if len(self._frames) >= VIEWER_QUEUE:
            self._on_drop(len(self._frames))
            self._frames.clear()
            self._needs_keyframe = not frame.keyframe
            if self._needs_keyframe:
                self.rendition.request_keyframe()
                return
        self._frames.append(frame)
        self._ready.set()

    def _arrive(self, rendition: Rendition, first: EncodedFrame) -> None:
        self.rendition.viewers.discard(self)
        self.rendition, self._next = rendition, None
        # The same picture may wait already as it was before.
        while self._frames and self._frames[-1].rtp_time >= first.rtp_time:
            self._frames.pop()
        self._changed()

    async def next(self) -> EncodedFrame:
        """The next frame in order, a key frame first. Raises `Closed` at the end."""
        while not self._frames:
            if self.ended.is_set():
                raise Closed
            self._ready.clear()
            await self._ready.wait()
        return self._frames.popleft()

    def request_keyframe(self) -> None:
        """The viewer lost a picture and asks for a fresh start."""
        self.rendition.request_keyframe()

    def end(self) -> None:
        """Wake a waiting `next` for the last time."""
        self.ended.set()
        self._ready.set()

    def close(self) -> None:
        """Leave the rendition. Idempotent."""
        if not self.ended.is_set():
            self.end()
            for rendition in (self.rendition, self._next):
                if rendition is not None:
                    rendition.viewers.discard(self)
            self._changed()


@dataclass(slots=True)
class BitRate:
    """Bits per second over the last seconds of what was given out."""

    _sent: deque[tuple[float, int]]
    _bits: int = 0

    def add(self, at: float, size: int) -> None:
        """`size` bytes at `at` (s, any clock that only advances)."""
        self._sent.append((at, size * 8))
        self._bits += size * 8
        while self._sent[0][0] < at - RATE_SECONDS:
            self._bits -= self._sent.popleft()[1]

    @property
    def rate(self) -> float:
        """0 before there is a second's worth."""
        span = self._sent[-1][0] - self._sent[0][0] if self._sent else 0.0
        return self._bits / span if span > RATE_SECONDS / 2 else 0.0


class Rendition:
    """One encoded form of the stream and its viewers. Event loop only, unless said otherwise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.viewers: set[VideoSubscription] = set()
        self.bits = BitRate(deque())

    def request_keyframe(self) -> None:
        """Ask for a key frame, where one can be had."""

    def give(self, frames: list[EncodedFrame]) -> None:
        """Hand frames to every viewer; never blocks."""
        for frame in frames:
            self.bits.add(frame.captured, frame.packet.size)
            for viewer in tuple(self.viewers):
                viewer.push(frame, self)


class VideoRendition(Rendition):
    """The annotated pictures in one codec and size."""

    def __init__(
        self, codec: Codec, size: Size, options: EncodeOptions, metrics: StreamMetrics
    ) -> None:
        super().__init__(size)
        self.codec: Codec = codec
        self.size: Size = size
        self._options = options
        self._metrics = metrics
        self._encoder: VideoEncoder | None = None
        self._lock = threading.Lock()
        self._wants_keyframe = True
        self._last_keyframe = float("-inf")

    def request_keyframe(self) -> None:
        """Ask for a key frame; requests until the next frame is encoded count as one."""
        with self._lock:
            self._wants_keyframe = True

    def encode(self, picture: Picture, captured: float) -> list[EncodedFrame]:
        """Blocking, in a worker thread; one caller at a time. `picture` has the right size."""
        if self._encoder is None:
            self._encoder = VideoEncoder(self.codec, self._options)
        with self._lock:
            keyframe = self._wants_keyframe and captured - self._last_keyframe >= KEYFRAME_INTERVAL
            if keyframe:
                self._wants_keyframe = False
                self._last_keyframe = captured
        frames = self._encoder.encode(picture, captured, keyframe=keyframe)
        for frame in frames:
            self._metrics.encoded(self.codec, self.size, frame.keyframe)
        return frames

    def stop(self) -> None:
        """Nobody watches: forget the encoder, so that the next viewer starts on a key frame."""
        self._encoder = None
        self._wants_keyframe = True
        self._last_keyframe = float("-inf")


class SourceRendition(Rendition):
    """The camera's own packets, untouched: neither decoded nor encoded for viewing.

    A viewer starts at the camera's next key frame: nothing is kept for late comers, as a burst of
    old pictures would leave their player late for good. Key frames cannot be asked for.
    """

    def __init__(self, on_drop: Callable[[int], None], withheld: str | None = None) -> None:
        """`withheld`: why nobody may ever see it; nothing is taken in then."""
        super().__init__("source")
        self._withheld = withheld
        self._loop = asyncio.get_running_loop()
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self._waiting: deque[CameraPacket] = deque()
        self._refusal: str | None = "the camera has sent no H.264 yet: try again in a moment"
        self._newest = self._newest_keyframe = float("-inf")
        self._last_time = -1
        self._broken = False
        self._times: OrderedDict[float, int] = OrderedDict()

    @property
    def refusal(self) -> str | None:
        """Why nobody can watch it; None if one can."""
        if self._withheld is not None:
            return self._withheld
        seconds = self._newest - self._newest_keyframe
        if self._refusal is None and seconds > KEYFRAME_PATIENCE:
            return (
                f"the camera's last key frame is {seconds:.0f} s old: "
                "set its key frame interval to 1 or 2 s"
            )
        return self._refusal

    def check(self) -> None:
        """Raise `ViewUnavailable` while there is a refusal."""
        if self.refusal is not None:
            raise ViewUnavailable(f"{self.refusal}; view=annotated can be watched")

    def rtp_time(self, captured: float) -> int | None:
        """The time stamp of the frame that was captured then; None if it was never given out."""
        return self._times.get(captured)

    def refuse(self, reason: str) -> None:
        """`PacketSink`; callable from any thread."""
        self._refusal = reason
        self._loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        for viewer in tuple(self.viewers):
            viewer.close()

    def offer(self, packet: CameraPacket) -> None:
        """`PacketSink`; callable from any thread, and cheap while nobody watches."""
        if self._withheld is not None:
            return
        self._newest = packet.captured
        if packet.keyframe:
            self._newest_keyframe = packet.captured
            self._refusal = None
        if not self.viewers:
            return
        with self._lock:
            if len(self._waiting) >= VIEWER_QUEUE:
                self._on_drop(len(self._waiting))
                self._waiting.clear()
                self._broken = True
            if self._broken and not packet.keyframe:
                return
            self._broken = False
            self._waiting.append(packet)
            alone = len(self._waiting) == 1
        if alone:
            self._loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        with self._lock:
            packets = tuple(self._waiting)
            self._waiting.clear()
        self.give([self._framed(packet) for packet in packets])

    def _framed(self, packet: CameraPacket) -> EncodedFrame:
        # A camera come back may be a moment behind where it was: time stamps must not be.
        self._last_time = max(self._last_time + 1, packet.rtp_time)
        self._times[packet.captured] = self._last_time
        while len(self._times) > TIMES_KEPT:
            self._times.popitem(last=False)
        made = cast("av.Packet[VideoStream]", av.Packet(packet.data))
        made.pts = made.dts = self._last_time
        made.time_base = TIME_BASE
        return EncodedFrame(made, packet.keyframe, packet.captured)


def resized(picture: Picture, size: Size) -> Picture:
    """The picture in a rendition's size; never larger than it is."""
    widths = {"full": picture.width, "half": picture.width // 2, "thumb": THUMB_WIDTH}
    scale = min(1.0, widths[size] / picture.width)
    width, height = (
        max(2, 2 * round(side * scale / 2)) for side in (picture.width, picture.height)
    )
    return picture.scaled(width, height)


def encoded_time(captured: float) -> int:
    """The time stamp that an annotated frame captured then has in every rendition."""
    return int(captured * CLOCK)
