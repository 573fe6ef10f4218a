"""A process for viewers: an event loop with their peers on it, and nothing of the models.

The service starts it (`remote.py`) with one end of a socket pair for its standard input. It lives
as long as the other end is open, so that nothing is left of it whatever becomes of the service.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections import Counter as Tally
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, assert_never, cast, get_args

import structlog

from stream_server.errors import MaskstreamError, SessionEnded
from stream_server.flow.latest import Broadcast
from stream_server.heap import heap_trimmed, share_arenas
from stream_server.publish.encode import Codec, framed
from stream_server.publish.rendition import Rendition, RenditionName, Size, VideoSubscription
from stream_server.rtc.peer import IceServer, Peer
from stream_server.rtc.sdp import Offer, read_fragment
from stream_server.telemetry import logging
from stream_server.telemetry.lag import lag_watched
from stream_server.viewers.messages import (
    Answered,
    Attend,
    Begin,
    Closed,
    Dismiss,
    Done,
    Dropped,
    Failed,
    Lag,
    Line,
    Moved,
    Ready,
    Restart,
    Shown,
    ToProcess,
    Trickle,
    Verdicts,
    Video,
    WantKeyframe,
)
from stream_server.viewers.viewer import UNTOLD, Feed, Notice, Seat, Viewer

log = structlog.get_logger(__name__)

FAREWELL_SECONDS = 1.0


def main() -> None:
    """Serve viewers until standard input ends; the first argument is the loop's name."""
    # The service is told to stop, and tells us: a terminal's Ctrl-C or a service manager's
    # SIGTERM goes to all processes at once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    share_arenas()
    asyncio.run(run(sys.argv[1], socket.socket(fileno=0)))


async def run(name: str, end: socket.socket) -> None:
    """Until the line's other end is closed."""
    line = await Line.over(end)
    begin = await line.receive()
    if not isinstance(begin, Begin):
        return
    logging.configure(cast("logging.Format", begin.log_format), begin.log_level)
    structlog.contextvars.bind_contextvars(loop=name)
    annex = Annex(line, [IceServer(tuple(urls), *login) for urls, *login in begin.ice_servers])
    async with heap_trimmed(), lag_watched(annex.report):
        line.tell(Ready())
        async for message in line:
            assert isinstance(message, get_args(ToProcess))
            annex.hear(message)
    await annex.close()


class Distant(Rendition):
    """A rendition of the service's, whose frames come over the line."""

    def __init__(self, hall: int, codec: Codec, name: RenditionName, line: Line) -> None:
        super().__init__(codec, name)
        self._word = WantKeyframe(hall, codec, name)
        self._line = line
        self._asked = False

    def expect_keyframe(self) -> None:
        """The service asked for one itself: as from any new viewer."""
        self._asked = True

    def request_keyframe(self) -> None:
        """Requests until the next frame count as one, as with the service's own renditions."""
        if not self._asked:
            self._asked = True
            self._line.tell(self._word)

    def show(self, video: Video) -> None:
        """The next frame, for all who watch here."""
        self._asked = False
        self.give([framed(video.data, video.ticks, video.keyframe, video.captured)])


class Hall:
    """What is here of one stream: the renditions that are watched, and what is told. A `Ledger`."""

    def __init__(self, number: int, line: Line) -> None:
        self._number = number
        self._line = line
        self._renditions: dict[tuple[Codec, RenditionName], Distant] = {}
        self._drops: Tally[tuple[str, str]] = Tally()
        self.notices: Broadcast[Notice] = Broadcast()
        self.viewers = 0

    def rendition(self, codec: Codec, name: RenditionName) -> Distant:
        """Made on first use."""
        key = codec, name
        if key not in self._renditions:
            self._renditions[key] = Distant(self._number, codec, name, self._line)
        return self._renditions[key]

    def dropped(self, stage: str, reason: str, count: int = 1) -> None:
        """To be told with the next report."""
        self._drops[stage, reason] += count

    def shown(self, latency: float) -> None:
        """To be told at once: a page says so once a second."""
        self._line.tell(Shown(self._number, latency))

    def report(self) -> None:
        """Tell what was left out since the last time."""
        for (stage, reason), count in self._drops.items():
            self._line.tell(Dropped(self._number, stage, reason, count))
        self._drops.clear()


class Annex:
    """The halls and the viewers in them."""

    def __init__(self, line: Line, ice_servers: Sequence[IceServer]) -> None:
        self._line = line
        self._ice_servers = tuple(ice_servers)
        self._halls: dict[int, Hall] = {}
        self._peers: dict[int, Peer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, message: ToProcess) -> None:
        """Do as the service says; never blocks."""
        match message:
            case Video():
                if hall := self._halls.get(message.hall):
                    hall.rendition(message.codec, message.rendition).show(message)
            case Verdicts():
                if hall := self._halls.get(message.hall):
                    hall.notices.publish(Notice(message.ticks, message.source_ticks, message.data))
            case Attend():
                self._attend(message)
            case Trickle() | Restart():
                self._spawn(self._patch(message))
            case Dismiss():
                if peer := self._peers.get(message.viewer):
                    peer.spawn_close()
            case Begin():
                log.error("begun_twice")
            case _:
                assert_never(message)

    def report(self, lag: float) -> None:
        """Tell the loop's lag (seconds) and what was left out."""
        self._line.tell(Lag(lag))
        for hall in self._halls.values():
            hall.report()

    def _attend(self, wish: Attend) -> None:
        """The seat is taken before the next frame is looked at, which may be its key frame."""
        if wish.hall not in self._halls:
            self._halls[wish.hall] = Hall(wish.hall, self._line)
        hall = self._halls[wish.hall]
        hall.viewers += 1
        rendition = hall.rendition(wish.codec, wish.rendition)
        rendition.expect_keyframe()
        subscription = VideoSubscription(
            rendition, lambda: None, lambda count: hall.dropped("viewer", "slow", count)
        )

        def move(size: Size) -> None:
            subscription.move(hall.rendition(wish.codec, size))
            self._line.tell(Moved(wish.viewer, size))

        feed = Feed(
            subscription,
            lambda: hall.notices.subscribe(UNTOLD, lambda: hall.dropped("data_channel", "slow")),
            move,
            hall,
        )
        peer = self._peers[wish.viewer] = Peer(self._ice_servers)
        peer.on_close(partial(self._left, wish, hall))
        seat = Seat(wish.codec, wish.rendition, wish.adapts)
        self._spawn(self._answer(wish, peer, Viewer(peer, seat, feed)))

    def _left(self, wish: Attend, hall: Hall) -> None:
        hall.report()
        hall.viewers -= 1
        if not hall.viewers:
            self._halls.pop(wish.hall, None)
        del self._peers[wish.viewer]
        self._line.tell(Closed(wish.viewer))

    async def _answer(self, wish: Attend, peer: Peer, viewer: Viewer) -> None:
        with self._telling_errors(wish.viewer):
            sdp = await viewer.answer(Offer(wish.sdp, (wish.codec,)))
            self._line.tell(Answered(wish.viewer, peer.id, peer.etag, sdp))

    async def _patch(self, wish: Trickle | Restart) -> None:
        text = ""
        with self._telling_errors(wish.call):
            fragment, peer = read_fragment(wish.fragment), self._peers.get(wish.viewer)
            if peer is None:
                raise SessionEnded("this session has ended: POST a new offer")
            if isinstance(wish, Restart):
                text = await peer.restart(fragment)
            else:
                await peer.trickle(fragment)
            self._line.tell(Done(wish.call, peer.etag, text))

    @contextmanager
    def _telling_errors(self, call: int) -> Iterator[None]:
        try:
            yield
        except MaskstreamError as error:
            self._line.tell(Failed(call, type(error).__name__, str(error)))
        except Exception as error:
            log.exception("viewer_crashed")
            self._line.tell(Failed(call, "", f"{type(error).__name__}: {error}"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Hang up on everybody, for as long as that may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await asyncio.gather(*(peer.close() for peer in tuple(self._peers.values())))
