"""One WHEP viewer, in whichever process: the frames of its seat go out, and with them the faces."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from aiortc import RTCDataChannel, RTCRtpSender
from pydantic import BaseModel, Field, ValidationError

from stream_server.publish.adapt import RenditionChoice
from stream_server.publish.encode import Codec, EncodedFrame
from stream_server.publish.rendition import RenditionName, Size, VideoSubscription
from stream_server.rtc.internals import SenderClock, on_feedback, on_keyframe_request
from stream_server.rtc.peer import Peer, only
from stream_server.rtc.sdp import Offer
from stream_server.viewers.track import EncodedTrack

FACES_CHANNEL = "faces"
# A few frames' worth of JSON: a channel further behind would tell of pictures long gone.
CHANNEL_BACKLOG = 32 * 1024
# Verdicts that wait for their turn to be told; over that a viewer's channel is hopelessly behind.
UNTOLD = 8
MAX_MESSAGE = 200


@dataclass(frozen=True, slots=True)
class Seat:
    """What a viewer gets: a rendition, and whether its network chooses another size of it."""

    codec: Codec
    rendition: RenditionName
    adapts: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """An analysis to be told: its JSON (one object, in UTF-8) without the viewer's own time stamp.

    `ticks` are what its frame has for a time stamp in the annotated renditions, `source_ticks`
    in the camera's own; None if it was never given out there.
    """

    ticks: int
    source_ticks: int | None
    data: bytes


class Told(BaseModel):
    """A message from the page: its clock, to be answered with ours, or how old its picture is."""

    ping: float | None = Field(None, allow_inf_nan=False)
    shown_after_ms: float | None = Field(None, ge=0, le=60_000)


class Ledger(Protocol):
    """Where it is counted what became of a stream's frames at its viewers."""

    def dropped(self, stage: str, reason: str, count: int = 1) -> None:
        """Frames left out at `stage`."""

    def shown(self, latency: float) -> None:
        """A page has shown a picture `latency` seconds after it arrived here."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What a viewer needs of its stream.

    `notices` opens its bounded queue of what is told; `move` is called for a viewer that adapts.
    """

    subscription: VideoSubscription
    notices: Callable[[], AbstractContextManager[AsyncIterator[Notice]]]
    move: Callable[[Size], None]
    ledger: Ledger


class Viewer:
    """Connects a peer with its feed."""

    def __init__(self, peer: Peer, seat: Seat, feed: Feed) -> None:
        self._peer = peer
        self._seat = seat
        self._feed = feed
        self._clock: SenderClock

    async def answer(self, offer: Offer) -> str:
        """Connect; returns the answer's SDP. On any error the peer is closed and the seat left."""
        peer = self._peer
        track = EncodedTrack(self._feed.subscription, self._sent)
        peer.on_close(track.stop)
        try:
            video = peer.connection.addTransceiver(track, direction="sendonly")
            only(video, self._seat.codec)
            self._clock = SenderClock(video.sender)
            self._listen(video.sender)
            peer.connection.on("datachannel", self._open_channel)
            answer = await peer.answer(offer)
        except BaseException:
            await peer.close()
            raise
        peer.spawn(self._hang_up_with_track())
        return answer

    def _open_channel(self, channel: RTCDataChannel) -> None:
        if channel.label == FACES_CHANNEL:
            channel.on("message", lambda message: self._hear(channel, message))
            self._peer.spawn(self._tell(channel))

    def _sent(self, frame: EncodedFrame) -> None:
        self._clock.sent(frame.rtp_time, frame.captured)

    def _listen(self, sender: RTCRtpSender) -> None:
        subscription = self._feed.subscription
        on_keyframe_request(sender, subscription.request_keyframe)
        if not self._seat.adapts:
            return
        choice = RenditionChoice()

        def adapt(estimate: float | None, loss: float | None) -> None:
            rate = subscription.rendition.bits.rate
            before = choice.size
            size = choice.heard(estimate, loss, rate=rate, now=time.monotonic())
            if size != before:
                self._feed.move(size)

        on_feedback(sender, adapt)

    async def _tell(self, channel: RTCDataChannel) -> None:
        """Until the channel closes; what a slow channel cannot take is left out."""
        with self._feed.notices() as notices:
            async for notice in notices:
                if channel.readyState != "open":
                    return
                if channel.bufferedAmount > CHANNEL_BACKLOG:
                    self._feed.ledger.dropped("data_channel", "slow")
                else:
                    channel.send(self._for_this_viewer(notice))

    def _for_this_viewer(self, notice: Notice) -> str:
        """The shared JSON with the RTP time stamp under which this viewer gets that very frame."""
        own = self._feed.subscription.rendition.name == "source"
        ticks = notice.source_ticks if own else notice.ticks
        stamp = None if ticks is None else self._clock.rtp_time(ticks)
        text = notice.data[:-1].decode()
        return f'{text},"rtp_time":{"null" if stamp is None else stamp}}}'

    def _hear(self, channel: RTCDataChannel, message: str | bytes) -> None:
        """A viewer may say what it likes: all but what is expected is left alone."""
        if len(message) > MAX_MESSAGE:
            return
        try:
            told = Told.model_validate_json(message)
        except ValidationError:
            return
        if told.ping is not None:
            channel.send(f'{{"ping":{told.ping!r},"time":{time.time():.6f}}}')
        if told.shown_after_ms is not None:
            self._feed.ledger.shown(told.shown_after_ms / 1e3)

    async def _hang_up_with_track(self) -> None:
        """The stream was removed: the viewer has nothing more to see."""
        await self._feed.subscription.ended.wait()
        self._peer.spawn_close()
