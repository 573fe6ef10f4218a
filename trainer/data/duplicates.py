"""Pictures that show the same, and training sets without what stands in held ones.

Two signs are used. Fingerprints compare what is seen: copies that were recoded, resized, blurred,
pixelated, mirrored or of other colours are found, turned or zoomed ones are not. Those are known by
their names, where the tool that made them left the name of the source in them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.crop import Image
from trainer.data.crops import Crops
from trainer.data.faces import LabelledFace

ALIKE = 0.87
"""Fingerprints at least so similar mark the same picture.

Measured on the 12K set: of 12.5 million pairs of different bare faces none reached 0.86; 95 of
100 copies (JPEG 40, half the size, blur, mosaic, half the light, grey) keep 0.89 and more.
"""
NEAR = 4
"""Difference hashes (64 bits) that differ in at most so many bits may mark the same scene."""
ROUGHLY = 0.6
"""They do where the fingerprints are so similar. Without this, 1003 of 5023 different bare faces of
the 12K set were chained to one group; with it, 374."""

_SIDE = 24
_BLOCK = 1024
_COPIES = (
    re.compile(r"augmented_(\d+)_\d+", re.IGNORECASE),  # Face Mask 12K
    re.compile(r"(.+)\.rf\.[0-9a-f]{32}", re.IGNORECASE),  # Roboflow's exports
)


def without_leaks(train: Crops, held: Iterable[Crops]) -> Crops:
    """`train` less every face that also stands (nearly, or mirrored) in one of the `held` sets."""
    own = fingerprints(train.centres())
    clean = np.ones(len(train), np.bool_)
    for crops in held:
        codes = fingerprints(crops.centres())
        for rows, likeness in _likeness(own, codes):
            clean[rows] &= likeness.max(axis=1, initial=-1) < ALIKE
    return train.where(clean)


def without_siblings(
    train: Iterable[LabelledFace], held: Iterable[LabelledFace]
) -> tuple[LabelledFace, ...]:
    """`train` less the faces whose names say that a copy of the same source is in `held`."""
    taken = {(face.label, source_of(face.path)) for face in held if source_of(face.path)}
    return tuple(face for face in train if (face.label, source_of(face.path)) not in taken)


def source_of(path: Path) -> str | None:
    """What a copy augmented beforehand was made from, if its name tells; else None."""
    found = next((match for copy in _COPIES if (match := copy.fullmatch(path.stem))), None)
    return found[1] if found else None


def fingerprints(images: Image) -> NDArray[np.float32]:
    """The fine structure of each picture, as unit vectors: N x H x W x 3 to N x 576.

    The coarse light and dark is taken out: all faces have it in common.
    """
    codes = np.empty((len(images), _SIDE, _SIDE), np.float32)
    for code, image in zip(codes, images, strict=True):
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY)
        small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        code[:] = small - cv2.GaussianBlur(small, (0, 0), 2)
    flat = codes.reshape(len(codes), _SIDE * _SIDE)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)


def alike_pairs(codes: NDArray[np.float32]) -> NDArray[np.int64]:
    """The pairs (i < j) of near-identical pictures among N fingerprints, mirrored ones too: M x 2.

    Takes memory for a block of rows only; time grows with N².
    """
    pairs = [np.empty((0, 2), np.int64)]
    for rows, likeness in _likeness(codes, codes):
        one, other = np.nonzero(likeness >= ALIKE)
        one += rows.start
        pairs.append(np.stack([one, other], axis=1)[one < other])
    return np.concatenate(pairs)


def same_moment(images: Image) -> list[tuple[int, int]]:
    """Pairs (i < j) of pictures taken a moment apart: `alike_pairs` is blind to what has moved.

    To be used where a wrong pair costs little. N x H x W x 3, N up to some thousands.
    """
    codes, prints = hashes(images), fingerprints(images)
    pairs = []
    for place, code in enumerate(codes):
        near = np.flatnonzero(distances(code[None], codes[place + 1 :])[0] <= NEAR) + place + 1
        pairs += [(place, int(i)) for i in near if prints[place] @ prints[i] >= ROUGHLY]
    return pairs


def _likeness(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Blocks of rows of `a` and how alike they are to all of `b`, as it is or mirrored: -1..1."""
    mirrored = b.reshape(-1, _SIDE, _SIDE)[:, :, ::-1].reshape(b.shape)
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield rows, np.maximum(a[rows] @ b.T, a[rows] @ mirrored.T)


def groups_of(count: int, pairs: Iterable[Sequence[int]]) -> list[int]:
    """For each of `count` things the smallest one that a chain of `pairs` connects it to."""
    parent = list(range(count))

    def root(thing: int) -> int:
        while parent[thing] != thing:
            parent[thing] = parent[parent[thing]]
            thing = parent[thing]
        return thing

    for one, other in pairs:
        low, high = sorted((root(int(one)), root(int(other))))
        parent[high] = low
    return [root(thing) for thing in range(count)]


def hashes(images: Image) -> NDArray[np.uint64]:
    """Difference hash (64 bits) of each picture: N x H x W x 3 to N.

    Right for whole scenes; aligned portraits of different people can be as near as copies are.
    """
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY) for image in images]
    small = np.stack([cv2.resize(g, (9, 8), interpolation=cv2.INTER_AREA) for g in grey])
    bits = (small[:, :, 1:] > small[:, :, :-1]).reshape(len(small), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Differing bits between all hashes: N and M to N x M."""
    return np.asarray(np.bitwise_count(a[:, None] ^ b[None, :]), np.uint8)
