"""Which files, cameras and addresses are meant, and where their results go. Never onto an input."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stream_server.errors import SettingsError
from stream_server.telemetry.logging import redact

WRITTEN = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""Kinds of pictures whose annotated copies are of the same kind; those of others are JPEGs."""
PICTURES = WRITTEN | {".jpe", ".jfif", ".avif", ".jp2", ".ppm", ".pgm", ".pnm"}
VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"}
    | {".flv", ".wmv", ".3gp", ".ogv", ".gif", ".h264", ".h265", ".mjpeg"}
)


# An address; a single letter before the colon is a Windows drive.
_ADDRESS = re.compile(r"(rtsp|rtsps|http|https)://", re.IGNORECASE)
_CAMERA = re.compile(r"(?:/dev/video)?(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to look at. `place` is where its result goes, relative to the output folder.

    `address` is the URL to read it from, "" for a file; `live`: it comes as it happens and may
    never end.
    """

    path: Path
    place: Path
    address: str = ""
    live: bool = False

    @property
    def is_video(self) -> bool:
        """All that is not known as a picture is tried as a video."""
        return self.live or self.path.suffix.lower() not in PICTURES

    @property
    def is_camera(self) -> bool:
        """A camera of this machine."""
        return self.live and not self.address

    @property
    def name(self) -> str:
        """What people and records call it: no password in it."""
        return redact(self.address) or str(self.path)


def find(inputs: Sequence[str]) -> tuple[list[Item], list[str]]:
    """What `inputs` (files, folders, globs, cameras, URLs) name, each once, and what was not found.

    Raises SettingsError when there is nothing to do.
    """
    items: dict[Path | str, Item] = {}
    missing: list[str] = []
    for text in inputs:
        path = Path(text).expanduser()
        camera = _CAMERA.fullmatch(text)
        if _ADDRESS.match(text):
            found = [_at_address(text)]
        elif camera and not path.is_file() and not path.is_dir():
            found, reason = _camera(int(camera[1])), "no such camera on this machine"
        elif path.is_dir():
            found = [Item(file, file.relative_to(path)) for file in _media(path)]
            reason = "no picture or video in this folder"
        elif path.exists():
            found, reason = [Item(path, Path(path.name))], ""
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            found = [Item(file, Path(file.name)) for file in matches if file.is_file()]
            reason = "no such file or folder"
        if not found:
            missing.append(f"{text}: {reason}")
        for item in found:
            items.setdefault(item.address or item.path.resolve(), item)
    if not items:
        raise SettingsError("\n".join(missing))
    return list(items.values()), missing


def _at_address(url: str) -> Item:
    """The picture, video or stream at a URL; what it is turns out when it is opened."""
    parts = urlsplit(url)
    name = Path(unquote(parts.path)).name or (parts.hostname or "stream")
    safe = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "stream"
    live = parts.scheme.lower().startswith("rtsp")
    return Item(Path(safe), Path(safe), url, live)


def _camera(number: int) -> list[Item]:
    device = Path(f"/dev/video{number}")
    return [Item(device, Path(f"camera-{number}"), live=True)] if device.exists() else []


def _media(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in PICTURES | VIDEOS and path.is_file() and not hidden:
            yield path


def targets(items: Sequence[Item], out: Path) -> list[Path | None]:
    """Where each result goes: same name in `out`, but videos .mp4, and "-2" where that is taken.

    Raises SettingsError if a result would replace an input.
    """
    sources = {item.path.resolve() for item in items if not item.address}
    taken: set[Path] = set()
    results: list[Path | None] = []
    for item in items:
        wanted = out / _result(item)
        target, number = wanted, 2
        while target.resolve() in taken:
            target = wanted.with_stem(f"{wanted.stem}-{number}")
            number += 1
        if target.resolve() in sources:
            raise SettingsError(
                f"--out {out}: the result would replace the input {target}; name another folder"
            )
        taken.add(target.resolve())
        results.append(target)
    return results


def _result(item: Item) -> Path:
    if item.is_video:
        return item.place.with_suffix(".mp4")
    return item.place if item.place.suffix.lower() in WRITTEN else item.place.with_suffix(".jpg")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it becomes `target` if all went well, else nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
