"""WHEP: a browser or a player watches a stream, and hears of the faces in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request, Response

from stream_server.errors import NegotiationError
from stream_server.frames import Analysis
from stream_server.publish.encode import Codec
from stream_server.publish.rendition import Size
from stream_server.rtc.sdp import Offer, read_offer
from stream_server.streams import StreamHub
from stream_server.viewers.places import Place
from stream_server.viewers.viewer import Seat
from stream_server.web.models import FrameResult
from stream_server.web.signalling import SDP, Sessions, created, read_body, session_routes

View = Literal["annotated", "source"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a viewer asks to see. The camera's own video has one size."""

    view: View = "annotated"
    rendition: Size | Literal["auto"] = "auto"


def whep_routes(hub: StreamHub, sessions: Sessions, place: Place) -> APIRouter:
    """POST /whep/{stream} and the routes of its sessions. `place` is where viewers are put."""
    router = session_routes("whep", sessions)

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
        session, answer = await place.welcome(
            watched, offer, seat_for(offer, Wish(view, rendition))
        )
        sessions.keep(stream, session)
        return created(request, session, answer, sessions)

    return router


def seat_for(offer: Offer, wish: Wish) -> Seat:
    """What is wished, if the offer can take it; else `NegotiationError`.

    H.264 before VP8: it costs the server a third and nearly every viewer decodes it in hardware.
    """
    codec: Codec = "h264" if "h264" in offer.codecs else offer.codecs[0]
    if wish.view == "source":
        if codec != "h264":
            raise NegotiationError(
                "view=source is the camera's own H.264, and the offer has none: "
                "offer it, or take view=annotated"
            )
        return Seat(codec, "source", adapts=False)
    if wish.rendition == "auto":
        return Seat(codec, "full", adapts=True)
    return Seat(codec, wish.rendition, adapts=False)


def encode_once() -> Callable[[Analysis], bytes]:
    """JSON of an analysis, made once however many viewers are told of it."""
    last: tuple[Analysis, bytes] | None = None

    def encode(analysis: Analysis) -> bytes:
        nonlocal last
        if last is None or last[0] is not analysis:
            last = analysis, FrameResult.from_analysis(analysis).model_dump_json().encode()
        return last[1]

    return encode
