"""Which files are meant, and where their results go. Never onto an input."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stream_server.errors import SettingsError

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"}
    | {".flv", ".wmv", ".3gp", ".ogv", ".gif", ".h264", ".h265", ".mjpeg"}
)


@dataclass(frozen=True, slots=True)
class Item:
    """One file to look at. `place` is where its result goes, relative to the output folder."""

    path: Path
    place: Path

    @property
    def is_video(self) -> bool:
        """All that is not known as a picture is tried as a video."""
        return self.path.suffix.lower() not in PICTURES


def find(inputs: Sequence[str]) -> tuple[list[Item], list[str]]:
    """The files that `inputs` (files, folders, globs) name, each once, and what was not found.

    Raises SettingsError when there is nothing to do.
    """
    items: dict[Path, Item] = {}
    missing: list[str] = []
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_dir():
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
            items.setdefault(item.path.resolve(), item)
    if not items:
        raise SettingsError("\n".join(missing))
    return list(items.values()), missing


def _media(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in PICTURES | VIDEOS and path.is_file() and not hidden:
            yield path


def targets(items: Sequence[Item], out: Path) -> list[Path | None]:
    """Where each result goes: same name in `out`, videos as .mp4, "-2" added where that is taken.

    Raises SettingsError if a result would replace an input.
    """
    sources = {item.path.resolve() for item in items}
    taken: set[Path] = set()
    results: list[Path | None] = []
    for item in items:
        wanted = out / (item.place.with_suffix(".mp4") if item.is_video else item.place)
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
