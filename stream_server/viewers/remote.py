"""A process for viewers as the service's own event loop sees it: a `Place` at the end of a line."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from stream_server.errors import (
    MalformedBody,
    MaskstreamError,
    NegotiationError,
    Overloaded,
    SessionEnded,
    StreamNotFound,
)
from stream_server.frames import Analysis
from stream_server.publish.rendition import Rendition
from stream_server.rtc.peer import Session
from stream_server.rtc.sdp import IceFragment, Offer, ice_username
from stream_server.streams import Stream
from stream_server.telemetry.metrics import Metrics
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
    Message,
    Moved,
    NotAMessage,
    Ready,
    Restart,
    Shown,
    Trickle,
    WantKeyframe,
)
from stream_server.viewers.relay import Relay, RemoteSeat
from stream_server.viewers.viewer import Seat

log = structlog.get_logger(__name__)

CODE = "from stream_server.viewers.process import main; main()"
START_SECONDS = 30.0
# It tells its lag four times a second; one that said nothing for so many seconds hangs.
SILENT_SECONDS = 10
STOP_SECONDS = 2.0
# Offers and fragments that it has not answered yet.
MOST_CALLS = 256
Reply = Answered | Done
KNOWN_ERRORS: dict[str, type[MaskstreamError]] = {
    kind.__name__: kind for kind in (MalformedBody, NegotiationError, SessionEnded)
}


class RemotePeer:
    """The `Session` of a viewer in another process."""

    def __init__(
        self, process: ViewerProcess, line: Line, number: int, seat: RemoteSeat, offer: Offer
    ) -> None:
        self.id = self.etag = ""  # until the process has answered
        self.closed = asyncio.Event()
        self.seat = seat
        self._process = process
        self._line = line
        self._number = number
        self._remote_username = ice_username(offer.sdp)

    async def trickle(self, fragment: IceFragment) -> None:
        """`Session`; raises `SessionEnded` too."""
        wish = partial(Trickle, viewer=self._number, fragment=fragment.text)
        await self._process.patch(self._line, wish)

    def is_restart(self, fragment: IceFragment) -> bool:
        """`Session`."""
        return fragment.username != self._remote_username

    async def restart(self, fragment: IceFragment) -> str:
        """`Session`; raises `SessionEnded` too."""
        self._remote_username = fragment.username
        wish = partial(Restart, viewer=self._number, fragment=fragment.text)
        done = await self._process.patch(self._line, wish)
        self.etag = done.etag
        return done.text

    async def close(self) -> None:
        """`Session`. Returns when the process has hung up, or has gone."""
        self.seat.close()
        await self.closed.wait()


class ViewerProcess:
    """A process with viewers in it, from its start to its end."""

    def __init__(
        self, name: str, begin: Begin, metrics: Metrics, encode: Callable[[Analysis], bytes]
    ) -> None:
        """It starts at once; viewers who come before it is up wait for it."""
        self.name = name
        self.failed_to_start = False
        self._begin = begin
        self._metrics = metrics
        self._encode = encode
        self._numbers = itertools.count(1)
        self._coming = 0
        self._peers: dict[int, RemotePeer] = {}
        self._relays: dict[Stream, Relay] = {}
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._heard = False
        self._ended = False
        self._up: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(), name=name)

    @property
    def viewers(self) -> int:
        """`Place`."""
        return len(self._peers) + self._coming

    @property
    def over(self) -> bool:
        """It has ended, and nothing is left of it."""
        return self._life.done()

    async def stop(self) -> None:
        """End it and all its viewers' sessions; takes `STOP_SECONDS` at most."""
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)

    # --- viewers ----------------------------------------------------------------------------------

    async def welcome(self, stream: Stream, offer: Offer, seat: Seat) -> tuple[Session, str]:
        """`Place`; raises `SessionEnded` too if the process ends, or never comes up."""
        self._coming += 1
        try:
            line = await asyncio.shield(self._up)
        finally:
            self._coming -= 1
        number = next(self._numbers)
        taken = self._seat(line, stream, seat, number)
        peer = self._peers[number] = RemotePeer(self, line, number, taken, offer)
        hall = taken.relay.hall
        try:
            answered = await self._call(
                line,
                number,
                Attend(number, hall, seat.codec, seat.rendition, seat.adapts, offer.sdp),
            )
        except BaseException:
            taken.close()
            raise
        assert isinstance(answered, Answered)
        peer.id, peer.etag = answered.session, answered.etag
        return peer, answered.sdp

    def _seat(self, line: Line, stream: Stream, seat: Seat, number: int) -> RemoteSeat:
        """A place in the stream, of which this process gets its share from now on."""
        relay = self._relays.get(stream)
        if relay is None:
            relay = Relay(next(self._numbers), stream, line, self._encode)

        def sit(rendition: Rendition, changed: Callable[[], None]) -> RemoteSeat:
            return RemoteSeat(rendition, changed, relay, partial(self._left, line, relay, number))

        taken = stream.publisher.admit(seat.codec, seat.rendition, sit)
        if taken.ended.is_set():
            raise StreamNotFound(f"stream {stream.name!r} was removed: GET /api/streams lists all")
        if stream not in self._relays:
            self._relays[stream] = relay
            relay.open()
        return taken

    def _left(self, line: Line, relay: Relay, number: int) -> None:
        if number in self._peers:
            line.tell(Dismiss(number))
        if not relay.seats and self._relays.get(relay.stream) is relay:
            del self._relays[relay.stream]
            relay.close()

    async def patch(self, line: Line, wish: Callable[[int], Trickle | Restart]) -> Done:
        """Pass on what `wish` makes of a call's number."""
        self._check_alive()
        if len(self._calls) >= MOST_CALLS:
            raise Overloaded(f"{MOST_CALLS} requests wait for {self.name}: try again in a moment")
        call = next(self._numbers)
        done = await self._call(line, call, wish(call))
        assert isinstance(done, Done)
        return done

    def _check_alive(self) -> None:
        if self._ended:
            raise SessionEnded("the process of this session has ended: POST a new offer")

    async def _call(self, line: Line, number: int, wish: Attend | Trickle | Restart) -> Reply:
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls[number] = reply
        try:
            line.tell(wish)
            return await reply
        finally:
            del self._calls[number]

    # --- the process ------------------------------------------------------------------------------

    async def _live(self) -> None:
        ours, theirs = socket.socketpair()
        line = await Line.over(ours)
        process: Process | None = None
        why: str | None = None
        try:
            process = await start(self.name, theirs)
            await self._greet(line)
            log.info("viewer_process_started", loop=self.name, pid=process.pid)
            self._up.set_result(line)
            await self._listen(line)
            why = "its line was cut"
        except (OSError, NotAMessage) as error:
            why = str(error)
        except Exception:
            why = "it said what cannot be"
            log.exception("viewer_process_misheard", loop=self.name)
        finally:
            lost = self.viewers
            self._end_all()
            line.close()
            code = None if process is None else await reap(process)
            if why is not None:
                self._metrics.viewer_process_lost(self.name)
                log.error(
                    "viewer_process_lost", loop=self.name, viewers=lost, reason=why, code=code
                )

    async def _greet(self, line: Line) -> None:
        line.tell(self._begin)
        try:
            async with asyncio.timeout(START_SECONDS):
                up = isinstance(await line.receive(), Ready)
        except TimeoutError:
            up = False
        if not up:
            raise NotAMessage("it did not come up")

    async def _listen(self, line: Line) -> None:
        watch = asyncio.create_task(self._watch(line))
        try:
            async for message in line:
                self._heard = True
                self._hear(message)
        finally:
            watch.cancel()

    async def _watch(self, line: Line) -> None:
        """Cut the line of a process that hangs. Counts seconds in which this loop was awake."""
        silent = 0
        while silent < SILENT_SECONDS:
            await asyncio.sleep(1)
            silent = 0 if self._heard else silent + 1
            self._heard = False
        log.warning("viewer_process_hangs", loop=self.name, seconds=silent)
        line.close()

    def _hear(self, message: Message) -> None:
        match message:
            case Answered() | Done():
                self._reply(message.call, message)
            case Failed():
                self._reply(message.call, error_of(message))
            case Closed():
                self._forget(message.viewer)
            case Moved():
                if peer := self._peers.get(message.viewer):
                    peer.seat.go(message.size)
            case Lag():
                self._metrics.loop_lag(self.name, message.seconds)
            case WantKeyframe() | Dropped() | Shown():
                if relay := self._relay(message.hall):
                    relay.hear(message)
            case _:
                raise NotAMessage(f"a process does not say {type(message).__name__}")

    def _relay(self, hall: int) -> Relay | None:
        """Of a stream with viewers here; of the last one too, until the process has let it go."""
        relays = (peer.seat.relay for peer in self._peers.values())
        return next((relay for relay in relays if relay.hall == hall), None)

    def _reply(self, call: int, reply: Reply | Exception) -> None:
        waiting = self._calls.get(call)
        if waiting is None or waiting.done():
            return
        if isinstance(reply, Exception):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)

    def _forget(self, number: int) -> None:
        peer = self._peers.pop(number, None)
        if peer is not None:
            peer.closed.set()
            peer.seat.close()

    def _end_all(self) -> None:
        """Nothing more comes from it: whoever is in it or waits for it is told so."""
        gone = SessionEnded("the process of this session has ended: POST a new offer")
        if not self._up.done():
            self.failed_to_start = True
            self._up.set_exception(gone)
            self._up.exception()  # it may be that nobody waits for it
        for number in tuple(self._peers):
            self._forget(number)
        for call in tuple(self._calls):
            self._reply(call, gone)


def error_of(failed: Failed) -> Exception:
    """What was raised in the process: an error of ours for whoever asked, or a bug."""
    kind = KNOWN_ERRORS.get(failed.error)
    return RuntimeError(failed.text) if kind is None else kind(failed.text)


async def start(name: str, end: socket.socket) -> Process:
    """A process of that name at the other end of the line; its end is closed here.

    A new interpreter: a fork would take locks along that threads hold here. It looks for modules
    where this one does, as with multiprocessing's spawn.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; {CODE}"
    with end:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, name, stdin=end.fileno(), stdout=DEVNULL
        )


async def reap(process: Process) -> int:
    """The exit code of a process whose line was cut; it is killed if that does not end it."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            return await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        return await process.wait()
