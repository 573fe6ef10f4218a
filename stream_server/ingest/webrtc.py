"""A WebRTC publisher as a source: a browser's camera or any WHIP client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from stream_server.errors import SourceEnded
from stream_server.ingest.decode import Normaliser
from stream_server.ports import PictureSink


class WebRtcSource:
    """Delivers the frames of a remote track; `on_end` lets the caller hang up when it is over.

    `arrival` gives the monotonic second in which a frame's last packet came, by the frame's pts.
    """

    def __init__(
        self,
        track: MediaStreamTrack,
        arrival: Callable[[int], float],
        on_end: Callable[[], None],
        *,
        longest_side: int = 1920,
    ) -> None:
        self._track = track
        self._arrival = arrival
        self._on_end = on_end
        self._normalise = Normaliser(longest_side=longest_side)

    async def run(self, sink: PictureSink) -> None:
        """Runs until the peer leaves (`SourceEnded`) or the task is cancelled."""
        try:
            while True:
                frame = await self._track.recv()
                assert isinstance(frame, VideoFrame)
                assert frame.pts is not None
                sink(
                    partial(self._normalise, frame),
                    captured=self._arrival(frame.pts),
                    media_time=frame.time,
                )
        except MediaStreamError:
            raise SourceEnded("the publisher left") from None
        finally:
            self._on_end()
