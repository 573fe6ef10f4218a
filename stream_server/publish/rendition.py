"""The forms in which a stream goes to its viewers, and each viewer's place in one of them."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stream_server.errors import ViewUnavailable
from stream_server.flow.latest import Closed
from stream_server.frames import CameraPacket, Picture
from stream_server.publish.encode import (
    CLOCK,
    Codec,
    EncodedFrame,
    EncodeOptions,
    VideoEncoder,
    framed,
)
from stream_server.telemetry.metrics import StreamMetrics

Size = Literal["full", "half", "thumb"]
RenditionName = Literal["full", "half", "thumb", "source"]
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


class FrameQueue:
    """Encoded frames that wait, a key frame first. On overflow it skips to the next key frame."""

    def __init__(self, ask_keyframe: Callable[[], None], on_drop: Callable[[int], None]) -> None:
        self._ask_keyframe = ask_keyframe
        self._on_drop = on_drop
        self._frames: deque[EncodedFrame] = deque()
        self._ready = asyncio.Event()
        self._needs_keyframe = True
        self._ended = False

    def push(self, frame: EncodedFrame) -> None:
        """Never blocks."""
        if self._needs_keyframe:
            if not frame.keyframe:
                return
            self._needs_keyframe = False
        if len(self._frames) >= VIEWER_QUEUE:
            self._on_drop(len(self._frames))
            self._frames.clear()
            self._needs_keyframe = not frame.keyframe
            if self._needs_keyframe:
                self._ask_keyframe()
                return
        self._frames.append(frame)
        self._ready.set()

    def cut(self, rtp_time: int) -> None:
        """Take back what waits from this time stamp on."""
        while self._frames and self._frames[-1].rtp_time >= rtp_time:
            self._frames.pop()

    async def next(self) -> EncodedFrame:
        """The next frame in order. Raises `Closed` at the end."""
        while not self._frames:
            if self._ended:
                raise Closed
            self._ready.clear()
            await self._ready.wait()
        return self._frames.popleft()

    def end(self) -> None:
        """Wake a waiting `next` for the last time."""
        self._ended = True
        self._ready.set()


class Watcher(ABC):
    """A viewer's place in a rendition, from which it goes over to another at a key frame."""

    def __init__(self, rendition: Rendition, changed: Callable[[], None]) -> None:
        """`changed` is called when it has left a rendition for another one or for good."""
        self.rendition = rendition
        self._next: Rendition | None = None
        self._changed = changed
        self.ended = asyncio.Event()
        rendition.viewers.add(self)
        rendition.request_keyframe()

    @abstractmethod
    def take(self, frame: EncodedFrame) -> None:
        """The next frame of the rendition it is in; never blocks."""

    def move(self, rendition: Rendition) -> None:
        """Go over to another rendition of the same codec with its next key frame."""
        if self.ended.is_set():
            return
        if self._next is not None:
            self._next.viewers.discard(self)
        self._next = None if rendition is self.rendition else rendition
        if self._next is not None:
            rendition.viewers.add(self)
            rendition.request_keyframe()

    def push(self, frame: EncodedFrame, rendition: Rendition) -> None:
        """Called by a rendition for each of its frames."""
        if rendition is self._next and frame.keyframe:
            self.arrive(rendition, frame)
        if rendition is self.rendition:
            self.take(frame)

    def arrive(self, rendition: Rendition, first: EncodedFrame) -> None:
        """`first` is the key frame with which it goes over."""
        self.rendition.viewers.discard(self)
        self.rendition, self._next = rendition, None
        self._changed()

    def request_keyframe(self) -> None:
        """The viewer lost a picture and asks for a fresh start."""
        self.rendition.request_keyframe()

    def close(self) -> None:
        """Leave the rendition. Idempotent."""
        if not self.ended.is_set():
            self.ended.set()
            for rendition in (self.rendition, self._next):
                if rendition is not None:
                    rendition.viewers.discard(self)
            self._changed()


class VideoSubscription(Watcher):
    """A viewer on this event loop, with its bounded queue of encoded frames."""

    def __init__(
        self,
        rendition: Rendition,
        changed: Callable[[], None],
        on_drop: Callable[[int], None],
    ) -> None:
        self._queue = FrameQueue(self.request_keyframe, on_drop)
        super().__init__(rendition, changed)

    def take(self, frame: EncodedFrame) -> None:
        """Let it wait for `next`."""
        self._queue.push(frame)

    def arrive(self, rendition: Rendition, first: EncodedFrame) -> None:
        """The same picture may wait already as it was before."""
        self._queue.cut(first.rtp_time)
        super().arrive(rendition, first)

    async def next(self) -> EncodedFrame:
        """The next frame in order, a key frame first. Raises `Closed` at the end."""
        return await self._queue.next()

    def close(self) -> None:
        """Leave the rendition and wake a waiting `next`. Idempotent."""
        self._queue.end()
        super().close()


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

    def __init__(self, codec: Codec, name: RenditionName) -> None:
        self.codec: Codec = codec
        self.name: RenditionName = name
        self.viewers: set[Watcher] = set()
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
        super().__init__(codec, size)
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
        super().__init__("h264", "source")
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
        return framed(packet.data, self._last_time, packet.keyframe, packet.captured)


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
