"""The sets of one training run: what is learnt from, what is measured on, how faces are drawn.

What is drawn, and how each view is augmented, follows from the seed, the epoch and the place in it:
neither the number of workers nor a restart changes it.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from models import LABELS
from models.crop import Image
from trainer.augment import augment
from trainer.config import Shares, TrainConfig
from trainer.data import (
    WIDE,
    WITH_MASK,
    WITHOUT_MASK,
    Crops,
    DataError,
    LabelledFace,
    Problem,
    Scene,
    crops_of,
    join,
    read_dataset,
    split_scenes,
    without_leaks,
    without_siblings,
)
from trainer.data.pictures import BrokenPicture, read_picture
from trainer.landmarks import LandmarkFinder
from trainer.synth import Finder, hard_negatives, mark, paint_right, paint_wrong

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of RGB on a 0..1 scale; the customary figures of ImageNet."""
LARGE = 24
"""Faces of street scenes at least so wide (pixels) are what choices are made on."""
SMALLEST = 12
"""Narrower faces are neither learnt from nor measured on: people cannot tell them either."""


@dataclass(frozen=True, slots=True)
class Held:
    """What no training sees. `folder` and `scenes` are for choosing; `test` only for reporting.

    `folder` are pictures that are one face, `scenes` faces cut out by their boxes. Each may be
    empty.
    """

    folder: Crops
    scenes: Crops
    test: Crops

    def choosing(self) -> dict[str, Crops]:
        """The faces on which epochs and settings are chosen, by the name of their set."""
        sets = {"folder": self.folder, "scenes": self.scenes.where(self.scenes.width >= LARGE)}
        return {name: crops for name, crops in sets.items() if len(crops)}


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Faces:
    """The labelled faces of all data sets, by the part they play."""

    train: tuple[LabelledFace, ...]
    validation: tuple[LabelledFace, ...]
    test: tuple[LabelledFace, ...]


def read_faces(data: Sequence[Path]) -> Faces:
    """All data sets together, each by its own split, or by ours where it has none.

    Raises DataError on a folder that is no data set.
    """
    parts: dict[str, list[LabelledFace]] = {"Train": [], "Validation": [], "Test": []}
    for root in data:
        found = read_dataset(root)
        _tell(found.problems)
        splits = {name: list(faces) for name, faces in found.splits.items()}
        learning = splits.pop("", []) + splits.pop("Train", [])
        if "Validation" not in splits:
            learning, splits["Validation"] = split_by_picture(_unbroken(learning))
        parts["Train"] += learning
        for name, faces in splits.items():
            parts[name] += faces
    return Faces(tuple(parts["Train"]), tuple(parts["Validation"]), tuple(parts["Test"]))


def split_by_picture(
    faces: Sequence[LabelledFace],
) -> tuple[list[LabelledFace], list[LabelledFace]]:
    """(training, validation): all faces of a picture and of its near-copies on one side."""
    scenes: dict[Path, list[tuple[int, float, float, float, float]]] = {}
    for face in faces:
        scenes.setdefault(face.path, []).append((face.label, *(face.box or (0, 0, 1, 1))))
    _, held = split_scenes([Scene(path, tuple(boxes)) for path, boxes in scenes.items()])
    paths = {scene.path for scene in held}
    return [f for f in faces if f.path not in paths], [f for f in faces if f.path in paths]


def _unbroken(faces: Sequence[LabelledFace]) -> list[LabelledFace]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        paths = dict.fromkeys(face.path for face in faces)
        broken = {problem.path: problem for problem in pool.map(_problem, paths) if problem}
    _tell(tuple(broken.values()))
    return [face for face in faces if face.path not in broken]


def _problem(path: Path) -> Problem | None:
    try:
        read_picture(path)
    except BrokenPicture as error:
        return Problem(path, error.reason)
    return None


def read_held(faces: Faces) -> Held:
    """The crops that no training sees, in no copy: where a copy is learnt from, the held one goes.

    Raises DataError when none is left for validation.
    """
    folder, scenes = _crops(without_siblings(faces.validation, faces.train))
    if not len(folder) + len(scenes):
        raise DataError("no face is left for validation: give more data, or a Validation folder")
    return Held(folder, scenes, join(_crops(without_siblings(faces.test, faces.train))))


def read_pools(faces: Faces, held: Held, config: TrainConfig) -> dict[str, Crops]:
    """The training faces by source (the names of `Shares`), free of `held`, painted ones added.

    Sources without a face are left out. Raises DataError when a class has no face at all.
    """
    avoid = [held.folder, held.test, held.scenes.where(held.scenes.width >= LARGE)]
    avoid = [crops for crops in avoid if len(crops)]
    pools = {}
    for source, crops in zip(("folder", "scene"), _crops(faces.train), strict=True):
        clean = without_leaks(crops, avoid) if len(crops) else crops
        for label, suffix in enumerate(("with", "without", "incorrect")):
            pools[f"{source}_{suffix}"] = clean.where(clean.labels == label)
    if config.painted or config.hard:
        rng = np.random.default_rng(config.seed)
        pools |= paint_pools(pools, config, LandmarkFinder(), rng)
    pools = {name: crops for name, crops in pools.items() if len(crops)}
    for label, name in enumerate(LABELS):
        if not any((crops.labels == label).any() for crops in pools.values()):
            raise DataError(f"no training face is {name}: add data that has some, or set painted")
    return pools


def paint_pools(
    pools: Mapping[str, Crops], config: TrainConfig, find: Finder, rng: np.random.Generator
) -> dict[str, Crops]:
    """Painted faces (three quarters wear the mask incorrectly) and hard ones (see `synth`)."""
    # Faces from street scenes are few, yet they look like what the server sees: each counts thrice.
    street = pools["scene_without"].where(pools["scene_without"].width >= LARGE)
    bare = mark(join((pools["folder_without"], street, street, street)), find)
    lenders = mark(join((pools["folder_with"], pools["scene_with"])), find)
    if not len(bare.crops):
        raise DataError("no landmarks on the faces without a mask: nothing to paint on")
    right = config.painted // 4
    wrong = config.painted - right
    hard = hard_negatives(bare, lenders, config.hard, rng) if config.hard else no_crops()
    return {
        "painted_with": paint_right(bare, lenders, right, rng) if right else no_crops(),
        "painted_incorrect": paint_wrong(bare, lenders, wrong, rng) if wrong else no_crops(),
        "hard_with": hard.where(hard.labels == WITH_MASK),
        "hard_without": hard.where(hard.labels == WITHOUT_MASK),
    }


def no_crops() -> Crops:
    """No face."""
    return Crops(
        np.empty((0, WIDE, WIDE, 3), np.uint8), np.empty(0, np.int64), np.empty(0, np.float32)
    )


def _crops(faces: Sequence[LabelledFace]) -> tuple[Crops, Crops]:
    """(pictures that are one face, faces cut out by their boxes); broken ones are told."""
    sides = []
    for side in ([f for f in faces if f.box is None], [f for f in faces if f.box is not None]):
        crops, problems = crops_of(side, SMALLEST) if side else (no_crops(), ())
        _tell(problems)
        sides.append(crops)
    return sides[0], sides[1]


def _tell(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(f"skipped {problem.path}: {problem.reason}", file=sys.stderr)


# --- drawing --------------------------------------------------------------------------------------

Pair = tuple[str, int]
"""A source and the place of a face in it."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One batch to be made: its epoch, the place of its first face in that epoch, its faces."""

    epoch: int
    place: int
    pairs: tuple[Pair, ...]


def draw(sizes: Mapping[str, int], config: TrainConfig, epoch: int) -> list[Pair]:
    """The faces of one epoch, shuffled, in whole batches, from sources of the given sizes.

    By shares, a source is used up before it repeats; without shares each face comes once.
    """
    rng = np.random.default_rng((config.seed, epoch))
    if config.shares is None or config.faces_per_epoch is None:
        wanted = dict(sizes)
    else:
        wanted = _by_shares(sizes, config.shares, config.faces_per_epoch, config.batch)
    pairs: list[Pair] = []
    for name in sorted(wanted):
        rounds = -(-wanted[name] // sizes[name])
        picks = [int(index) for _ in range(rounds) for index in rng.permutation(sizes[name])]
        pairs += [(name, index) for index in picks[: wanted[name]]]
    whole = len(pairs) // config.batch * config.batch
    return [pairs[place] for place in rng.permutation(len(pairs))[:whole]]


def _by_shares(sizes: Mapping[str, int], shares: Shares, faces: int, batch: int) -> dict[str, int]:
    """How many faces to draw of each source, adding up to whole batches."""
    weights = {name: getattr(shares, name) for name in sizes if getattr(shares, name, 0)}
    if not weights:
        raise DataError(f"shares: none of the sources found has one: {', '.join(sorted(sizes))}")
    total = faces // batch * batch
    wanted = {name: round(w / sum(weights.values()) * total) for name, w in weights.items()}
    most = max(sorted(wanted), key=lambda name: wanted[name])
    wanted[most] += total - sum(wanted.values())
    return wanted


class Order(Sampler[Draw]):
    """The batches of one epoch; Lightning sets the epoch. Of several processes each takes its own.

    `sizes` are the faces of each source.
    """

    def __init__(
        self, sizes: Mapping[str, int], config: TrainConfig, rank: int = 0, world: int = 1
    ) -> None:
        self._sizes, self._config = dict(sizes), config
        self._rank, self._world = rank, world
        self._epoch = 0
        self._length = len(draw(sizes, config, 0)) // config.batch // world
        if not self._length:
            raise DataError(
                f"{sum(sizes.values())} training faces do not fill a batch of {config.batch}: "
                "set a smaller batch or give more data"
            )

    def set_epoch(self, epoch: int) -> None:
        """Draw the given epoch next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Draw]:
        """Yield this process's batches."""
        order, batch = draw(self._sizes, self._config, self._epoch), self._config.batch
        for number in range(self._rank, self._length * self._world, self._world):
            place = number * batch
            yield Draw(self._epoch, place, tuple(order[place : place + batch]))


class Views(Dataset[tuple[Tensor, Tensor]]):
    """Makes the batches of `Order`: RGB (N x size x size x 3, uint8) and labels (N, int64)."""

    def __init__(self, pools: Mapping[str, Crops], config: TrainConfig) -> None:
        self._pools, self._config = pools, config

    def __getitem__(self, batch: Draw) -> tuple[Tensor, Tensor]:
        """Augment one batch."""
        size = self._config.size_at(batch.epoch)
        views = np.empty((len(batch.pairs), size, size, 3), np.uint8)
        labels = np.empty(len(batch.pairs), np.int64)
        for number, (source, index) in enumerate(batch.pairs):
            rng = np.random.default_rng((self._config.seed, batch.epoch, batch.place + number))
            crops = self._pools[source]
            view = self._view(crops.images[index], size, rng)
            views[number] = view[:, :, ::-1]
            labels[number] = crops.labels[index]
        return torch.from_numpy(views), torch.from_numpy(labels)

    def _view(self, wide: Image, size: int, rng: np.random.Generator) -> Image:
        if self._config.augment:
            return augment(wide, size, rng)
        one = Crops(wide[None], np.zeros(1, np.int64), np.zeros(1, np.float32))
        return np.asarray(one.centres(size)[0], np.uint8)


class Stills(Dataset[tuple[Tensor, Tensor]], Sampler[tuple[int, int]]):
    """Held faces as the server would see them, at the size that the epoch trains with.

    It is its own sampler: of (size, first face of a batch). Batches are as those of `Views`.
    """

    BATCH = 128

    def __init__(self, crops: Crops, config: TrainConfig) -> None:
        self._crops, self._config, self._epoch = crops, config, 0

    def set_epoch(self, epoch: int) -> None:
        """Give the faces as in the given epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self._crops) / self.BATCH)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the batches' keys."""
        size = self._config.size_at(self._epoch)
        return ((size, start) for start in range(0, len(self._crops), self.BATCH))

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cut out one batch."""
        size, start = key
        part = slice(start, start + self.BATCH)
        crops = self._crops
        some = Crops(crops.images[part], crops.labels[part], crops.width[part])
        rgb = np.ascontiguousarray(some.centres(size)[..., ::-1])
        return torch.from_numpy(rgb), torch.from_numpy(some.labels)


def calm_opencv(_: int = 0) -> None:
    """Small crops gain nothing from OpenCV's threads, and the network needs the cores."""
    cv2.setNumThreads(1)


def normalise(rgb: Tensor) -> Tensor:
    """uint8 N x H x W x 3 RGB to what the network takes: float N x 3 x H x W, channels last."""
    pixels = rgb.permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(MEAN, device=rgb.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=rgb.device).view(1, 3, 1, 1)
    return pixels.sub_(mean).div_(std)
