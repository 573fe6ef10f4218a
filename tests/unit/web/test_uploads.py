"""Uploaded bytes become an upright BGR picture, or one clear refusal; never a crash or a bomb."""

from __future__ import annotations

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stream_server.errors import InvalidPicture
from stream_server.web.uploads import decode

RED_TOP = np.zeros((40, 60, 3), np.uint8)
RED_TOP[:20, :, 0] = 255  # RGB
LIMIT = 1_000_000


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def looks_red_on_top(bgr: np.ndarray) -> bool:
    top, bottom = bgr[2:-22].reshape(-1, 3).mean(0), bgr[24:-2].reshape(-1, 3).mean(0)
    return bool(top[2] > 230 and top[:2].max() < 30 and bottom.max() < 30)


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("WEBP", "RGB", {"quality": 95}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "RGB", {}),
    ],
)
def test_every_usual_kind(form: str, mode: str, options: dict[str, object]) -> None:
    bgr = decode(encoded(Image.fromarray(RED_TOP).convert(mode), form, **options), LIMIT)
    assert (bgr.shape, bgr.dtype) == ((40, 60, 3), np.uint8)
    assert looks_red_on_top(bgr)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey(mode: str) -> None:
    bgr = decode(encoded(Image.new("L", (9, 7), 255).convert(mode), "PNG"), LIMIT)
    assert bgr.shape == (7, 9, 3)
    assert bgr.min() == 255


def test_sixteen_bits() -> None:
    deep = np.full((8, 8), 0x8012, np.uint16)
    bgr = decode(encoded(Image.fromarray(deep), "PNG"), LIMIT)
    assert (bgr == 0x80).all()


def test_a_phones_picture_is_turned_upright() -> None:
    turned = Image.fromarray(np.rot90(RED_TOP).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90° clockwise to show"
    bgr = decode(encoded(turned, "JPEG", quality=95, exif=exif), LIMIT)
    assert bgr.shape == (40, 60, 3)
    assert looks_red_on_top(bgr)


def test_the_first_picture_of_an_animation() -> None:
    first, second = Image.fromarray(RED_TOP), Image.new("RGB", (60, 40), "blue")
    data = encoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    assert looks_red_on_top(decode(data, LIMIT))


PNG = encoded(Image.fromarray(RED_TOP), "PNG")
JPEG = encoded(Image.fromarray(RED_TOP), "JPEG")
WEBP = encoded(Image.fromarray(RED_TOP), "WEBP")
BMP = encoded(Image.fromarray(RED_TOP), "BMP")
GIF = encoded(Image.fromarray(RED_TOP), "GIF")
TIFF = encoded(Image.fromarray(RED_TOP), "TIFF")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"hello", "not a picture"),
        (b"\x00" * 1000, "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (GIF, "not a picture"),
        (TIFF, "not a picture"),
        (JPEG[:2], "not a picture"),
        (JPEG[: len(JPEG) // 2], "broken or cut off"),
        (JPEG[:-20], "broken or cut off"),
        (PNG[:60], "broken or cut off"),
        (PNG[: len(PNG) // 2], "broken or cut off"),
        (WEBP[: len(WEBP) // 2], "picture"),
        (BMP[: len(BMP) // 2], "broken or cut off"),
        (PNG[:40] + bytes(30) + PNG[70:], "not a picture"),
    ],
)
def test_broken_bytes(data: bytes, word: str) -> None:
    with pytest.raises(InvalidPicture, match=word):
        decode(data, LIMIT)


def png_of_zeros(width: int, height: int) -> bytes:
    """The head of a file that claims width x height pixels, and a little of its body."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + min(width, 1000) * 3)
    packed = b"".join(packer.compress(row) for _ in range(min(height, 64))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def webp_claiming(width: int, height: int, kind: bytes) -> bytes:
    if kind == b"VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(8)
    else:
        body = b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(8)
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def jpeg_claiming(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


@pytest.mark.parametrize(
    "data",
    [
        png_of_zeros(10_000, 10_000),
        png_of_zeros(1_001, 1_000),
        png_of_zeros(2_000_000_000, 2_000_000_000),
        png_of_zeros(20_000, 1),
        jpeg_claiming(65_500, 65_500),
        jpeg_claiming(10_000, 10_000),
        webp_claiming(16_383, 16_383, b"VP8X"),
        webp_claiming(16_383, 16_383, b"VP8L"),
        webp_claiming(16_383, 16_383, b"VP8 "),
        BMP[:18] + struct.pack("<ii", 30_000, 30_000) + BMP[26:],
        BMP[:18] + struct.pack("<ii", 30_000, -30_000) + BMP[26:],
    ],
    ids=lambda data: repr(data[:4] + data[12:16]),
)
def test_bombs_are_refused_by_their_header(data: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidPicture, match="pixels"):
        decode(data, LIMIT)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000, f"{grown} KiB were taken to refuse it"


def test_the_limit_itself_is_allowed() -> None:
    data = encoded(Image.new("RGB", (100, 100)), "PNG")
    assert decode(data, 10_000).shape == (100, 100, 3)
    with pytest.raises(InvalidPicture, match="100x100"):
        decode(data, 9_999)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([PNG, JPEG, WEBP, BMP]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 4000),
)
def test_spoilt_files_give_a_picture_or_a_refusal(
    data: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    spoilt = bytearray(data)
    for at, value in changes:
        spoilt[at % len(spoilt)] = value
    try:
        bgr = decode(bytes(spoilt[: max(1, len(spoilt) - cut % 50)]), LIMIT)
    except InvalidPicture:
        return
    assert bgr.ndim == 3
    assert bgr.dtype == np.uint8
