"""The sets of one training run: what is learnt from, what is measured on, how faces are drawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from trainer.augment import augment
from trainer.config import Shares, TrainConfig
from trainer.data import (
    INCORRECT,
    WITH_MASK,
    WITHOUT_MASK,
    Crops,
    DataError,
    join,
    read_folder,
    read_scenes,
    scene_crops,
    split_scenes,
    without_leaks,
)
from trainer.landmarks import LandmarkFinder
from trainer.synth import Finder, mark, paint_right, paint_wrong

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of RGB on a 0..1 scale; the customary figures of ImageNet."""


@dataclass(frozen=True, slots=True)
class Held:
    """What no training sees. `folder` and `scenes` are for choosing; `test` only for reporting."""

    folder: Crops
    scenes: Crops
    test: Crops


def read_held(faces12k: Path, voc: Path) -> Held:
    """The validation faces of both sets, and the 12K set's Test part."""
    _, held = split_scenes(read_scenes(voc))
    return Held(
        read_folder(faces12k / "Validation"), scene_crops(held), read_folder(faces12k / "Test")
    )


def read_training(
    faces12k: Path, voc: Path, held: Held, painted: int, seed: int
) -> dict[str, Crops]:
    """The training faces by source (the names of `Shares`), free of `held`, painted ones added."""
    avoid = (held.folder, held.test, held.scenes.where(held.scenes.width >= 24))
    folder = without_leaks(read_folder(faces12k / "Train"), avoid)
    seen, _ = split_scenes(read_scenes(voc))
    scenes = without_leaks(scene_crops(seen), avoid)
    pools = {
        "folder_with": folder.where(folder.labels == WITH_MASK),
        "scene_with": scenes.where(scenes.labels == WITH_MASK),
        "folder_without": folder.where(folder.labels == WITHOUT_MASK),
        "scene_without": scenes.where(scenes.labels == WITHOUT_MASK),
        "scene_incorrect": scenes.where(scenes.labels == INCORRECT),
    }
    for name, crops in pools.items():
        if not len(crops):
            raise DataError(f"no training face for {name}")
    return pools | paint_pools(pools, painted, LandmarkFinder(), np.random.default_rng(seed))


def paint_pools(
    pools: dict[str, Crops], painted: int, find: Finder, rng: np.random.Generator
) -> dict[str, Crops]:
    """Painted faces: three quarters of them wear the mask incorrectly."""
    # Faces from street scenes are few, yet they look like what the server sees: each counts thrice.
    street = pools["scene_without"].where(pools["scene_without"].width >= 24)
    bare = mark(join((pools["folder_without"], street, street, street)), find)
    lenders = mark(join((pools["folder_with"], pools["scene_with"])), find)
    if not len(bare.crops):
        raise DataError("no landmarks were found on the faces without a mask: nothing to paint on")
    return {
        "painted_with": paint_right(bare, lenders, max(1, painted // 4), rng),
        "painted_incorrect": paint_wrong(bare, lenders, max(1, painted - painted // 4), rng),
    }


class Draws(IterableDataset[tuple[NDArray[np.uint8], int]]):
    """One epoch of augmented faces, drawn by shares; seed and epoch decide them."""

    def __init__(self, pools: dict[str, Crops], config: TrainConfig, epoch: int) -> None:
        self._pools, self._config, self._epoch = pools, config, epoch

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Yield (RGB crop, size x size x 3, uint8; label)."""
        config = self._config
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        order = draw(self._pools, config.shares, config, self._epoch)
        size = config.size_at(self._epoch)
        for place in range(worker, len(order), workers):
            source, index = order[place]
            rng = np.random.default_rng((config.seed, self._epoch, place))
            crops = self._pools[source]
            view = augment(crops.images[index], size, rng)
            yield np.ascontiguousarray(view[:, :, ::-1]), int(crops.labels[index])


def draw(
    pools: dict[str, Crops], shares: Shares, config: TrainConfig, epoch: int
) -> list[tuple[str, int]]:
    """The (source, index) pairs of one epoch, shuffled; a source is used up before it repeats."""
    rng = np.random.default_rng((config.seed, epoch))
    total = config.steps_per_epoch() * config.batch
    pairs: list[tuple[str, int]] = []
    names = sorted(pools)
    wanted = {name: round(getattr(shares, name) * total) for name in names}
    wanted[max(wanted, key=lambda name: wanted[name])] += total - sum(wanted.values())
    for name in names:
        have = len(pools[name])
        rounds = -(-wanted[name] // have)
        picks = np.concatenate([rng.permutation(have) for _ in range(rounds)] or [np.empty(0, int)])
        pairs += [(name, int(index)) for index in picks[: wanted[name]]]
    return [pairs[place] for place in rng.permutation(total)]


def batches(pools: dict[str, Crops], config: TrainConfig, epoch: int) -> DataLoader[list[Tensor]]:
    """The loader of one epoch: uint8 N x H x W x 3 RGB and labels."""
    return DataLoader(
        Draws(pools, config, epoch),  # type: ignore[arg-type]
        batch_size=config.batch,
        num_workers=config.workers,
    )


def normalise(rgb: Tensor) -> Tensor:
    """uint8 N x H x W x 3 RGB to what the network takes: float N x 3 x H x W, channels last."""
    pixels = rgb.permute(0, 3, 1, 2).float().div_(255)
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return pixels.sub_(mean).div_(std)
