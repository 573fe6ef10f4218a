"""What a process for viewers gets of a stream, and its viewers' places in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from stream_server.flow.latest import Closed
from stream_server.frames import Analysis
from stream_server.publish.encode import EncodedFrame
from stream_server.publish.rendition import FrameQueue, Rendition, Size, Watcher
from stream_server.streams import Stream
from stream_server.viewers.messages import Dropped, Line, Shown, Verdicts, Video, WantKeyframe
from stream_server.viewers.notices import notices

BEHIND = "process_behind"


class Lane:
    """One rendition's way to a process: a bounded queue, into which each frame goes once."""

    def __init__(self, rendition: Rendition, on_drop: Callable[[int], None]) -> None:
        self.queue = FrameQueue(rendition.request_keyframe, on_drop)
        self._last: EncodedFrame | None = None

    def push(self, frame: EncodedFrame) -> None:
        """Called for each viewer with the same frame."""
        if frame is not self._last:
            self._last = frame
            self.queue.push(frame)


class Relay:
    """What one process gets of one stream: each frame and each verdict once, however many watch.

    `seats` are its viewers' there; it works while there are any.
    """

    def __init__(
        self,
        hall: int,
        stream: Stream,
        line: Line,
        encode: Callable[[Analysis], bytes],
    ) -> None:
        self.hall = hall
        self.stream = stream
        self.seats: set[RemoteSeat] = set()
        self._line = line
        self._encode = encode
        self._lanes: dict[Rendition, Lane] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to tell verdicts; frames come when seats bring them."""
        self._tasks.append(asyncio.create_task(self._send_verdicts(), name="relay-verdicts"))

    def take(self, rendition: Rendition, frame: EncodedFrame) -> None:
        """A frame of one of its seats; never blocks."""
        lane = self._lanes.get(rendition)
        if lane is None:
            lane = self._lanes[rendition] = Lane(
                rendition, lambda count: self.stream.metrics.dropped("viewer", BEHIND, count)
            )
            self._tasks.append(
                asyncio.create_task(self._send_frames(rendition, lane.queue), name="relay-frames")
            )
        lane.push(frame)

    async def _send_frames(self, rendition: Rendition, queue: FrameQueue) -> None:
        with suppress(Closed, ConnectionError):
            while True:
                frame = await queue.next()
                self._line.tell(
                    Video(
                        self.hall,
                        rendition.codec,
                        rendition.name,
                        frame.captured,
                        frame.rtp_time,
                        frame.keyframe,
                        bytes(frame.packet),
                    )
                )
                await self._line.room()

    async def _send_verdicts(self) -> None:
        def drop() -> None:
            self.stream.metrics.dropped("data_channel", BEHIND)

        with suppress(ConnectionError), notices(self.stream, self._encode, drop) as told:
            async for notice in told:
                self._line.tell(Verdicts(self.hall, notice.ticks, notice.source_ticks, notice.data))
                await self._line.room()

    def hear(self, word: WantKeyframe | Dropped | Shown) -> None:
        """What the process says of this stream."""
        match word:
            case WantKeyframe():
                self.stream.publisher.rendition(word.codec, word.rendition).request_keyframe()
            case Dropped():
                self.stream.metrics.dropped(word.stage, word.reason, word.count)
            case Shown():
                self.stream.metrics.shown(word.seconds)

    def close(self) -> None:
        """Send no more of it."""
        for task in self._tasks:
            task.cancel()


class RemoteSeat(Watcher):
    """The place in a rendition of a viewer in another process."""

    def __init__(
        self,
        rendition: Rendition,
        changed: Callable[[], None],
        relay: Relay,
        on_left: Callable[[], None],
    ) -> None:
        """`on_left` is called once, when it has left for good."""
        self.relay = relay
        self._on_left = on_left
        relay.seats.add(self)
        super().__init__(rendition, changed)

    def take(self, frame: EncodedFrame) -> None:
        """Let the process have it."""
        self.relay.take(self.rendition, frame)

    def go(self, size: Size) -> None:
        """Its network takes another size."""
        self.relay.stream.publisher.move(self, self.rendition.codec, size)

    def close(self) -> None:
        """Leave the rendition. Idempotent."""
        if not self.ended.is_set():
            super().close()
            self.relay.seats.discard(self)
            self._on_left()
