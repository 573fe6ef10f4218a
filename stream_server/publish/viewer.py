"""A WebRTC viewer: the shared encoded frames as a track, and the faces on a data channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import av
from aiortc import MediaStreamTrack, RTCDataChannel
from aiortc.mediastreams import MediaStreamError
from av.video.stream import VideoStream

from stream_server.flow.latest import Closed
from stream_server.frames import Analysis
from stream_server.publish.publisher import VideoSubscription

FACES_CHANNEL = "faces"
# A few frames' worth of JSON: a channel further behind would tell of pictures long gone.
CHANNEL_BACKLOG = 32 * 1024


class EncodedTrack(MediaStreamTrack):
    """Hands the rendition's packets to aiortc's sender, which sends them as they are."""

    kind = "video"

    def __init__(self, subscription: VideoSubscription) -> None:
        super().__init__()
        self._subscription = subscription

    async def recv(self) -> av.Packet[VideoStream]:
        """The next encoded frame in order."""
        try:
            return (await self._subscription.next()).packet
        except Closed:
            self.stop()
            raise MediaStreamError from None

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
