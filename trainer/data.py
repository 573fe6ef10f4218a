"""Face crops from the public data sets, split so that no picture stands on both sides.

Crops are kept "wide": WIDE pixels square, of which the middle SIZE pixels are what the server would
see. The rim gives the augmentation room to move and to shrink.
"""

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from models.crop import Image, crop_face

SIZE = 112
WIDE = 144
MARGIN = 0.15
"""Crop margin: with it, CenterFace's boxes on street scenes look like the crops of the 12K set."""
NEAR = 4
"""Difference hashes (64 bits) that differ in at most so many bits mark the same picture."""

WITH_MASK, WITHOUT_MASK, INCORRECT = range(3)
_CLASSES = {
    "withmask": WITH_MASK,
    "withoutmask": WITHOUT_MASK,
    "maskwearedincorrect": INCORRECT,
    "incorrect": INCORRECT,
}


class DataError(Exception):
    """A data set is missing, empty or not laid out as expected; the message names the place."""


@dataclass(frozen=True, slots=True)
class Crops:
    """Faces: `images` N x WIDE x WIDE x 3 (BGR, uint8), `labels` N, `width` N (pixels)."""

    images: Image
    labels: NDArray[np.int64]
    width: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, keep: NDArray[np.bool_]) -> Self:
        """The faces where `keep` (N, bool) is true."""
        return type(self)(self.images[keep], self.labels[keep], self.width[keep])

    def centres(self, size: int = SIZE) -> Image:
        """What the server would see: N x size x size x 3, uint8, BGR."""
        rim = (WIDE - SIZE) // 2
        inner = self.images[:, rim : rim + SIZE, rim : rim + SIZE]
        if size == SIZE:
            return inner
        shrink = cv2.INTER_AREA if size < SIZE else cv2.INTER_LINEAR
        return np.stack([cv2.resize(i, (size, size), interpolation=shrink) for i in inner])


def join(parts: Iterable[Crops]) -> Crops:
    """All faces of several sets, in their order."""
    images, labels, width = zip(*((p.images, p.labels, p.width) for p in parts), strict=True)
    return Crops(np.concatenate(images), np.concatenate(labels), np.concatenate(width))


def label_of(name: str) -> int:
    """The class of a folder's or annotation's name. Raises DataError on an unknown one."""
    key = "".join(letter for letter in name.lower() if letter.isalpha())
    if key not in _CLASSES:
        raise DataError(f"unknown class {name!r}; known: {', '.join(_CLASSES)}")
    return _CLASSES[key]


def read_folder(folder: Path) -> Crops:
    """Pre-cropped faces laid out as folder/CLASS/picture. Raises DataError when there are none."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    faces = []
    for directory in sorted(path for path in folder.iterdir() if path.is_dir()):
        label = label_of(directory.name)
        for path in sorted(directory.iterdir()):
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is None:
                raise DataError(f"not a picture: {path}")
            faces.append(whole_crop(np.asarray(picture, np.uint8), label))
    if not faces:
        raise DataError(f"no pictures in {folder}")
    return join(faces)


def whole_crop(picture: Image, label: int) -> Crops:
    """A picture that is one face already: it becomes the middle of a wide crop."""
    height, width = picture.shape[:2]
    square = cv2.resize(
        picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA if width > SIZE else cv2.INTER_LINEAR
    )
    rim = (WIDE - SIZE) // 2
    wide = cv2.copyMakeBorder(square, rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    return _one(np.asarray(wide, np.uint8), label, min(height, width) / (1 + MARGIN))


@dataclass(frozen=True, slots=True)
class Scene:
    """A street scene: its picture's path and its faces as (label, x0, y0, x1, y1)."""

    path: Path
    faces: tuple[tuple[int, float, float, float, float], ...]


def read_scenes(folder: Path) -> list[Scene]:
    """Pascal VOC scenes from folder/images and folder/annotations. Raises DataError when none."""
    scenes = []
    pictures = {path.stem: path for path in sorted((folder / "images").glob("*"))}
    for xml in sorted((folder / "annotations").glob("*.xml")):
        if xml.stem not in pictures:
            raise DataError(f"{xml} has no picture in {folder / 'images'}")
        scenes.append(Scene(pictures[xml.stem], tuple(_boxes(xml))))
    if not scenes:
        raise DataError(f"no annotated scenes in {folder}")
    return scenes


def _boxes(xml: Path) -> Iterator[tuple[int, float, float, float, float]]:
    try:
        for item in ET.parse(xml).getroot().iter("object"):
            label = label_of(item.findtext("name", ""))
            sides = [
                float(item.findtext(f"bndbox/{s}", "")) for s in ("xmin", "ymin", "xmax", "ymax")
            ]
            yield (label, sides[0], sides[1], sides[2], sides[3])
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"{xml} is not a Pascal VOC annotation: {error}") from error


def scene_crops(scenes: Iterable[Scene], min_width: float = 12.0) -> Crops:
    """Wide crops of all faces at least `min_width` pixels wide."""
    wide_margin = (1 + MARGIN) * WIDE / SIZE - 1
    faces = []
    for scene in scenes:
        picture = cv2.imread(str(scene.path), cv2.IMREAD_COLOR)
        if picture is None:
            raise DataError(f"not a picture: {scene.path}")
        for label, *box in scene.faces:
            width = box[2] - box[0]
            if width >= min_width and box[3] > box[1]:
                crop = crop_face(np.asarray(picture, np.uint8), box, wide_margin, WIDE)
                faces.append(_one(crop, label, width))
    if not faces:
        raise DataError(f"no face of at least {min_width} px in these scenes")
    return join(faces)


def split_scenes(
    scenes: list[Scene], validation: float = 0.2, rare: float = 0.33
) -> tuple[list[Scene], list[Scene]]:
    """(training, validation), chosen by the pictures' content, near-identical pictures together.

    `validation` is the share held back; `rare` is the share of the scenes with a face that wears
    its mask incorrectly: they are few, and a recall measured on five faces would say nothing.
    """
    codes = hashes(np.stack([_thumbnail(scene.path) for scene in scenes]))
    digests = [hashlib.sha256(scene.path.read_bytes()).hexdigest() for scene in scenes]
    groups: dict[str, list[Scene]] = {}
    for code, scene in zip(codes, scenes, strict=True):
        near = np.flatnonzero(distances(code[None], codes)[0] <= NEAR)
        groups.setdefault(min(digests[other] for other in near), []).append(scene)
    strata: tuple[list[str], list[str]] = ([], [])
    for key in sorted(groups):
        strata[any(_has_rare(scene) for scene in groups[key])].append(key)
    held = set(strata[0][: round(validation * len(strata[0]))])
    held.update(strata[1][: round(rare * len(strata[1]))])
    sides: tuple[list[Scene], list[Scene]] = ([], [])
    for key in sorted(groups):
        sides[key in held].extend(groups[key])
    return sides


def _has_rare(scene: Scene) -> bool:
    return any(label == INCORRECT for label, *_ in scene.faces)


def without_leaks(train: Crops, held: Iterable[Crops]) -> Crops:
    """`train` less every face that also stands (nearly, or mirrored) in one of the `held` sets."""
    own = hashes(train.centres())
    clean = np.ones(len(train), np.bool_)
    for crops in held:
        centres = crops.centres()
        for codes in (hashes(centres), hashes(centres[:, :, ::-1])):
            for start in range(0, len(own), 1024):
                gap = distances(own[start : start + 1024], codes).min(axis=1)
                clean[start : start + 1024] &= gap > NEAR
    return train.where(clean)


def hashes(images: Image) -> NDArray[np.uint64]:
    """Difference hash (64 bits) of each picture: N x H x W x 3 to N."""
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY) for image in images]
    small = np.stack([cv2.resize(g, (9, 8), interpolation=cv2.INTER_AREA) for g in grey])
    bits = (small[:, :, 1:] > small[:, :, :-1]).reshape(len(small), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Differing bits between all hashes: N and M to N x M."""
    return np.asarray(np.bitwise_count(a[:, None] ^ b[None, :]), np.uint8)


def _thumbnail(path: Path) -> Image:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(f"not a picture: {path}")
    return np.asarray(cv2.resize(picture, (72, 64), interpolation=cv2.INTER_AREA), np.uint8)


def _one(wide: Image, label: int, width: float) -> Crops:
    return Crops(wide[None], np.array([label], np.int64), np.array([width], np.float32))
