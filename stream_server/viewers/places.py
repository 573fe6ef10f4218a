"""Which event loop a new viewer's connection is put on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from stream_server.frames import Analysis
from stream_server.publish.rendition import Size, encoded_time
from stream_server.rtc.peer import IceServer, Peer, Session
from stream_server.rtc.sdp import Offer
from stream_server.streams import Stream
from stream_server.telemetry.metrics import Metrics
from stream_server.viewers.viewer import UNTOLD, Feed, Notice, Seat, Viewer


class Place(Protocol):
    """An event loop with viewers' connections on it."""

    @property
    def viewers(self) -> int:
        """How many it has, those included that are still to be answered."""

    async def welcome(self, stream: Stream, offer: Offer, seat: Seat) -> tuple[Session, str]:
        """Connect a viewer; returns its session and the answer's SDP.

        Raises `NegotiationError`, `TooManyStreams` or `ViewUnavailable`, and leaves nothing behind.
        """


class MainLoop:
    """The service's own event loop."""

    def __init__(
        self,
        ice_servers: Sequence[IceServer],
        metrics: Metrics,
        encode: Callable[[Analysis], bytes],
    ) -> None:
        """`encode` makes the JSON of an analysis, once however many viewers are told of it."""
        self._ice_servers = tuple(ice_servers)
        self._metrics = metrics
        self._encode = encode
        self.viewers = 0

    async def welcome(self, stream: Stream, offer: Offer, seat: Seat) -> tuple[Session, str]:
        """`Place`."""
        publisher = stream.publisher
        subscription = publisher.watch(seat.codec, seat.rendition)

        def move(size: Size) -> None:
            publisher.move(subscription, seat.codec, size)

        ledger = self._metrics.stream(stream.name)
        feed = Feed(subscription, lambda: notices(stream, self._encode), move, ledger)
        peer = Peer(self._ice_servers)
        self.viewers += 1
        peer.on_close(self._left)
        return peer, await Viewer(peer, seat, feed).answer(offer)

    def _left(self) -> None:
        self.viewers -= 1


def notice(stream: Stream, analysis: Analysis, encode: Callable[[Analysis], bytes]) -> Notice:
    """What viewers are told of an analysis, from which each makes its own message."""
    captured = analysis.frame.captured
    source_ticks = stream.publisher.source.rtp_time(captured)
    return Notice(encoded_time(captured), source_ticks, encode(analysis))


@contextmanager
def notices(stream: Stream, encode: Callable[[Analysis], bytes]) -> Iterator[AsyncIterator[Notice]]:
    """What a stream's viewers are told from now on; the newest win."""
    with stream.results.subscribe(maxlen=UNTOLD) as analyses:
        yield (notice(stream, analysis, encode) async for analysis in analyses)
