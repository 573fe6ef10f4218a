"""Labelled faces to crops.

Crops are kept "wide": WIDE pixels square, of which the middle SIZE pixels are what the server would
see. The rim gives the augmentation room to move and to shrink.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from models.crop import Image, crop_face
from trainer.data.classes import DataError
from trainer.data.faces import LabelledFace, Problem
from trainer.data.layouts import read_dataset
from trainer.data.pictures import BrokenPicture, read_picture

SIZE = 112
WIDE = 144
MARGIN = 0.15
"""Crop margin: with it, CenterFace's boxes on street scenes look like the crops of the 12K set."""


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


def crops_of(
    faces: Sequence[LabelledFace], min_width: float = 0
) -> tuple[Crops, tuple[Problem, ...]]:
    """Wide crops of the faces at least `min_width` pixels wide, in their order.

    A broken picture, and a box that lies outside its picture, become a Problem and no crop; a box
    that sticks out is clipped. The crops may be none.
    """
    images = np.empty((len(faces), WIDE, WIDE, 3), np.uint8)
    kept: list[tuple[int, float]] = []
    problems: list[Problem] = []
    pictures = [list(group) for _, group in groupby(faces, lambda face: face.path)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for found, broken in pool.map(lambda group: _cut(group, min_width), pictures):
            for crop, label, width in found:
                images[len(kept)] = crop
                kept.append((label, width))
            problems += broken
    labels = np.array([label for label, _ in kept], np.int64)
    widths = np.array([width for _, width in kept], np.float32)
    return Crops(images[: len(kept)], labels, widths), tuple(problems)


def _cut(
    faces: list[LabelledFace], min_width: float
) -> tuple[list[tuple[Image, int, float]], list[Problem]]:
    """The (wide crop, label, width) of one picture's faces, and what is wrong with them."""
    path = faces[0].path
    try:
        picture = read_picture(path)
    except BrokenPicture as error:
        return [], [Problem(path, error.reason)]
    found, problems = [], []
    for face in faces:
        box = face.box and clip(face.box, picture)
        width = face_width(picture, box)
        if width <= 0:
            problems.append(Problem(path, f"its box {face.box} has nothing of the picture in it"))
        elif width >= min_width:
            found.append((_wide(picture, box), face.label, width))
    return found, problems


def clip(
    box: tuple[float, float, float, float], picture: Image
) -> tuple[float, float, float, float]:
    """The part of the box within the picture; all zeros where there is none."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else (0.0, 0.0, 0.0, 0.0)


def face_width(picture: Image, box: tuple[float, float, float, float] | None) -> float:
    """In pixels; a picture that is a crop is taken to have the server's margin around the face."""
    return min(picture.shape[:2]) / (1 + MARGIN) if box is None else box[2] - box[0]


def _wide(picture: Image, box: tuple[float, float, float, float] | None) -> Image:
    """The wide crop of the face in `box`; of a picture that is a crop, with its border repeated."""
    if box is not None:
        return crop_face(picture, box, (1 + MARGIN) * WIDE / SIZE - 1, WIDE)
    smooth = cv2.INTER_AREA if picture.shape[1] > SIZE else cv2.INTER_LINEAR
    square = cv2.resize(picture, (SIZE, SIZE), interpolation=smooth)
    rim = (WIDE - SIZE) // 2
    wide = cv2.copyMakeBorder(square, rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    return np.asarray(wide, np.uint8)


def whole_crop(picture: Image, label: int) -> Crops:
    """A picture that is one face already: it becomes the middle of a wide crop."""
    return Crops(
        _wide(picture, None)[None],
        np.array([label], np.int64),
        np.array([face_width(picture, None)], np.float32),
    )


def read_folder(folder: Path) -> Crops:
    """Pre-cropped faces laid out as folder/CLASS/picture. Raises DataError when one is broken."""
    found = read_dataset(folder, "folders")
    crops, problems = crops_of([face for faces in found.splits.values() for face in faces])
    if problems:
        raise DataError(str(problems[0]))
    return crops
