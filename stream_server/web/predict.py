"""One picture in, its faces out."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from email.message import Message
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from stream_server.annotate.overlay import draw
from stream_server.errors import InvalidPicture, Overloaded
from stream_server.frames import Face, Picture, Pixels
from stream_server.publish.publisher import encode_jpeg
from stream_server.web import negotiate
from stream_server.web.live import Seats
from stream_server.web.models import FaceOut, PredictionOut
from stream_server.web.problems import documented
from stream_server.web.services import Services, WebLimits
from stream_server.web.uploads import decode

PATH = "/api/predict"
JSON, JPEG = "application/json", "image/jpeg"
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
FORM = "multipart/form-data"
FIELD = "image"
# What the parts' headers and boundaries may add to the picture itself.
FORM_OVERHEAD = 64 << 10
JPEG_QUALITY = 90
_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        **{kind: {"schema": _BINARY} for kind in IMAGE_TYPES},
        FORM: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: _BINARY},
                "additionalProperties": False,
            },
            "encoding": {FIELD: {"contentType": ", ".join(IMAGE_TYPES)}},
        },
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The faces, or by `Accept: image/jpeg` the picture with the faces drawn.",
        "content": {JPEG: {"schema": _BINARY}},
    },
    **documented(400, 403, 406, 408, 413, 415, 422, 503),
}


def router(services: Services, limits: WebLimits) -> APIRouter:
    """`POST /api/predict`."""
    routes = APIRouter(tags=["predict"])
    seats = Seats(
        limits.predictions,
        Overloaded(f"{limits.predictions} pictures are being looked at already: try again soon"),
    )
    working = asyncio.Semaphore(limits.predicting)

    @routes.post(
        PATH,
        summary="The faces of one picture",
        response_model=PredictionOut,
        responses=_RESPONSES,
        openapi_extra={"requestBody": _BODY},
    )
    async def predict(request: Request) -> Response:
        wanted = negotiate.best(request.headers.get("accept"), (JSON, JPEG))
        if wanted is None:
            raise HTTPException(406, f"Accept takes neither {JSON} nor {JPEG}: ask for one of them")
        with seats.take():
            data = await _read(request, limits)
            async with working:
                pixels = await asyncio.to_thread(decode, data, limits.max_upload_pixels)
                picture = await asyncio.to_thread(Picture.from_bgr, pixels)
                faces = await services.analyse(picture)
                if wanted == JPEG:
                    jpeg = await asyncio.to_thread(_drawn, picture, faces, pixels.shape)
                    return Response(jpeg, media_type=JPEG)
        height, width = pixels.shape[:2]
        found = PredictionOut(
            width=width,
            height=height,
            faces=[FaceOut.from_face(face) for face in faces],
            model=services.info().model,
        )
        return JSONResponse(found.model_dump(mode="json"))

    return routes


async def _read(request: Request, limits: WebLimits) -> bytes:
    """The picture's bytes from a raw or a multipart body."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", "") or "none/none"
    kind = header.get_content_type()
    if kind not in (FORM, *IMAGE_TYPES, "image/jpg"):
        raise HTTPException(
            415, f"Content-Type must be one of {', '.join(IMAGE_TYPES)}, or {FORM} with a field "
            f"{FIELD!r}"
        )  # fmt: skip
    try:
        async with asyncio.timeout(limits.upload_seconds):
            data = await (_field(request) if kind == FORM else request.body())
    except TimeoutError as error:
        raise HTTPException(
            408, f"the picture did not arrive within {limits.upload_seconds:g} s: send it again"
        ) from error
    if len(data) > limits.max_upload_bytes:
        raise HTTPException(
            413, f"the picture has more than {limits.max_upload_bytes} bytes: scale it down"
        )
    return data


class _InMemory(MultiPartParser):
    # 0 never spools to disk: no picture is stored. The body's length is bounded by its own limit.
    spool_max_size = 0


async def _field(request: Request) -> bytes:
    try:
        async with aclosing(request.stream()) as stream:
            form = await _InMemory(request.headers, stream, max_files=1, max_fields=1).parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from error
    try:
        return await _only_file(form)
    finally:
        await form.close()


async def _only_file(form: FormData) -> bytes:
    others = [name for name in form if name != FIELD]
    value = form.get(FIELD)
    if others or value is None:
        found = f", not {others[0][:40]!r}" if others else ""
        raise InvalidPicture(f"the form must have one field, {FIELD!r} with the picture{found}")
    if not isinstance(value, UploadFile):
        raise InvalidPicture(
            f"the form's field {FIELD!r} is text: send it as a file, with a file name"
        )
    return await value.read()


def _drawn(picture: Picture, faces: tuple[Face, ...], shape: tuple[int, ...]) -> bytes:
    drawn: Pixels = draw(picture, faces).bgr()
    # An odd side was padded for the encoder's sake.
    return encode_jpeg(drawn[: shape[0], : shape[1]], JPEG_QUALITY)
