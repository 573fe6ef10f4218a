"""One stream's way out: every rendition is encoded once, whoever and however many watch it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import cv2

from stream_server.errors import TooManyStreams
from stream_server.flow.latest import Broadcast, Closed, Subscription
from stream_server.frames import Picture, Pixels
from stream_server.publish.encode import Codec, EncodedFrame, EncodeOptions, VideoEncoder
from stream_server.telemetry.metrics import StreamMetrics

# About two seconds at 30 frames/s: a viewer further behind sees old pictures, so it skips ahead.
VIEWER_QUEUE = 60
KEYFRAME_INTERVAL = 0.3


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one picture became: a frame list per codec that is watched, and a JPEG if asked for."""

    video: dict[Codec, list[EncodedFrame]]
    jpeg: bytes | None


class VideoSubscription:
    """One viewer's bounded queue of encoded frames. On overflow it skips to the next key frame."""

    def __init__(
        self,
        rendition: VideoRendition,
        leave: Callable[[VideoSubscription], None],
        on_drop: Callable[[int], None],
    ) -> None:
        self._rendition = rendition
        self._leave = leave
        self._on_drop = on_drop
        self._frames: deque[EncodedFrame] = deque()
        self._ready = asyncio.Event()
        self._needs_keyframe = True
        self.ended = asyncio.Event()

    def push(self, frame: EncodedFrame) -> None:
        """Called by the rendition for every encoded frame."""
        if self._needs_keyframe:
            if not frame.keyframe:
                return
            self._needs_keyframe = False
        if len(self._frames) >= VIEWER_QUEUE:
            self._on_drop(len(self._frames))
            self._frames.clear()
            self._needs_keyframe = not frame.keyframe
            if self._needs_keyframe:
                self._rendition.request_keyframe()
                return
        self._frames.append(frame)
        self._ready.set()

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
        self._rendition.request_keyframe()

    def end(self) -> None:
        """Wake a waiting `next` for the last time."""
        self.ended.set()
        self._ready.set()

    def close(self) -> None:
        """Leave the rendition. Idempotent."""
        if not self.ended.is_set():
            self.end()
            self._leave(self)


class VideoRendition:
    """One encoding of the stream and its viewers."""

    def __init__(self, codec: Codec, options: EncodeOptions, metrics: StreamMetrics) -> None:
        self.codec: Codec = codec
        self.viewers: set[VideoSubscription] = set()
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
        """Blocking; one caller at a time."""
        if self._encoder is None:
            self._encoder = VideoEncoder(self.codec, self._options)
        with self._lock:
            keyframe = self._wants_keyframe and captured - self._last_keyframe >= KEYFRAME_INTERVAL
            if keyframe:
                self._wants_keyframe = False
                self._last_keyframe = captured
        frames = self._encoder.encode(picture, captured, keyframe=keyframe)
        for frame in frames:
            self._metrics.encoded(self.codec, frame.keyframe)
        return frames

    def stop(self) -> None:
        """Nobody watches: forget the encoder, so that the next viewer starts on a key frame."""
        self._encoder = None
        self._wants_keyframe = True
        self._last_keyframe = float("-inf")


class Publisher:
    """The renditions of one stream. `encode` runs in a worker thread, all else on the loop."""

    def __init__(
        self,
        metrics: StreamMetrics,
        *,
        options: EncodeOptions,
        jpeg_quality: int,
        max_viewers: int,
    ) -> None:
        self._metrics = metrics
        self._jpeg_quality = jpeg_quality
        self._max_viewers = max_viewers
        self._renditions: dict[Codec, VideoRendition] = {
            "h264": VideoRendition("h264", options, metrics),
            "vp8": VideoRendition("vp8", options, metrics),
        }
        self._jpegs: Broadcast[bytes] = Broadcast()
        self._encoding = threading.Lock()
        self._closed = False

    @property
    def viewers(self) -> int:
        """Everybody who watches, by WebRTC or MJPEG."""
        return self._jpegs.readers + sum(len(r.viewers) for r in self._renditions.values())

    def watch(self, codec: Codec) -> VideoSubscription:
        """A new viewer of one codec. Raises `TooManyStreams` at the limit."""
        self._admit()
        rendition = self._renditions[codec]

        def leave(viewer: VideoSubscription) -> None:
            rendition.viewers.discard(viewer)
            self._count_viewers()

        viewer = VideoSubscription(
            rendition, leave, lambda count: self._metrics.dropped("viewer", "slow", count)
        )
        if self._closed:
            viewer.end()
            return viewer
        rendition.viewers.add(viewer)
        rendition.request_keyframe()
        self._count_viewers()
        return viewer

    def watch_jpeg(self) -> JpegSubscription:
        """A new MJPEG viewer: the newest picture wins. Raises `TooManyStreams` at the limit."""
        self._admit()
        viewer = JpegSubscription(self._jpegs.subscribe(maxlen=1), self._count_viewers)
        self._count_viewers()
        return viewer

    def _admit(self) -> None:
        if self.viewers >= self._max_viewers:
            raise TooManyStreams(
                f"this stream has its limit of {self._max_viewers} viewers: close one, or raise "
                "limits.max_viewers_per_stream"
            )

    def _count_viewers(self) -> None:
        self._metrics.set_viewers(self.viewers)

    def encode(self, picture: Picture, captured: float) -> Encoded:
        """Encode what is watched, each rendition once. Blocking; callers take turns."""
        video: dict[Codec, list[EncodedFrame]] = {}
        with self._encoding:
            for codec, rendition in self._renditions.items():
                if rendition.viewers:
                    video[codec] = rendition.encode(picture, captured)
                else:
                    rendition.stop()
        jpeg = encode_jpeg(picture.bgr(), self._jpeg_quality) if self._jpegs.readers else None
        return Encoded(video, jpeg)

    def deliver(self, encoded: Encoded) -> None:
        """Hand the encoded picture to every viewer; never blocks."""
        for codec, frames in encoded.video.items():
            for viewer in tuple(self._renditions[codec].viewers):
                for frame in frames:
                    viewer.push(frame)
        if encoded.jpeg is not None:
            self._jpegs.publish(encoded.jpeg)

    def close(self) -> None:
        """End every viewer. Idempotent."""
        self._closed = True
        for rendition in self._renditions.values():
            for viewer in tuple(rendition.viewers):
                viewer.end()
            rendition.viewers.clear()
        self._jpegs.close()
        self._count_viewers()


class JpegSubscription:
    """One MJPEG viewer: a context manager and an async iterator of JPEG bytes."""

    def __init__(self, reader: Subscription[bytes], changed: Callable[[], None]) -> None:
        self._reader = reader
        self._changed = changed

    def __aiter__(self) -> Subscription[bytes]:
        return self._reader

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.close()
        self._changed()


def encode_jpeg(bgr: Pixels, quality: int) -> bytes:
    """JPEG bytes of a (height, width, 3) BGR picture."""
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()
