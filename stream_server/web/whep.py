"""WHEP: a browser or a player watches an annotated stream, and hears of the faces in it."""

from __future__ import annotations

from collections.abc import Callable

from aiortc import RTCDataChannel
from fastapi import APIRouter, Request, Response

from stream_server.frames import Analysis
from stream_server.publish.viewer import FACES_CHANNEL, EncodedTrack, tell_faces
from stream_server.rtc.internals import on_keyframe_request
from stream_server.rtc.peer import Peer, only
from stream_server.rtc.sdp import Offer, read_offer
from stream_server.streams import Stream, StreamHub
from stream_server.telemetry.metrics import Metrics
from stream_server.web.models import FrameResult
from stream_server.web.signalling import SDP, Sessions, created, read_body, session_routes


def whep_routes(hub: StreamHub, sessions: Sessions, metrics: Metrics) -> APIRouter:
    """POST /whep/{stream} and the routes of its sessions."""
    router = session_routes("whep", sessions)
    encode = encode_once()

    @router.post("/whep/{stream}")
    async def view(stream: str, request: Request) -> Response:
        body = await read_body(request, SDP)
        if isinstance(body, Response):
            return body
        watched = hub.get(stream)
        offer = read_offer(body, role="view")
        peer = sessions.open()

        def count_drop() -> None:
            if (known := metrics.find_stream(stream)) is not None:
                known.dropped("data_channel", "slow")

        answer = await serve(peer, offer, watched, encode, count_drop)
        sessions.keep(stream, peer)
        return created(request, peer, answer, sessions)

    return router


async def serve(
    peer: Peer,
    offer: Offer,
    stream: Stream,
    encode: Callable[[Analysis], str],
    on_drop: Callable[[], None],
) -> str:
    """Answer a viewer with the stream's shared rendition; returns the answer's SDP.

    H.264 before VP8: it costs the server a third and nearly every viewer decodes it in hardware.
    """
    codec = "h264" if "h264" in offer.codecs else offer.codecs[0]
    try:
        subscription = stream.publisher.watch(codec)
    except BaseException:
        await peer.close()
        raise
    track = EncodedTrack(subscription)

    def tell(channel: RTCDataChannel) -> None:
        if channel.label == FACES_CHANNEL:
            peer.spawn(tell_stream(channel))

    async def tell_stream(channel: RTCDataChannel) -> None:
        with stream.results.subscribe() as analyses:
            await tell_faces(channel, analyses, encode, on_drop)

    async def hang_up_with_track() -> None:
        """The stream was removed: the viewer has nothing more to see."""
        await subscription.ended.wait()
        peer.spawn_close()

    video = peer.connection.addTransceiver(track, direction="sendonly")
    only(video, codec)
    on_keyframe_request(video.sender, subscription.request_keyframe)
    peer.connection.on("datachannel", tell)
    try:
        answer = await peer.answer(offer)
    except BaseException:
        track.stop()
        raise
    peer.on_close(track.stop)
    peer.spawn(hang_up_with_track())
    return answer


def encode_once() -> Callable[[Analysis], str]:
    """JSON of an analysis, made once however many viewers are told of it."""
    last: tuple[Analysis, str] | None = None

    def encode(analysis: Analysis) -> str:
        nonlocal last
        if last is None or last[0] is not analysis:
            last = analysis, FrameResult.from_analysis(analysis).model_dump_json()
        return last[1]

    return encode
