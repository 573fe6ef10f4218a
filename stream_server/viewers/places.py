"""Which event loop a new viewer's connection is put on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from stream_server.errors import SessionEnded
from stream_server.frames import Analysis
from stream_server.publish.rendition import Size
from stream_server.rtc.peer import IceServer, Peer, Session
from stream_server.rtc.sdp import Offer
from stream_server.streams import Stream
from stream_server.telemetry.metrics import Metrics
from stream_server.viewers.notices import notices
from stream_server.viewers.remote import ViewerProcess
from stream_server.viewers.viewer import Feed, Seat, Viewer

# After one that did not come up no process is started for so long: viewers wait for it in vain.
REST_SECONDS = 10.0


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
        self, ice_servers: Sequence[IceServer], encode: Callable[[Analysis], bytes]
    ) -> None:
        """`encode` makes the JSON of an analysis, once however many viewers are told of it."""
        self._ice_servers = tuple(ice_servers)
        self._encode = encode
        self.viewers = 0

    async def welcome(self, stream: Stream, offer: Offer, seat: Seat) -> tuple[Session, str]:
        """`Place`."""
        publisher = stream.publisher
        subscription = publisher.watch(seat.codec, seat.rendition)

        def move(size: Size) -> None:
            publisher.move(subscription, seat.codec, size)

        def drop() -> None:
            stream.metrics.dropped("data_channel", "slow")

        feed = Feed(subscription, lambda: notices(stream, self._encode, drop), move, stream.metrics)
        peer = Peer(self._ice_servers)
        self.viewers += 1
        peer.on_close(self._left)
        return peer, await Viewer(peer, seat, feed).answer(offer)

    def _left(self) -> None:
        self.viewers -= 1


class Places:
    """A `Place` of several: the main loop first, then processes, started before they are needed.

    `async with` ends the processes at its end.
    """

    def __init__(
        self,
        main: MainLoop,
        start: Callable[[str], ViewerProcess],
        metrics: Metrics,
        *,
        most: int,
        room: int,
    ) -> None:
        """Up to `most` processes, which `start` starts by their names. A loop that has `room`
        viewers is full: another one is used, as long as there is one that is not. The next one is
        started when a quarter of that is left, as its start takes seconds on a busy machine."""
        self._main = main
        self._start = start
        self._room = room
        self._processes: list[ViewerProcess | None] = [None] * most
        self._no_start_before = float("-inf")
        metrics.loop_viewers("main", lambda: main.viewers)
        for index in range(most):
            metrics.loop_viewers(_name(index), partial(self._load, index))

    @property
    def viewers(self) -> int:
        """`Place`."""
        return self._main.viewers + sum(map(self._load, range(len(self._processes))))

    def _load(self, index: int) -> int:
        process = self._processes[index]
        return 0 if process is None else process.viewers

    async def welcome(self, stream: Stream, offer: Offer, seat: Seat) -> tuple[Session, str]:
        """`Place`. A process that cannot be had, or ends meanwhile, costs nobody the picture."""
        process = self._choose()
        if process is None:
            return await self._main.welcome(stream, offer, seat)
        try:
            return await process.welcome(stream, offer, seat)
        except SessionEnded:
            return await self._main.welcome(stream, offer, seat)

    def _choose(self) -> ViewerProcess | None:
        """Where the next viewer goes; None for the main loop. Starts a process if need be."""
        for index, process in enumerate(self._processes):
            if process is not None and process.over:
                self._processes[index] = None
                if process.failed_to_start:
                    self._no_start_before = time.monotonic() + REST_SECONDS
        loads = [None if each is None else each.viewers for each in self._processes]
        may_start = None in loads and time.monotonic() >= self._no_start_before
        if may_start and free(self._main.viewers, loads, self._room) <= self._room / 4:
            index = loads.index(None)
            self._processes[index], loads[index] = self._start(_name(index)), 0
        at = choose(self._main.viewers, loads, self._room)
        return None if at is None else self._processes[at]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        started = [each for each in self._processes if each is not None]
        await asyncio.gather(*(process.stop() for process in started))


def _name(index: int) -> str:
    return f"viewers-{index + 1}"


def free(main: int, processes: Sequence[int | None], room: int) -> int:
    """How many more viewers the loops that run have room for; arguments as of `choose`."""
    return sum(max(0, room - load) for load in (main, *processes) if load is not None)


def choose(main: int, processes: Sequence[int | None], room: int) -> int | None:
    """Index of the process for the next viewer, None for the main loop.

    Given are the viewers of the main loop and of each process, None for one that does not run.
    The main loop first; then the least loaded process, unless all are full and the main loop has
    less.
    """
    running = [(load, index) for index, load in enumerate(processes) if load is not None]
    least, index = min(running, default=(main + 1, 0))
    if main < room or (least >= room and main < least):
        return None
    return index
