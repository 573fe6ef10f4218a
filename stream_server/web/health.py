"""What the service says of itself: alive, ready, its metrics, and what it runs."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from stream_server.web.models import Health, InfoOut, NotReady, Ready
from stream_server.web.services import Services


def router(services: Services) -> APIRouter:
    """`/api/info`, `/healthz`, `/readyz` and `/metrics`; all cheap."""
    routes = APIRouter(tags=["service"])

    @routes.get("/api/info", summary="What is running, and its limits")
    async def info() -> InfoOut:
        return services.info()

    @routes.get("/healthz", summary="Whether the process answers")
    async def alive() -> Health:
        return Health()

    @routes.get(
        "/readyz",
        summary="Whether requests can be served",
        response_model=Ready,
        responses={503: {"model": NotReady, "description": "Not ready, and why."}},
    )
    async def ready() -> Response:
        reason = services.not_ready()
        if reason is None:
            return JSONResponse(Ready().model_dump())
        return JSONResponse(NotReady(reason=reason).model_dump(), 503)

    @routes.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Samples.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        },
    )
    async def metrics() -> Response:
        samples, media_type = services.metrics.render()
        return Response(samples, headers={"Content-Type": media_type})

    return routes
