"""A WebRTC viewer: the shared encoded frames as a track, and the faces on a data channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import av
from aiortc import MediaStreamTrack, RTCDataChannel
from aiortc.mediastreams import MediaStreamError
from av.video.stream import VideoStream

from stream_server.flow.latest import Closed
from stream_server.frames import Analysis
from stream_server.publish.encode import EncodedFrame
from stream_server.publish.rendition import VideoSubscription

FACES_CHANNEL = "faces"
# A few frames' worth of JSON: a channel further behind would tell of pictures long gone.
CHANNEL_BACKLOG = 32 * 1024


class EncodedTrack(MediaStreamTrack):
    """Hands the rendition's packets to aiortc's sender, which sends them as they are."""

    kind = "video"

    def __init__(
        self, subscription: VideoSubscription, on_sent: Callable[[EncodedFrame], None]
    ) -> None:
        """`on_sent` is called when a frame has left, before the next one does."""
        super().__init__()
        self._subscription = subscription
        self._on_sent = on_sent
        self._leaving: EncodedFrame | None = None

    async def recv(self) -> av.Packet[VideoStream]:
        """The next encoded frame in order."""
        # The sender asks for a frame when all packets of the one before have left.
        if self._leaving is not None:
            self._on_sent(self._leaving)
        try:
            self._leaving = await self._subscription.next()
        except Closed:
            self.stop()
            raise MediaStreamError from None
        return self._leaving.packet

    def stop(self) -> None:
        """Leave the rendition. Idempotent."""
        super().stop()
        self._subscription.close()


async def tell_faces(
    channel: RTCDataChannel,
    analyses: AsyncIterator[Analysis],
    encode: Callable[[Analysis], str],
    on_drop: Callable[[], None],
) -> None:
    """Send each analysis as JSON until the channel closes; what a slow channel cannot take is
    left out."""
    async for analysis in analyses:
        if channel.readyState != "open":
            return
        if channel.bufferedAmount > CHANNEL_BACKLOG:
            on_drop()
            continue
        channel.send(encode(analysis))
