"""Every error answer as a problem document (RFC 9457): the culprit, then the mend, no internals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_server.errors import (
    InvalidPicture,
    InvalidStreamName,
    MalformedBody,
    MaskstreamError,
    NegotiationError,
    Overloaded,
    SessionEnded,
    SourceError,
    SourceUnsupported,
    StateNotSaved,
    StreamBusy,
    StreamExists,
    StreamNotFound,
    TooManyStreams,
    ViewUnavailable,
)
from stream_server.telemetry.logging import redact

log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"
PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457). `detail` names the culprit and the mend.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "A URI that names the kind of problem."},
        "title": {"type": "string", "description": "The kind of problem in words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "minLength": 1},
    },
}
OVERLOADED_RETRY_SECONDS = 1
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MAX_REASONS = 5
# The first class in an error's family tree that is listed here decides.
_KINDS: dict[type[MaskstreamError], tuple[int, str]] = {
    StreamNotFound: (404, "Stream not found"),
    StreamExists: (409, "Stream exists"),
    StreamBusy: (409, "Stream busy"),
    InvalidStreamName: (422, "Invalid stream name"),
    TooManyStreams: (429, "Limit reached"),
    StateNotSaved: (507, "Not remembered"),
    ViewUnavailable: (409, "View unavailable"),
    SourceUnsupported: (422, "Source unsupported"),
    SourceError: (502, "Source unavailable"),
    InvalidPicture: (422, "Unreadable picture"),
    Overloaded: (503, "Overloaded"),
    SessionEnded: (404, "Not found"),
    NegotiationError: (422, "Offer cannot be answered"),
    MalformedBody: (400, "Malformed body"),
}
_MENDS = {
    400: "the body cannot be read: send what /docs describes for this path",
    404: "{path} does not exist: /docs lists what does",
    405: "{method} is not possible on {path}: use {allow}",
    413: "the body of the request is too large: send less",
}


class ProblemResponse(JSONResponse):
    """A JSON answer of type application/problem+json."""

    media_type = PROBLEM_JSON


def problem(status: int, title: str, detail: str, **headers: str) -> ProblemResponse:
    """A problem document. `headers` are named with '_' for '-': `Retry_After="1"`.

    `detail` says what is wrong and how to mend it, in one line; credentials are taken out of it.
    """
    phrase = HTTPStatus(status).phrase
    slug = "-".join(title.lower().split())
    kind = "about:blank" if title == phrase else f"urn:problem-type:maskstream:{slug}"
    body = {"type": kind, "title": title, "status": status, "detail": redact(detail)}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ProblemResponse(body, status, headers=named)


def problem_of(error: MaskstreamError) -> ProblemResponse:
    """The answer that an error of our tree deserves; an error no client can cause is a 500."""
    for family in type(error).__mro__:
        if family in _KINDS:
            status, title = _KINDS[family]
            again = {"Retry_After": str(OVERLOADED_RETRY_SECONDS)} if status == 503 else {}
            return problem(status, title, str(error), **again)
    log.error("request_failed", error=f"{type(error).__name__}: {error}")
    return _internal_error()


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that answers these problems."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem document."""

    async def ours(_request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, MaskstreamError)
        return problem_of(error)

    async def invalid(_request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, RequestValidationError)
        return problem(422, "Invalid request", describe(error.errors()))

    async def http(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, HTTPException)
        return _of_http_error(app.router.routes, request, error)

    app.add_exception_handler(MaskstreamError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


class CatchAll:
    """Outermost middleware: an error nobody expected becomes a 500 and one redacted log entry."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            log.debug("client_left", method=scope["method"])
        except Exception:
            log.exception("request_crashed", method=scope["method"], path=shown(scope["path"]))
            # Once an answer has begun, ending without its end makes the server cut the connection.
            if not started:
                await _internal_error()(scope, receive, send)


def shown(text: str, limit: int = 80) -> str:
    """A stranger's text made fit for one line: no control characters, no end of length."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in cut)


def describe(errors: Sequence[Mapping[str, Any]]) -> str:
    """Validation errors in one line, each with the field and never with the value sent."""
    reasons = [_reason(error) for error in errors[:_MAX_REASONS]]
    if len(errors) > _MAX_REASONS:
        reasons.append(f"and {len(errors) - _MAX_REASONS} more")
    return "; ".join(reasons)


def _reason(error: Mapping[str, Any]) -> str:
    place, *steps = error["loc"]
    if error["type"] == "json_invalid":
        at = steps[0] if steps else 0
        return f"the body is not JSON: {error['ctx']['error']} at character {at}"
    field = shown(".".join(str(step) for step in steps))
    if place == "body" and not steps:
        if error["type"] == "missing":
            return "the body is missing: send a JSON object"
        if error["type"] in ("model_attributes_type", "dict_type", "model_type"):
            return "the body must be a JSON object, sent with Content-Type: application/json"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{place} field {field!r} is missing"
    return f"{place} field {field!r}: {message}" if field else message


def _of_http_error(
    routes: Sequence[BaseRoute], request: Request, error: HTTPException
) -> ProblemResponse:
    status = error.status_code
    headers = {name.replace("-", "_"): value for name, value in (error.headers or {}).items()}
    phrase = HTTPStatus(status).phrase
    detail = error.detail
    path = request.scope["path"]
    if status == 405:
        headers["Allow"] = allow = ", ".join(_allowed(routes, request.scope))
        detail = _MENDS[405].format(method=shown(request.method), path=shown(path), allow=allow)
    elif detail in (phrase, "", "There was an error parsing the body"):
        detail = _MENDS.get(status, phrase).format(path=shown(path))
    return problem(status, phrase, detail, **headers)


def _allowed(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """The methods that some route takes here: the framework names those of one route only."""
    asked = {"type": "http", "path": scope["path"], "root_path": scope["root_path"], "headers": []}

    def takes(method: str) -> bool:
        return any(
            route.matches({**asked, "method": "GET" if method == "HEAD" else method})[0]
            is Match.FULL
            for route in routes
        )

    return [method for method in _METHODS if takes(method)]


def _internal_error() -> ProblemResponse:
    return problem(
        500,
        HTTPStatus(500).phrase,
        "an error in maskstream, not in your request: its log says more; please report it",
    )
