"""WHIP (RFC 9725): a browser or an encoder publishes its camera."""

from __future__ import annotations

from aiortc import MediaStreamTrack, RTCRtpTransceiver
from fastapi import APIRouter, Request, Response

from stream_server.ingest.webrtc import WebRtcSource
from stream_server.rtc.internals import bound_receiver
from stream_server.rtc.peer import Peer
from stream_server.rtc.sdp import Offer, read_offer
from stream_server.streams import StreamHub
from stream_server.telemetry.metrics import Metrics
from stream_server.web.signalling import SDP, Sessions, created, read_body, session_routes


def whip_routes(
    hub: StreamHub,
    sessions: Sessions,
    metrics: Metrics,
    *,
    allow_new: bool,
    max_bitrate: int,
    longest_side: int,
) -> APIRouter:
    """POST /whip/{stream} and the routes of its sessions.

    Publishers are asked for at most `max_bitrate` bits per second.
    """
    router = session_routes("whip", sessions)

    @router.post("/whip/{stream}")
    async def publish(stream: str, request: Request) -> Response:
        body = await read_body(request, SDP)
        if isinstance(body, Response):
            return body
        hub.check_free(stream, allow_new=allow_new)
        offer = read_offer(body, role="publish")
        peer = sessions.open()
        source, answer = await accept(peer, offer, stream, metrics, longest_side)
        try:
            hub.publish(stream, source, allow_new=allow_new)
        except BaseException:
            await peer.close()
            raise
        sessions.keep(stream, peer)
        return created(request, peer, limit_bitrate(answer, max_bitrate), sessions)

    return router


async def accept(
    peer: Peer, offer: Offer, stream: str, metrics: Metrics, longest_side: int
) -> tuple[WebRtcSource, str]:
    """Answer a publisher; returns its camera as a source, and the answer's SDP."""
    sources: list[WebRtcSource] = []

    def count_drop(reason: str, count: int) -> None:
        if (known := metrics.find_stream(stream)) is not None:
            known.dropped("receive", reason, count)

    def prepare(video: RTCRtpTransceiver) -> None:
        video.direction = "recvonly"
        arrival = bound_receiver(video.receiver, count_drop)
        track = video.receiver.track
        assert isinstance(track, MediaStreamTrack)
        sources.append(WebRtcSource(track, arrival, peer.spawn_close, longest_side=longest_side))

    answer = await peer.answer(offer, prepare)
    return sources[0], answer


def limit_bitrate(answer: str, bits_per_second: int) -> str:
    """The answer with a bandwidth line (RFC 4566, 5.8) in its video section."""
    lines = []
    video = False
    for line in answer.splitlines():
        lines.append(line)
        video = line.startswith("m=video") if line.startswith("m=") else video
        if video and line.startswith("c="):
            lines.append(f"b=AS:{bits_per_second // 1000}")
    return "\r\n".join([*lines, ""])
