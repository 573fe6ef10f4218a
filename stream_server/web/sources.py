"""Which URLs the API may add: strangers must not read files or schemes nobody offered them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stream_server.errors import SourceUnsupported

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,19}):")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?\.?|[0-9a-fA-F:.]+(%\w+)?")
_RTSP_EXAMPLE = "write rtsp://user:password@host:554/path"


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """The schemes that POST /api/streams takes, and the one folder whose files it may name."""

    schemes: Sequence[str]
    media_dir: Path | None = None

    def check(self, url: str) -> str:
        """The URL to hand to the hub. Raises `SourceUnsupported`, never repeating the URL."""
        if any(character.isspace() or not character.isprintable() for character in url):
            raise SourceUnsupported("url holds blanks or control characters: percent-encode them")
        found = _SCHEME.match(url)
        scheme = found[1].lower() if found else ""
        taken = (*self.schemes, "webrtc")
        if scheme not in taken:
            named = f"url scheme {scheme!r} is not taken here" if scheme else "url has no scheme"
            raise SourceUnsupported(f"{named}: use one of {', '.join(f'{s}:' for s in taken)}")
        if scheme in ("rtsp", "rtsps"):
            _check_rtsp(url)
        elif scheme == "file":
            return self._inside_media_dir(url)
        elif url.lower() != f"{scheme}:":
            raise SourceUnsupported(f"url must be just '{scheme}:', nothing after it")
        else:
            return f"{scheme}:"
        return url

    def _inside_media_dir(self, url: str) -> str:
        if self.media_dir is None:
            raise SourceUnsupported("url names a file, but no api.media_dir is set: set it first")
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise SourceUnsupported("url must be file:///path, without host, query or fragment")
        root = self.media_dir.resolve()
        # One answer for what is missing and what is out of bounds, so that nobody can probe paths.
        refused = SourceUnsupported(
            "url names no file inside api.media_dir: give the path of a file there"
        )
        try:
            path = (root / unquote(parts.path, errors="strict")).resolve()
            if not path.is_relative_to(root) or not path.is_file():
                raise refused
        except (OSError, ValueError) as error:
            raise refused from error
        return path.as_uri()


def _check_rtsp(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SourceUnsupported(
            f"url has a host or port that cannot be read: {_RTSP_EXAMPLE} and percent-encode "
            "special characters of the password"
        ) from error
    if not url[len(parts.scheme) :].startswith("://") or not host:
        raise SourceUnsupported(f"url names no host: {_RTSP_EXAMPLE}")
    if not _HOST.fullmatch(host):
        raise SourceUnsupported(
            f"url has a host name with characters that cannot be: {_RTSP_EXAMPLE}"
        )
    if port == 0:
        raise SourceUnsupported("url has port 0, on which nothing can answer: leave it out for 554")
