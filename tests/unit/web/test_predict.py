"""POST /api/predict over the fake analyser: forms, types, limits, overload."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from stream_server.errors import Overloaded
from stream_server.web import WebLimits
from tests.fakes.house import INFO, House, build, in_process, until

FORM = {"content-type": "multipart/form-data; boundary=b"}


def picture(form: str = "JPEG", size: tuple[int, int] = (61, 41)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (90, 140, 200)).save(out, form)
    return out.getvalue()


async def post(
    client: httpx.AsyncClient, content: bytes, kind: str = "image/jpeg", **headers: str
) -> httpx.Response:
    return await client.post(
        "/api/predict", content=content, headers={"content-type": kind} | headers
    )


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("JPEG", "image/jpeg"),
        ("JPEG", "IMAGE/JPEG; charset=binary"),
        ("JPEG", "image/jpg"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("PNG", "image/jpeg"),
    ],
)
async def test_raw_bodies(client: httpx.AsyncClient, form: str, kind: str) -> None:
    response = await post(client, picture(form), kind)
    assert response.status_code == 200
    found = response.json()
    assert (found["width"], found["height"]) == (61, 41)
    assert found["faces"][0]["label"] == "with_mask"
    assert found["model"] == INFO.model.model_dump()


async def test_a_form(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/predict", files={"image": ("me.jpg", picture())})
    assert response.status_code == 200
    assert len(response.json()["faces"]) == 1


async def test_the_picture_with_the_faces_drawn(client: httpx.AsyncClient) -> None:
    response = await post(client, picture(), accept="image/jpeg")
    assert response.headers["content-type"] == "image/jpeg"
    drawn = np.asarray(Image.open(io.BytesIO(response.content)))
    assert drawn.shape == (41, 61, 3)
    plain = np.asarray(Image.open(io.BytesIO(picture())))
    assert np.abs(drawn.astype(int) - plain).max() > 60, "nothing was drawn"


@pytest.mark.parametrize(
    ("content", "headers", "status", "word"),
    [
        (b"x", {"content-type": "text/plain"}, 415, "image/png"),
        (b"x", {}, 415, "image/jpeg"),
        (b"x", {"content-type": "image/heic"}, 415, "image/webp"),
        (b"x", {"content-type": "application/json"}, 415, "multipart/form-data"),
        (b"", {"content-type": "image/jpeg"}, 422, "empty"),
        (b"x", {"content-type": "image/jpeg"}, 422, "not a picture"),
        (picture()[:300], {"content-type": "image/jpeg"}, 422, "cut off"),
        (picture(size=(1001, 1000)), {"content-type": "image/jpeg"}, 422, "1001x1000"),
        (picture(), {"content-type": "image/jpeg", "accept": "text/html"}, 406, "image/jpeg"),
        (b"x", {"content-type": "multipart/form-data"}, 400, "boundary"),
        (b"x", FORM, 400, "form"),
        (
            b"--b\r\n\r\nx\r\n--b--",
            FORM,
            400,
            "form",
        ),
        (b"--b--\r\n", FORM, 422, "'image'"),
        (b"\0" * ((1 << 20) + 1), {"content-type": "image/jpeg"}, 413, "1048576"),
        (b"\0" * (3 << 20), {"content-type": "image/jpeg"}, 413, "at most"),
    ],
)
async def test_refusals(
    client: httpx.AsyncClient, content: bytes, headers: dict[str, str], status: int, word: str
) -> None:
    response = await client.post("/api/predict", content=content, headers=headers)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert word in response.json()["detail"]


@pytest.mark.parametrize(
    "fields",
    [
        {"files": {"photo": ("me.jpg", picture())}},
        {"files": {"image": ("me.jpg", picture()), "other": ("b", b"x")}},
        {"files": {"image": ("me.jpg", picture())}, "data": {"more": "1"}},
        {"files": {"image": (None, b"text")}},
    ],
)
async def test_forms_that_are_not_one_picture(
    client: httpx.AsyncClient, fields: dict[str, object]
) -> None:
    response = await client.post("/api/predict", **fields)
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_form_never_touches_the_disk(
    house: House, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_file(*_args: object, **_options: object) -> None:
        raise AssertionError("a picture went to disk")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", no_file)
    monkeypatch.setattr("tempfile.TemporaryFile", no_file)
    noise = np.random.default_rng(1).integers(0, 255, (580, 580, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "BMP")
    assert len(out.getvalue()) > 1_000_000
    response = await client.post("/api/predict", files={"image": ("me.bmp", out.getvalue())})
    assert response.status_code == 200


async def test_too_much_at_once_is_refused_and_passes(tmp_path: Path) -> None:
    limits = WebLimits(max_upload_pixels=10_000, predictions=3, predicting=1)
    async with build(tmp_path, limits) as house, in_process(house.app) as client:
        house.analyser.hold.clear()
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(post(client, picture())) for _ in range(3)]
            await until(lambda: house.analyser.calls == 1)
            refused = await post(client, picture())
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert house.analyser.calls == 1, "only one is worked on at a time"
            house.analyser.hold.set()
        assert [task.result().status_code for task in waiting] == [200, 200, 200]
        assert (await post(client, picture())).status_code == 200


async def test_a_full_batcher_is_overload(house: House, client: httpx.AsyncClient) -> None:
    def full() -> None:
        raise Overloaded("the batcher is full: try again")

    house.analyser.before = full
    response = await post(client, picture())
    assert response.status_code == 503
    assert "batcher" in response.json()["detail"]


async def test_an_upload_that_never_ends_is_given_up(tmp_path: Path) -> None:
    async def dripping() -> AsyncIterator[bytes]:
        yield picture()[:100]
        await asyncio.sleep(60)

    limits = WebLimits(upload_seconds=0.1, predictions=1)
    async with build(tmp_path, limits) as house, in_process(house.app) as client:
        headers = {"content-type": "image/jpeg"}
        response = await client.post("/api/predict", content=dripping(), headers=headers)
        assert response.status_code == 408
        assert (await post(client, picture())).status_code == 200, "its seat is free again"
