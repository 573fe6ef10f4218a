"""What stands at an http(s) address: a picture, which is fetched, or a video, which is streamed."""

from __future__ import annotations

import base64
import http.client
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stream_server.errors import InvalidPicture
from stream_server.predict.inputs import PICTURES, Item

TIMEOUT = 10.0
MAX_BYTES = 64 << 20
SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
    "image/avif": ".avif",
}
ENDLESS = ("multipart/x-mixed-replace", "application/vnd.apple.mpegurl", "application/x-mpegurl")


def fetched(item: Item, folder: Path) -> Item:
    """`item` itself; for the address of a picture, one whose file is in `folder`. Blocking.

    Raises InvalidPicture when nothing can be had there, or too much.
    """
    if not item.address.lower().startswith("http"):
        return item
    try:
        with urllib.request.urlopen(_request(item.address), timeout=TIMEOUT) as answer:
            kind = answer.headers.get_content_type()
            if kind not in SUFFIXES:
                forced = item.path.suffix.lower() in PICTURES
                return replace(item, live=forced or kind in ENDLESS)
            data = answer.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InvalidPicture(f"cannot be fetched ({_reason(error)})") from error
    if len(data) > MAX_BYTES:
        raise InvalidPicture(f"the picture is larger than {MAX_BYTES >> 20} MB: scale it down")
    place = item.place
    if place.suffix.lower() not in PICTURES:
        place = place.with_name(place.name + SUFFIXES[kind])
    path = folder / f"{len(list(folder.iterdir()))}{place.suffix}"
    path.write_bytes(data)
    return replace(item, path=path, place=place, live=False)


def _request(url: str) -> urllib.request.Request:
    """User and password of the URL go into a header: urllib does not take them in the address."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(bare, headers={"User-Agent": "maskstream"})
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
    return request


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
