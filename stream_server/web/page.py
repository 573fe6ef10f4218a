"""Serves the built page: the index is always asked for again, the hashed files never are."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "page"
NOT_BUILT = (
    "The page has not been built; the API works all the same (see /docs).\n"
    "Build it with:  make install\n"
)


def router(folder: Path = FOLDER) -> APIRouter:
    """`/`, `/assets/…` and the few files beside the index. The folder is read at start."""
    routes = APIRouter(include_in_schema=False)
    if not (folder / "index.html").is_file():

        @routes.get("/")
        async def not_built() -> Response:
            return PlainTextResponse(NOT_BUILT, 503)

        return routes

    files = StaticFiles(directory=folder)

    @routes.get("/")
    async def index(request: Request) -> Response:
        return await _send(files, "index.html", request, "no-cache")

    @routes.get("/assets/{path:path}")
    async def asset(path: str, request: Request) -> Response:
        return await _send(files, f"assets/{path}", request, "public, max-age=31536000, immutable")

    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != "index.html":
            _add_file(routes, files, file.name)
    return routes


def _add_file(routes: APIRouter, files: StaticFiles, name: str) -> None:
    @routes.get(f"/{name}")
    async def beside_the_index(request: Request) -> Response:
        return await _send(files, name, request, "no-cache")


async def _send(files: StaticFiles, path: str, request: Request, cache: str) -> Response:
    if "\0" in path:
        raise HTTPException(404)
    response = await files.get_response(path, request.scope)
    response.headers["Cache-Control"] = cache
    return response
