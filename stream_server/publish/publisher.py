"""One stream's way out: every rendition is encoded once, whoever and however many watch it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import cv2

from stream_server.errors import TooManyStreams
from stream_server.flow.latest import Broadcast, Subscription
from stream_server.frames import Picture, Pixels
from stream_server.publish.encode import Codec, EncodedFrame, EncodeOptions
from stream_server.publish.rendition import (
    SIZES,
    Rendition,
    RenditionName,
    Size,
    SourceRendition,
    VideoRendition,
    VideoSubscription,
    Watcher,
    resized,
)
from stream_server.telemetry.metrics import StreamMetrics

SomeWatcher = TypeVar("SomeWatcher", bound=Watcher)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one picture became: frames for each rendition that is watched, a JPEG if asked for."""

    video: Sequence[tuple[VideoRendition, list[EncodedFrame]]]
    jpeg: bytes | None


class Publisher:
    """The renditions of one stream. `encode` runs in a worker thread, all else on the loop."""

    def __init__(
        self,
        metrics: StreamMetrics,
        *,
        options: EncodeOptions,
        jpeg_quality: int,
        max_viewers: int,
        withheld: str | None = None,
    ) -> None:
        """`withheld`: why nobody may see the camera's own pictures, and how to change that."""
        self._metrics = metrics
        self._jpeg_quality = jpeg_quality
        self._max_viewers = max_viewers
        self._renditions: dict[tuple[Codec, Size], VideoRendition] = {
            (codec, size): VideoRendition(codec, size, options, metrics)
            for codec in ("h264", "vp8")
            for size in SIZES
        }
        self.source = SourceRendition(
            lambda count: metrics.dropped("viewer", "slow", count), withheld
        )
        self._jpegs: Broadcast[bytes] = Broadcast()
        self._encoding = threading.Lock()
        self._closed = False

    @property
    def viewers(self) -> int:
        """Everybody who watches, by WebRTC or MJPEG."""
        return self._jpegs.readers + len(self._subscriptions())

    @property
    def watched(self) -> bool:
        """Whether anybody does; asked for each picture, from any thread."""
        renditions = self._renditions.values()
        return bool(
            self._jpegs.readers
            or self.source.viewers
            or any(rendition.viewers for rendition in renditions)
        )

    @property
    def drawn_for(self) -> int:
        """Those of them who see the annotated pictures."""
        return self.viewers - len(self.source.viewers)

    def _subscriptions(self) -> set[Watcher]:
        """One who moves from a rendition to another is in both."""
        everywhere = (*self._renditions.values(), self.source)
        return {viewer for rendition in everywhere for viewer in rendition.viewers}

    def rendition(self, codec: Codec, name: RenditionName) -> Rendition:
        """One of the forms. The camera's own is H.264 always."""
        return self.source if name == "source" else self._renditions[codec, name]

    def watch(self, codec: Codec, name: RenditionName = "full") -> VideoSubscription:
        """A new viewer on this event loop; raises as `admit` does."""

        def seat(rendition: Rendition, changed: Callable[[], None]) -> VideoSubscription:
            return VideoSubscription(
                rendition, changed, lambda count: self._metrics.dropped("viewer", "slow", count)
            )

        return self.admit(codec, name, seat)

    def admit(
        self,
        codec: Codec,
        name: RenditionName,
        seat: Callable[[Rendition, Callable[[], None]], SomeWatcher],
    ) -> SomeWatcher:
        """A new viewer, which `seat` makes of its rendition and of what to call on each change.

        Raises `TooManyStreams` at the limit, and `ViewUnavailable` for the camera's own H.264
        where browsers cannot play it or may not see it.
        """
        rendition = self.rendition(codec, name)
        if rendition is self.source:
            self.source.check()
        self._check_room()
        viewer = seat(rendition, self._count_viewers)
        if self._closed:
            viewer.close()
        self._count_viewers()
        return viewer

    def move(self, viewer: Watcher, codec: Codec, size: Size) -> None:
        """Let a viewer of the annotated pictures go over to another size, at a key frame."""
        viewer.move(self._renditions[codec, size])

    def watch_jpeg(self) -> JpegSubscription:
        """A new MJPEG viewer: the newest picture wins. Raises `TooManyStreams` at the limit."""
        self._check_room()
        viewer = JpegSubscription(self._jpegs.subscribe(maxlen=1), self._count_viewers)
        self._count_viewers()
        return viewer

    def _check_room(self) -> None:
        if self.viewers >= self._max_viewers:
            raise TooManyStreams(
                f"this stream has its limit of {self._max_viewers} viewers: close one, or raise "
                "limits.max_viewers_per_stream"
            )

    def _count_viewers(self) -> None:
        watching = [viewer.rendition.name for viewer in self._subscriptions()]
        for name in (*SIZES, self.source.name):
            self._metrics.set_rendition_viewers(name, watching.count(name))
        self._metrics.set_viewers(self.viewers)

    def encode(self, picture: Picture, captured: float) -> Encoded:
        """Encode what is watched, each rendition once. Blocking; callers take turns."""
        video = []
        with self._encoding:
            for size in SIZES:
                watched = []
                for rendition in self._of(size):
                    if rendition.viewers:
                        watched.append(rendition)
                    else:
                        rendition.stop()
                if watched:
                    small = resized(picture, size)
                    video += [(each, each.encode(small, captured)) for each in watched]
        jpeg = encode_jpeg(picture.bgr(), self._jpeg_quality) if self._jpegs.readers else None
        return Encoded(video, jpeg)

    def _of(self, size: Size) -> list[VideoRendition]:
        return [each for each in self._renditions.values() if each.size == size]

    def deliver(self, encoded: Encoded) -> None:
        """Hand the encoded picture to every viewer; never blocks."""
        for rendition, frames in encoded.video:
            rendition.give(frames)
        if encoded.jpeg is not None:
            self._jpegs.publish(encoded.jpeg)

    def close(self) -> None:
        """End every viewer. Idempotent."""
        self._closed = True
        for viewer in self._subscriptions():
            viewer.close()
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
