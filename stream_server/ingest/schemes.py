"""Which source a URL means.

- `rtsp://USER:PASSWORD@HOST:554/PATH`, `rtsps://...`: an IP camera
- `file:clip.mp4`, `file:///videos/a%20clip.mp4`, or a plain path: a video file, looped;
  `file:///videos/clip.mp4#once` plays it a single time
- `demo:`: built-in moving portraits
- `webrtc:`: waits for a browser or a WHIP client
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from stream_server.errors import SourceUnsupported
from stream_server.ingest.decode import EVERYTHING, Decoding, DropCounter, ignore_drops
from stream_server.ingest.demo import DemoSource
from stream_server.ingest.file import FileSource
from stream_server.ingest.relay import NO_PACKETS
from stream_server.ingest.rtsp import RtspSource, Transport
from stream_server.ports import FrameSource, PacketSink

Kind = Literal["webrtc", "rtsp", "file", "demo"]

# A single letter is a Windows drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_DRIVE = re.compile(r"/[A-Za-z]:")
_KINDS: dict[str, Kind] = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "file": "file",
    "demo": "demo",
    "webrtc": "webrtc",
}
_ONCE = "once"


def kind_of(url: str) -> Kind:
    """The kind of source a URL or plain path names; raises `SourceUnsupported` for no known one."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        if not url.strip():
            raise SourceUnsupported(f"the source's URL is empty: use one of {_known()}")
        return "file"
    kind = _KINDS.get(scheme[1].lower())
    if kind is None:
        raise SourceUnsupported(
            f"sources of the scheme {scheme[1][:40]!r} cannot be read: use one of {_known()}"
        )
    return kind


def build(
    url: str,
    *,
    transport: Transport = "auto",
    open_timeout: float = 5.0,
    read_timeout: float = 5.0,
    loop: bool = True,
    longest_side: int = 1920,
    on_drop: DropCounter = ignore_drops,
    packets: PacketSink = NO_PACKETS,
    decoding: Decoding = EVERYTHING,
) -> FrameSource:
    """A source for one run of `url`. `loop` is for files without `#once`.

    Raises `SourceUnsupported` for a URL that names no source, and for `webrtc:`, whose
    publisher comes by itself.
    """
    kind = kind_of(url)
    if kind == "rtsp":
        return RtspSource(
            url,
            transport=transport,
            open_timeout=open_timeout,
            read_timeout=read_timeout,
            longest_side=longest_side,
            on_drop=on_drop,
            packets=packets,
            decoding=decoding,
        )
    if kind == "file":
        path, once = file_of(url)
        return FileSource(
            path,
            loop=loop and not once,
            longest_side=longest_side,
            on_drop=on_drop,
            packets=packets,
            decoding=decoding,
        )
    if kind == "demo":
        if url.partition(":")[2]:
            raise SourceUnsupported("the demo takes nothing after its colon: write demo:")
        packets.refuse("the demonstration has no camera with video of its own: add one")
        return DemoSource()
    raise SourceUnsupported("a webrtc: stream waits for its publisher and is not opened")


def file_of(url: str) -> tuple[Path, bool]:
    """The path that a file: URL or plain path names, and whether it is to be played once.

    A plain path is taken letter by letter; in a URL %XX and the ending `#once` have a meaning.
    """
    if url[:5].lower() != "file:":
        return _at_home(url), False
    rest, hash_mark, option = url[5:].partition("#")
    if hash_mark and option != _ONCE:
        raise SourceUnsupported(f"unknown option '#{option[:40]}' of a file: only #{_ONCE} exists")
    if rest.startswith("//"):
        host, slash, tail = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise SourceUnsupported(
                f"a file: URL cannot name the host {host[:80]!r}: write file:///PATH"
            )
        rest = slash + tail
    path = unquote(rest)
    if _DRIVE.match(path):
        path = path[1:]
    if not path or "\0" in path:
        raise SourceUnsupported("the file: URL names no path: write file:///PATH")
    return _at_home(path), bool(hash_mark)


def _at_home(path: str) -> Path:
    if "\0" in path:
        raise SourceUnsupported("a file's path cannot hold a NUL character")
    # Unlike Path.expanduser, this leaves the name of an unknown user as it is.
    return Path(os.path.expanduser(path))


def _known() -> str:
    return ", ".join(f"{scheme}:" for scheme in _KINDS) + " or a file's path"
