"""The shared encoded frames as a track of aiortc's."""

from __future__ import annotations

from collections.abc import Callable

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.video.stream import VideoStream

from stream_server.flow.latest import Closed
from stream_server.publish.encode import EncodedFrame
from stream_server.publish.rendition import VideoSubscription


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
