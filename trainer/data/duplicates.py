"""Pictures that show the same, and training sets without what stands in held ones."""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from models.crop import Image
from trainer.data.crops import Crops

NEAR = 4
"""Difference hashes (64 bits) that differ in at most so many bits mark the same picture."""


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
