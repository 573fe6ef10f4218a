"""What every request passes on its way in and out: counting, headers, origin, size. Pure ASGI."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_server.telemetry.metrics import Metrics
from stream_server.web.problems import problem, shown

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SAFE_METHODS = frozenset({"GET", "HEAD"})


class CountRequests:
    """Counts each answer by the template of its route, so that strangers cannot grow the series."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in METHODS else "other"
                route = getattr(scope.get("route"), "path_format", "none")
                self._metrics.http(method, route, message["status"])
            await send(message)

        await self._app(scope, receive, counting)


class AddHeaders:
    """Sets the security headers that an answer has not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, adding)


class _HeadAnswered(Exception):
    """Unwinds a GET that was run for its headers."""


class HeadAsGet:
    """Answers HEAD with the headers of GET; an endless body is not begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def headers_only(message: Message) -> None:
            scope["route"] = asked.get("route")
            await send(message)
            if message["type"] == "http.response.start":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise _HeadAnswered

        asked = {**scope, "method": "GET"}
        with suppress(_HeadAnswered):
            await self._app(asked, receive, headers_only)


class CheckOrigin:
    """Refuses what another site's page asks a visitor's browser to change here.

    Browsers name the page's origin on every request that may change something; other programs
    send none. Without this, any web page could add cameras on an operator's local service.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = frozenset(origin.lower() for origin in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and not self._trusted(origin.lower(), headers):
                refusal = problem(
                    403,
                    "Foreign origin",
                    f"pages of {shown(origin)} may not change anything here: open this service's "
                    "own page, or add that origin to server.cors_origins",
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _trusted(self, origin: str, headers: Headers) -> bool:
        if "*" in self._allowed or origin in self._allowed:
            return True
        # Only the browser itself can set this one; it holds behind a proxy that renames the host.
        if headers.get("sec-fetch-site") == "same-origin":
            return True
        return origin.startswith(("http://", "https://")) and (
            origin.split("://", 1)[1] == headers.get("host", "").lower()
        )


class LimitBody:
    """Refuses bodies over a path's limit, by their stated length or once more has come."""

    def __init__(self, app: ASGIApp, default: int, by_path: Mapping[str, int]) -> None:
        self._app = app
        self._default = default
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope["root_path"])
        limit = self._by_path.get(path, self._default)
        detail = f"the body may have at most {limit} bytes here: send less"
        stated = Headers(scope=scope).get("content-length", "0")
        if not stated.isascii() or not stated.isdigit() or int(stated) > limit:
            await problem(413, "Content too large", detail)(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, counted, send)
