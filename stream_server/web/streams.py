"""The streams as a resource: list, add, look at, remove."""

from __future__ import annotations

from email.message import Message

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from stream_server.streams import SourceSpec
from stream_server.web.models import StreamIn, StreamList, StreamName, StreamStatusOut
from stream_server.web.problems import documented
from stream_server.web.services import Services
from stream_server.web.sources import SourcePolicy


def json_only(request: Request) -> None:
    """A route's dependency: 415 for a body that is not JSON."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    kind = header.get_content_type()
    if not request.headers.get("content-type") or not (
        kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    ):
        raise HTTPException(415, "the body must be JSON: send Content-Type: application/json")


def router(services: Services, sources: SourcePolicy) -> APIRouter:
    """`/api/streams` and `/api/streams/{name}`."""
    routes = APIRouter(tags=["streams"])
    hub = services.hub

    @routes.get("/api/streams", summary="All streams", responses=documented(500))
    async def list_streams() -> StreamList:
        return StreamList(streams=[StreamStatusOut.from_status(s.status()) for s in hub.streams()])

    @routes.post(
        "/api/streams",
        summary="Add a stream; it is there again after a restart",
        status_code=201,
        dependencies=[Depends(json_only)],
        responses={
            201: {
                "description": "It was added and begins to connect.",
                "headers": {
                    "Location": {
                        "description": "Where the stream is.",
                        "required": True,
                        "schema": {"type": "string"},
                    }
                },
            },
            **documented(400, 403, 409, 413, 415, 422, 429, 507),
        },
    )
    async def add_stream(wanted: StreamIn, request: Request, response: Response) -> StreamStatusOut:
        url = sources.check(wanted.url)
        stream = await hub.add(SourceSpec(wanted.name, url, wanted.privacy))
        response.headers["Location"] = f"{request.scope['root_path']}/api/streams/{stream.name}"
        return StreamStatusOut.from_status(stream.status())

    @routes.get("/api/streams/{name}", summary="One stream's state", responses=documented(404, 422))
    async def get_stream(name: StreamName) -> StreamStatusOut:
        return StreamStatusOut.from_status(hub.get(name).status())

    @routes.delete(
        "/api/streams/{name}",
        summary="Stop a stream and forget it",
        status_code=204,
        responses={204: {"description": "It is gone."}, **documented(403, 404, 422, 507)},
    )
    async def remove_stream(name: StreamName) -> None:
        await hub.remove(name)

    return routes
