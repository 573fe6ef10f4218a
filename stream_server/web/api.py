"""Puts the HTTP side together; the only module here that knows all the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from stream_server.telemetry.metrics import package_version
from stream_server.web import docs, events, health, media, page, predict, streams
from stream_server.web.guards import AddHeaders, CheckOrigin, CountRequests, HeadAsGet, LimitBody
from stream_server.web.problems import PROBLEM_SCHEMA, CatchAll, install
from stream_server.web.services import Services, WebLimits
from stream_server.web.sources import SourcePolicy

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

# Far more than the longest offer or stream that anybody sends.
MAX_BODY = 256 << 10
ABOUT = (
    "Who wears a face mask, who does not, who wears it wrong: live, from browsers and IP cameras. "
    "Every error is an application/problem+json document whose detail says what to mend."
)


def create_app(
    services: Services,
    *,
    limits: WebLimits,
    sources: SourcePolicy,
    cors_origins: Sequence[str] = (),
    routers: Sequence[APIRouter] = (),
    lifespan: Lifespan | None = None,
    page_folder: Path = page.FOLDER,
) -> FastAPI:
    """The ASGI app. `routers` are served besides our own (WHIP and WHEP).

    A path in front of all URLs is the HTTP server's to know (uvicorn's `root_path`).
    """
    app = FastAPI(
        title="maskstream",
        version=package_version(),
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=_middleware(services, limits, cors_origins),
    )
    install(app)
    openapi = _openapi_of(app)
    app.openapi = openapi  # type: ignore[method-assign]
    for routes in (
        streams.router(services, sources),
        events.router(services, limits),
        predict.router(services, limits),
        media.router(services),
        health.router(services),
        *routers,
        docs.router(openapi),
        page.router(page_folder),
    ):
        app.include_router(routes)
    return app


def _middleware(
    services: Services, limits: WebLimits, cors_origins: Sequence[str]
) -> list[Middleware]:
    """From the outside in."""
    chain = [
        Middleware(CountRequests, metrics=services.metrics),
        Middleware(AddHeaders),
        Middleware(CatchAll),
        Middleware(HeadAsGet),
        Middleware(CheckOrigin, allowed=cors_origins),
    ]
    if cors_origins:
        chain.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(cors_origins),
                allow_methods=["GET", "POST", "PATCH", "DELETE"],
                allow_headers=["Content-Type", "If-Match", "Authorization"],
                expose_headers=["Location", "ETag", "Link", "Retry-After"],
            )
        )
    largest = limits.max_upload_bytes + predict.FORM_OVERHEAD
    chain.append(Middleware(LimitBody, default=MAX_BODY, by_path={predict.PATH: largest}))
    return chain


def _openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The OpenAPI document with the problem document in it, to which every route refers."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            models = schema.setdefault("components", {}).setdefault("schemas", {})
            models["Problem"] = PROBLEM_SCHEMA
            # The framework documents an error body of its own, which no route here sends.
            for unused in ("HTTPValidationError", "ValidationError"):
                models.pop(unused, None)
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi
