"""What WHIP (RFC 9725) and WHEP share: sessions, headers, trickle ICE, the way a session ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from stream_server.errors import SessionEnded
from stream_server.rtc.peer import IceServer, Peer, Session
from stream_server.rtc.sdp import MAX_SDP_BYTES, read_fragment
from stream_server.web.problems import problem

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"


class Sessions:
    """Those of one endpoint by their secret id. Sessions forget themselves when they end."""

    def __init__(self, ice_servers: Sequence[IceServer]) -> None:
        self.ice_servers = tuple(ice_servers)
        self._open: dict[tuple[str, str], Session] = {}

    def open(self) -> Peer:
        """A new peer, known here once `keep` is called."""
        return Peer(self.ice_servers)

    def keep(self, stream: str, session: Session) -> None:
        """Find the session again by stream and id, until it is closed."""
        self._forget_closed()
        self._open[stream, session.id] = session

    def find(self, stream: str, session: str) -> Session:
        """The open session. Raises `SessionEnded`."""
        self._forget_closed()
        if (stream, session) not in self._open:
            raise SessionEnded("this session has ended, or never was: POST a new offer")
        return self._open[stream, session]

    def _forget_closed(self) -> None:
        for key, session in tuple(self._open.items()):
            if session.closed.is_set():
                del self._open[key]

    async def close(self) -> None:
        """Close every session. Idempotent."""
        await asyncio.gather(*(session.close() for session in self._open.values()))
        self._open.clear()


async def read_body(request: Request, expected: str) -> str | Response:
    """The body as text if its type and size are right, else the problem to answer with."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != expected:
        return problem(
            415,
            "Unsupported media type",
            f"Content-Type is {content_type[:80] or 'missing'!r}: send {expected}",
            **{"Accept_Post" if expected == SDP else "Accept_Patch": expected},
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_SDP_BYTES:
            return problem(
                413, "Content too large", f"the body is over {MAX_SDP_BYTES} bytes: send one SDP"
            )
    try:
        return body.decode()
    except UnicodeDecodeError:
        return problem(400, "Bad request", "the body is not UTF-8 text: send plain SDP")


def created(request: Request, session: Session, answer: str, sessions: Sessions) -> Response:
    """201 with the answer and the headers that WHIP and WHEP ask for."""
    response = Response(answer, 201, media_type=SDP)
    response.headers["Location"] = f"{request.url.path}/{session.id}"
    response.headers["ETag"] = session.etag
    response.headers["Accept-Patch"] = FRAGMENT
    add_ice_links(response, sessions.ice_servers)
    return response


def add_ice_links(response: Response, servers: Sequence[IceServer]) -> None:
    """One Link header per STUN or TURN URL (RFC 9725, section 4.6)."""
    for server in servers:
        for url in server.urls:
            link = f'<{url}>; rel="ice-server"'
            if server.username is not None and server.credential is not None:
                link += (
                    f'; username="{server.username}"; credential="{server.credential}"'
                    '; credential-type="password"'
                )
            response.headers.append("Link", link)


def session_routes(kind: str, sessions: Sessions) -> APIRouter:
    """OPTIONS of the endpoint; PATCH, DELETE, OPTIONS of its sessions."""
    router = APIRouter(include_in_schema=False)

    @router.options(f"/{kind}/{{stream}}")
    async def endpoint_options(stream: str) -> Response:
        response = Response(status_code=204)
        response.headers["Accept-Post"] = SDP
        response.headers["Allow"] = "POST, OPTIONS"
        add_ice_links(response, sessions.ice_servers)
        return response

    @router.options(f"/{kind}/{{stream}}/{{session}}")
    async def session_options(stream: str, session: str) -> Response:
        return Response(
            status_code=204,
            headers={"Accept-Patch": FRAGMENT, "Allow": "PATCH, DELETE, OPTIONS"},
        )

    @router.delete(f"/{kind}/{{stream}}/{{session}}")
    async def hang_up(stream: str, session: str) -> Response:
        await sessions.find(stream, session).close()
        return Response(status_code=200)

    @router.patch(f"/{kind}/{{stream}}/{{session}}")
    async def trickle(stream: str, session: str, request: Request) -> Response:
        found = sessions.find(stream, session)
        body = await read_body(request, FRAGMENT)
        if isinstance(body, Response):
            return body
        return await patch(found, body, request.headers.get("if-match"))

    return router


async def patch(session: Session, body: str, if_match: str | None) -> Response:
    """Trickle ICE with the session's entity tag, or an ICE restart with `If-Match: *`."""
    fragment = read_fragment(body)
    restart = session.is_restart(fragment)
    if if_match is None:
        return problem(
            428,
            "Precondition required",
            f"send If-Match: {'*' if restart else 'the ETag of the session'}",
        )
    if if_match.strip() != ("*" if restart else session.etag):
        return problem(
            412,
            "Precondition failed",
            "If-Match is not the ETag of this ICE session; a restart, with new credentials, "
            "takes If-Match: *",
        )
    if not restart:
        await session.trickle(fragment)
        return Response(status_code=204)
    answer = await session.restart(fragment)
    return Response(answer, 200, media_type=FRAGMENT, headers={"ETag": session.etag})
