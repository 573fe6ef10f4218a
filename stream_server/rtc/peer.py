"""One WebRTC peer that speaks WHIP or WHEP: answered once, patched, closed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from aioice import Connection
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransport,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError
from aiortc.rtcicetransport import candidate_to_aioice, connection_kwargs

from stream_server.errors import MalformedBody, NegotiationError
from stream_server.rtc.internals import present_connection, restart_ice, survive_ice_restart
from stream_server.rtc.sdp import IceFragment, Offer, VideoCodec, ice_username

log = structlog.get_logger(__name__)

# A browser that has not connected by then never will; its peer must not be kept for ever.
CONNECT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server as the page and WHIP clients are told of it."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class Session(Protocol):
    """What signalling asks of a peer, in whichever process it lives. `closed`: it is over."""

    @property
    def id(self) -> str: ...
    @property
    def etag(self) -> str: ...
    @property
    def closed(self) -> asyncio.Event: ...

    async def trickle(self, fragment: IceFragment) -> None:
        """Add the candidates of the present ICE session. Raises `MalformedBody`."""

    def is_restart(self, fragment: IceFragment) -> bool:
        """Whether the fragment begins a new ICE session."""

    async def restart(self, fragment: IceFragment) -> str:
        """Begin a new ICE session; returns our side of it as a trickle-ICE fragment."""

    async def close(self) -> None:
        """End it. Idempotent."""


class Peer:
    """An `RTCPeerConnection` and its session's names. `closed` is set once it is over."""

    def __init__(self, ice_servers: Sequence[IceServer]) -> None:
        self.id = secrets.token_urlsafe(18)
        self.etag = _new_etag()
        self.closed = asyncio.Event()
        self._ice_servers = [
            RTCIceServer(list(server.urls), server.username, server.credential)
            for server in ice_servers
        ]
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=self._ice_servers))
        self.connection.on("connectionstatechange", self._on_state)
        self._remote_username = ""
        self._ice: RTCIceTransport
        self._tasks: set[asyncio.Task[None]] = set()
        self._fresh: Connection | None = None
        self._restart: asyncio.Task[None] | None = None
        self._on_close: list[Callable[[], None]] = []

    async def answer(
        self, offer: Offer, prepare: Callable[[RTCRtpTransceiver], None] | None = None
    ) -> str:
        """Answer the offer; `prepare` sets up its video transceiver in between.

        A track to be sent is to be added to `connection`, with its codecs, before this.

        Returns the answer's SDP with all local candidates in it. On any error the peer is closed;
        raises `NegotiationError` if the offer is at fault.
        """
        try:
            await self.connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
            video = self._reject_all_but_video()
            self._ice = video.receiver.transport.transport
            survive_ice_restart(self._ice)
            if prepare is not None:
                prepare(video)
            answer = await self.connection.createAnswer()
            assert answer is not None
            await self.connection.setLocalDescription(answer)
        except (ValueError, InvalidAccessError, InvalidStateError) as error:
            await self.close()
            raise NegotiationError(f"the offer cannot be answered: {error}") from error
        except BaseException:
            await self.close()
            raise
        self._remote_username = ice_username(offer.sdp)
        self.spawn(self._give_up_connecting())
        return self.connection.localDescription.sdp

    def _reject_all_but_video(self) -> RTCRtpTransceiver:
        video = None
        for transceiver in self.connection.getTransceivers():
            if transceiver.kind == "video" and video is None:
                video = transceiver
            else:
                transceiver.direction = "inactive"
        assert video is not None
        return video

    async def trickle(self, fragment: IceFragment) -> None:
        """Add the candidates of the present ICE session."""
        connection = self._fresh or present_connection(self._ice)
        try:
            for candidate in fragment.candidates:
                await connection.add_remote_candidate(candidate_to_aioice(candidate))
            if fragment.end:
                await connection.add_remote_candidate(None)
        except ValueError as error:
            raise MalformedBody(f"a candidate cannot be added: {error}") from error

    def is_restart(self, fragment: IceFragment) -> bool:
        """Whether the fragment begins a new ICE session."""
        return fragment.username != self._remote_username

    async def restart(self, fragment: IceFragment) -> str:
        """Begin a new ICE session; returns our side of it as a trickle-ICE fragment."""
        fresh = Connection(ice_controlling=False, **connection_kwargs(self._ice_servers))
        fresh.remote_username = self._remote_username = fragment.username
        fresh.remote_password = fragment.password
        await fresh.gather_candidates()
        if self._restart is not None:
            self._restart.cancel()
        self._fresh = fresh
        await self.trickle(fragment)
        self._restart = self.spawn(restart_ice(self._ice, fresh))
        self.etag = _new_etag()
        lines = [f"a=ice-ufrag:{fresh.local_username}", f"a=ice-pwd:{fresh.local_password}"]
        lines += [f"a=candidate:{candidate.to_sdp()}" for candidate in fresh.local_candidates]
        return "\r\n".join([*lines, "a=end-of-candidates", ""])

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back once the peer has been closed."""
        self._on_close.append(callback)

    def spawn_close(self) -> None:
        """Close soon; for callbacks that cannot wait."""
        if not self.closed.is_set():
            self.spawn(self.close())

    async def close(self) -> None:
        """End the peer and everything it started. Idempotent."""
        if self.closed.is_set():
            return
        self.closed.set()
        current = asyncio.current_task()
        for task in tuple(self._tasks):
            if task is not current:
                task.cancel()
        await self.connection.close()
        for callback in self._on_close:
            callback()

    def _on_state(self) -> None:
        if self.connection.connectionState in ("failed", "closed"):
            self.spawn_close()

    async def _give_up_connecting(self) -> None:
        await asyncio.sleep(CONNECT_SECONDS)
        if self.connection.connectionState in ("new", "connecting"):
            log.info("peer_never_connected", session=self.id[:6])
            await self.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it is done or the peer is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def only(transceiver: RTCRtpTransceiver, codec: VideoCodec) -> None:
    """Let the answer name `codec` (with its retransmission format) and nothing else.

    To be called before the offer is set: aiortc settles the codecs then.
    """
    capabilities = RTCRtpSender.getCapabilities("video").codecs
    transceiver.setCodecPreferences(
        [
            capability
            for capability in capabilities
            if capability.mimeType.lower() in (f"video/{codec}", "video/rtx")
        ]
    )


def _new_etag() -> str:
    return f'"{secrets.token_hex(8)}"'
