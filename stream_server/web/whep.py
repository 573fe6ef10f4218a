"""WHEP: a browser or a player watches a stream, and hears of the faces in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aiortc import RTCDataChannel, RTCRtpSender
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError

from stream_server.errors import NegotiationError
from stream_server.frames import Analysis
from stream_server.publish.adapt import RenditionChoice
from stream_server.publish.encode import Codec, EncodedFrame
from stream_server.publish.rendition import Size, VideoSubscription, encoded_time
from stream_server.publish.viewer import FACES_CHANNEL, EncodedTrack, tell_faces
from stream_server.rtc.internals import SenderClock, on_feedback, on_keyframe_request
from stream_server.rtc.peer import Peer, only
from stream_server.rtc.sdp import Offer, read_offer
from stream_server.streams import Stream, StreamHub
from stream_server.telemetry.metrics import Metrics, StreamMetrics
from stream_server.web.models import FrameResult
from stream_server.web.signalling import SDP, Sessions, created, read_body, session_routes

View = Literal["annotated", "source"]
# Verdicts that wait for their turn to be told; over that a viewer's channel is hopelessly behind.
UNTOLD = 8
MAX_MESSAGE = 200


@dataclass(frozen=True, slots=True)
class Wish:
    """What a viewer asks to see. The camera's own video has one size."""

    view: View = "annotated"
    rendition: Size | Literal["auto"] = "auto"


class Told(BaseModel):
    """A message from the page: its clock, to be answered with ours, or how old its picture is."""

    ping: float | None = Field(None, allow_inf_nan=False)
    shown_after_ms: float | None = Field(None, ge=0, le=60_000)


def whep_routes(hub: StreamHub, sessions: Sessions, metrics: Metrics) -> APIRouter:
    """POST /whep/{stream} and the routes of its sessions."""
    router = session_routes("whep", sessions)
    encode = encode_once()

    @router.post("/whep/{stream}")
    async def watch(
        stream: str,
        request: Request,
        view: View = "annotated",
        rendition: Literal["auto", "full", "half", "thumb"] = "auto",
    ) -> Response:
        body = await read_body(request, SDP)
        if isinstance(body, Response):
            return body
        watched = hub.get(stream)
        offer = read_offer(body, role="view")
        seat = seated(watched, offer, Wish(view, rendition))
        peer = sessions.open()
        viewer = Viewer(peer, watched, seat, metrics.stream(stream))
        answer = await viewer.answer(offer, encode)
        sessions.keep(stream, peer)
        return created(request, peer, answer, sessions)

    return router


@dataclass(frozen=True, slots=True)
class Seat:
    """A viewer's place in the stream: its frames, their codec, and who chooses their size."""

    subscription: VideoSubscription
    codec: Codec
    choice: RenditionChoice | None


def seated(stream: Stream, offer: Offer, wish: Wish) -> Seat:
    """A place for what is wished, if the stream has it and the offer can take it.

    H.264 before VP8: it costs the server a third and nearly every viewer decodes it in hardware.
    """
    codec: Codec = "h264" if "h264" in offer.codecs else offer.codecs[0]
    if wish.view == "source":
        if codec != "h264":
            raise NegotiationError(
                "view=source is the camera's own H.264, and the offer has none: "
                "offer it, or take view=annotated"
            )
        return Seat(stream.publisher.watch_source(), codec, None)
    if wish.rendition == "auto":
        return Seat(stream.publisher.watch(codec), codec, RenditionChoice())
    return Seat(stream.publisher.watch(codec, wish.rendition), codec, None)


class Viewer:
    """One WHEP session: the frames of its seat go out, and with them the faces."""

    def __init__(self, peer: Peer, stream: Stream, seat: Seat, metrics: StreamMetrics) -> None:
        self._peer = peer
        self._stream = stream
        self._seat = seat
        self._metrics = metrics
        self._clock: SenderClock

    async def answer(self, offer: Offer, encode: Callable[[Analysis], str]) -> str:
        """Connect; returns the answer's SDP."""
        seat, peer = self._seat, self._peer
        track = EncodedTrack(seat.subscription, self._sent)
        video = peer.connection.addTransceiver(track, direction="sendonly")
        only(video, seat.codec)
        self._clock = SenderClock(video.sender)
        self._listen(video.sender)

        def open_channel(channel: RTCDataChannel) -> None:
            if channel.label == FACES_CHANNEL:
                channel.on("message", lambda message: self._hear(channel, message))
                peer.spawn(self._tell(channel, encode))

        peer.connection.on("datachannel", open_channel)
        try:
            answer = await peer.answer(offer)
        except BaseException:
            track.stop()
            raise
        peer.on_close(track.stop)
        peer.spawn(self._hang_up_with_track())
        return answer

    def _sent(self, frame: EncodedFrame) -> None:
        self._clock.sent(frame.rtp_time, frame.captured)

    def _listen(self, sender: RTCRtpSender) -> None:
        subscription, codec, choice = self._seat.subscription, self._seat.codec, self._seat.choice
        on_keyframe_request(sender, subscription.request_keyframe)
        if choice is None:
            return

        def adapt(estimate: float | None, loss: float | None) -> None:
            rate = subscription.rendition.bits.rate
            size = choice.heard(estimate, loss, rate=rate, now=time.monotonic())
            self._stream.publisher.move(subscription, codec, size)

        on_feedback(sender, adapt)

    async def _tell(self, channel: RTCDataChannel, encode: Callable[[Analysis], str]) -> None:
        with self._stream.results.subscribe(maxlen=UNTOLD) as analyses:
            await tell_faces(
                channel,
                analyses,
                lambda analysis: self._for_this_viewer(analysis, encode(analysis)),
                lambda: self._metrics.dropped("data_channel", "slow"),
            )

    def _for_this_viewer(self, analysis: Analysis, text: str) -> str:
        """The shared JSON with the RTP time stamp under which this viewer gets that very frame."""
        captured, source = analysis.frame.captured, self._stream.publisher.source
        own = self._seat.subscription.rendition is source
        ticks = source.rtp_time(captured) if own else encoded_time(captured)
        stamp = None if ticks is None else self._clock.rtp_time(ticks)
        return f'{text[:-1]},"rtp_time":{"null" if stamp is None else stamp}}}'

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
            self._metrics.shown(told.shown_after_ms / 1e3)

    async def _hang_up_with_track(self) -> None:
        """The stream was removed: the viewer has nothing more to see."""
        await self._seat.subscription.ended.wait()
        self._peer.spawn_close()


def encode_once() -> Callable[[Analysis], str]:
    """JSON of an analysis, made once however many viewers are told of it."""
    last: tuple[Analysis, str] | None = None

    def encode(analysis: Analysis) -> str:
        nonlocal last
        if last is None or last[0] is not analysis:
            last = analysis, FrameResult.from_analysis(analysis).model_dump_json()
        return last[1]

    return encode
