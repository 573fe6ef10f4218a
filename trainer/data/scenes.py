"""Pictures with several annotated faces, and their split."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from models.crop import Image
from trainer.data.classes import INCORRECT, DataError
from trainer.data.crops import Crops, crops_of
from trainer.data.duplicates import alike_pairs, fingerprints, groups_of, same_moment, source_of
from trainer.data.faces import LabelledFace
from trainer.data.layouts import read_dataset
from trainer.data.pictures import read_picture


@dataclass(frozen=True, slots=True)
class Scene:
    """A street scene: its picture's path and its faces as (label, x0, y0, x1, y1)."""

    path: Path
    faces: tuple[tuple[int, float, float, float, float], ...]


def scenes_of(faces: Iterable[LabelledFace]) -> list[Scene]:
    """Faces with boxes (those of one picture in a row) to scenes."""
    return [
        Scene(path, tuple((face.label, *face.box) for face in group if face.box))
        for path, group in groupby(faces, lambda face: face.path)
    ]


def read_scenes(folder: Path) -> list[Scene]:
    """Pascal VOC scenes of all splits. Raises DataError when there are none or one is broken."""
    found = read_dataset(folder, "voc")
    if found.problems:
        raise DataError(str(found.problems[0]))
    return [scene for faces in found.splits.values() for scene in scenes_of(faces)]


def scene_crops(scenes: Iterable[Scene], min_width: float = 12.0) -> Crops:
    """Wide crops of all faces at least `min_width` pixels wide. Raises DataError when broken."""
    faces = [
        LabelledFace(scene.path, label, (x0, y0, x1, y1))
        for scene in scenes
        for label, x0, y0, x1, y1 in scene.faces
    ]
    crops, problems = crops_of(faces, min_width)
    if problems:
        raise DataError(str(problems[0]))
    if not len(crops):
        raise DataError(f"no face of at least {min_width} px in these scenes")
    return crops


def split_scenes(
    scenes: list[Scene], validation: float = 0.2, rare: float = 0.33
) -> tuple[list[Scene], list[Scene]]:
    """(training, validation), chosen by the pictures' content, copies of one picture together.

    `validation` is the share held back; `rare` is the share of the scenes with a face that wears
    its mask incorrectly: they are few, and a recall measured on five faces would say nothing.
    """
    digests = [hashlib.sha256(scene.path.read_bytes()).hexdigest() for scene in scenes]
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups_of(len(scenes), _same(scenes))):
        members.setdefault(group, []).append(place)
    groups = {
        min(digests[place] for place in places): [scenes[place] for place in places]
        for places in members.values()
    }
    strata: tuple[list[str], list[str]] = ([], [])
    for key in sorted(groups):
        strata[any(_has_rare(scene) for scene in groups[key])].append(key)
    held = set(strata[0][: round(validation * len(strata[0]))])
    held.update(strata[1][: round(rare * len(strata[1]))])
    sides: tuple[list[Scene], list[Scene]] = ([], [])
    for key in sorted(groups):
        sides[key in held].extend(groups[key])
    return sides


def _same(scenes: list[Scene]) -> list[tuple[int, int]]:
    """Pairs of scenes that show the same, or whose names say that they are copies of one source."""
    thumbnails = np.stack([_thumbnail(scene.path) for scene in scenes])
    pairs: list[tuple[int, int]] = [(i, j) for i, j in alike_pairs(fingerprints(thumbnails))]
    pairs += same_moment(thumbnails)
    first: dict[tuple[Path, str], int] = {}
    for place, scene in enumerate(scenes):
        if source := source_of(scene.path):
            pairs.append((first.setdefault((scene.path.parent, source), place), place))
    return pairs


def _has_rare(scene: Scene) -> bool:
    return any(label == INCORRECT for label, *_ in scene.faces)


def _thumbnail(path: Path) -> Image:
    small = cv2.resize(read_picture(path), (72, 64), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
