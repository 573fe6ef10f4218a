"""What stands in data sets: counts, sizes, duplicates, leaks between splits, broken files."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import LABELS
from trainer.data.crops import clip, face_width
from trainer.data.duplicates import alike_pairs, fingerprints, groups_of, source_of
from trainer.data.faces import DataSet, LabelledFace, Problem
from trainer.data.pictures import BrokenPicture, decode, read_bytes

SMALL = 24
"""Faces narrower than so many pixels are hard to tell, for people too."""
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture that could be read. `widths`: (class, pixels) of each face; blank: one colour."""

    path: Path
    split: str
    widths: tuple[tuple[int, float], ...]
    blank: bool
    digest: str
    fingerprint: NDArray[np.float32]

    @property
    def labels(self) -> frozenset[int]:
        """The classes of its faces."""
        return frozenset(label for label, _ in self.widths)


def report(data: DataSet, progress: Callable[[int], object] = lambda _: None) -> dict[str, Any]:
    """Everything `maskstream data report` tells of one data set, fit for JSON.

    `progress` is called with 1 for each picture looked at. Raises nothing on a broken picture.
    """
    seen: list[Seen] = []
    problems = list(data.problems)
    pictures = [
        (split, list(faces))
        for split, all_faces in data.splits.items()
        for _, faces in groupby(all_faces, lambda face: face.path)
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for found, broken in pool.map(lambda picture: _look(*picture), pictures):
            seen += [found] if found else []
            problems += broken
            progress(1)
    groups = {kind: _groups(seen, pairs) for kind, pairs in _pairs(seen).items()}
    return {
        "root": str(data.root),
        "layout": data.layout,
        "pictures": len(seen),
        "classes": [LABELS[label] for label in data.classes],
        "splits": {split: _split(split, seen) for split in data.splits},
        "duplicates": {kind: len(found) for kind, found in groups.items()},
        "leaks": {kind: _leaks(found, seen, data.root) for kind, found in groups.items()},
        "contradictions": _contradictions(groups["identical"], seen, data.root),
        "blank": [_short(picture.path, data.root) for picture in seen if picture.blank],
        "broken": [{"path": str(item.path), "reason": item.reason} for item in problems],
    }


def has_leaks(found: Mapping[str, Any]) -> bool:
    """Whether a report tells of pictures that stand on both sides of a split."""
    return any(leak["groups"] for leak in found["leaks"].values())


def _look(split: str, faces: Sequence[LabelledFace]) -> tuple[Seen | None, list[Problem]]:
    path = faces[0].path
    try:
        content = read_bytes(path)
        picture = decode(content, path)
    except BrokenPicture as error:
        return None, [Problem(path, error.reason)]
    widths = [(f.label, face_width(picture, f.box and clip(f.box, picture))) for f in faces]
    outside = [face.box for face, (_, width) in zip(faces, widths, strict=True) if width <= 0]
    problems = [Problem(path, f"its box {box} has nothing of the picture in it") for box in outside]
    inside = tuple((label, width) for label, width in widths if width > 0)
    digest = hashlib.sha256(content).hexdigest()
    blank = bool(picture.min() == picture.max())
    return Seen(path, split, inside, blank, digest, fingerprints(picture[None])[0]), problems


def _split(split: str, seen: Iterable[Seen]) -> dict[str, Any]:
    """Faces by class, and their widths."""
    faces = [face for picture in seen if picture.split == split for face in picture.widths]
    counts = Counter(label for label, _ in faces)
    widths = sorted(width for _, width in faces)
    return {
        "faces": len(faces),
        "classes": {name: counts[label] for label, name in enumerate(LABELS)},
        "width": {
            "min": round(widths[0], 1),
            "median": round(median(widths), 1),
            "max": round(widths[-1], 1),
            "share_under_24": round(sum(width < SMALL for width in widths) / len(widths), 4),
        }
        if widths
        else None,
    }


def _pairs(seen: Sequence[Seen]) -> dict[str, list[tuple[int, int]]]:
    """Pairs of pictures that belong together, by how that is known."""
    codes = np.array([picture.fingerprint for picture in seen], np.float32)
    sources = [
        [(label, source) for label in picture.labels] if (source := source_of(picture.path)) else []
        for picture in seen
    ]
    identical = _chain([[picture.digest] for picture in seen])
    return {
        "identical": identical,
        "near_identical": identical + [(int(i), int(j)) for i, j in alike_pairs(codes)],
        "same_source": _chain(sources),
    }


def _chain(keys: Iterable[Iterable[object]]) -> list[tuple[int, int]]:
    """Each thing paired with the first one that has a key in common with it."""
    first: dict[object, int] = {}
    return [
        (first[key], place)
        for place, own in enumerate(keys)
        for key in own
        if first.setdefault(key, place) != place
    ]


def _groups(seen: Sequence[Seen], pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The places in `seen` that belong together, in groups of two and more."""
    groups: dict[int, list[int]] = {}
    for place, group in enumerate(groups_of(len(seen), pairs)):
        groups.setdefault(group, []).append(place)
    return [places for places in groups.values() if len(places) > 1]


def _leaks(groups: Iterable[list[int]], seen: Sequence[Seen], root: Path) -> dict[str, Any]:
    """The groups that stand in more than one split, with examples: a picture of each split."""
    across = [group for group in groups if len({seen[place].split for place in group}) > 1]
    training = sum(seen[place].split == "Train" for group in across for place in group)
    examples = []
    for group in across[:EXAMPLES]:
        one_each = {seen[place].split: seen[place].path for place in reversed(group)}
        examples.append([_short(path, root) for path in reversed(one_each.values())])
    return {"groups": len(across), "training_pictures": training, "examples": examples}


def _contradictions(
    groups: Iterable[list[int]], seen: Sequence[Seen], root: Path
) -> list[list[str]]:
    """Identical pictures of different classes: one of the labels is wrong."""
    return [
        [_short(seen[place].path, root) for place in group]
        for group in groups
        if len({seen[place].labels for place in group}) > 1
    ]


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root))
