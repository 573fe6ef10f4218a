"""Painted training faces: masks worn rightly and wrongly, on faces that wear none.

Two kinds of cloth: drawn by `models.mask_painter`, and real ones, lent by faces that do wear a
mask. Both kinds are worn rightly and wrongly, so that neither looks is a sign of a class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.crop import Image
from models.mask_painter import (
    STYLES,
    Wearing,
    blend_sheet,
    coverage,
    face_frame,
    mask_outline,
    paint_mask,
    sheet_pixels,
)
from trainer.data import INCORRECT, MARGIN, SIZE, WIDE, WITH_MASK, Crops

Finder = Callable[[Image], NDArray[np.float32] | None]

_WRONG: dict[Wearing, float] = {
    "nose_tip_out": 0.15,
    "nose_out": 0.45,
    "below_mouth": 0.2,
    "chin": 0.2,
}


@dataclass(frozen=True, slots=True)
class Marked:
    """Wide crops and their landmarks (N x 5 x 2, pixels of the wide crop)."""

    crops: Crops
    landmarks: NDArray[np.float32]


def mark(crops: Crops, find: Finder, enough: int | None = None) -> Marked:
    """The faces of `crops` whose landmarks are found; at most `enough` of them."""
    kept, marks = [], []
    for index, image in enumerate(crops.images):
        found = find(image)
        if found is not None:
            kept.append(index)
            marks.append(found)
        if len(kept) == enough:
            break
    keep = np.zeros(len(crops), np.bool_)
    keep[kept] = True
    return Marked(crops.where(keep), np.array(marks, np.float32).reshape(-1, 5, 2))


def paint(
    bare: Marked, lenders: Marked, count: int, wearings: Sequence[Wearing], rng: np.random.Generator
) -> Crops:
    """`count` painted faces, `wearings` drawn by their shares; label by the way of wearing."""
    shares = np.array([_WRONG.get(wearing, 1.0) for wearing in wearings])
    images: list[Image] = []
    labels: list[int] = []
    width: list[float] = []
    while len(images) < count:
        index = int(rng.integers(len(bare.crops)))
        wearing = wearings[int(rng.choice(len(wearings), p=shares / shares.sum()))]
        painted = _paint_one(bare, index, lenders, wearing, rng)
        if not _shows(painted, bare.crops.images[index]):
            continue
        images.append(_as_found(painted, float(bare.crops.width[index])))
        labels.append(WITH_MASK if wearing == "correct" else INCORRECT)
        width.append(bare.crops.width[index])
    return Crops(np.stack(images), np.array(labels, np.int64), np.array(width, np.float32))


def paint_wrong(bare: Marked, lenders: Marked, count: int, rng: np.random.Generator) -> Crops:
    """`count` faces that wear their mask incorrectly."""
    return paint(bare, lenders, count, tuple(_WRONG), rng)


def paint_right(bare: Marked, lenders: Marked, count: int, rng: np.random.Generator) -> Crops:
    """`count` faces that wear their mask as one should."""
    return paint(bare, lenders, count, ("correct",), rng)


def _as_found(painted: Image, width: float) -> Image:
    """The crop as sharp as the face was: a sharp mask on a blurred face would give itself away."""
    pixels = round(1.2 * width * (1 + MARGIN) * WIDE / SIZE)
    if pixels >= WIDE:
        return painted
    few = cv2.resize(painted, (pixels, pixels), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(few, (WIDE, WIDE), interpolation=cv2.INTER_LINEAR), np.uint8)


def _shows(painted: Image, bare: Image) -> bool:
    """Whether enough of the mask lies within what the server would see."""
    rim = (WIDE - SIZE) // 2 + 4
    changed = cv2.absdiff(painted, bare).max(axis=2)[rim:-rim, rim:-rim] > 24
    return float(changed.mean()) > 0.04


def _paint_one(
    bare: Marked, index: int, lenders: Marked, wearing: Wearing, rng: np.random.Generator
) -> Image:
    face, marks = bare.crops.images[index], bare.landmarks[index]
    if len(lenders.crops) and rng.random() < 0.5:
        lender = int(rng.integers(len(lenders.crops)))
        return lend_mask(
            face, marks, lenders.crops.images[lender], lenders.landmarks[lender], wearing, rng
        )
    style = STYLES[int(rng.integers(len(STYLES)))]
    return paint_mask(face, marks, wearing=wearing, style=style, rng=rng)


def lend_mask(
    face: Image,
    landmarks: NDArray[np.float32],
    lender: Image,
    lender_landmarks: NDArray[np.float32],
    wearing: Wearing,
    rng: np.random.Generator,
) -> Image:
    """`face` (BGR, uint8) with the cloth that `lender` wears over nose and mouth.

    The cloth between the lender's nose bridge and chin is stretched over the outline of a mask
    worn in the given way. Landmarks are 5 x 2, in pixels of their own picture.
    """
    frame, source = face_frame(landmarks), face_frame(lender_landmarks)
    outline = mask_outline(wearing, rng)
    ppu = float(np.clip(1.6 * frame.scale, 24, 160))
    u, v = sheet_pixels(ppu)
    # From the height on the cloth to the part of the lender's face that is surely cloth.
    across, share = outline.cloth(u, v)
    low, high = (0.55, 1.65) if wearing != "chin" else (0.7, rng.uniform(1.1, 1.65))
    from_v = low + np.clip(share, -0.1, 1.1) * (high - low)
    from_u = np.clip(across, -0.95, 0.95) * 0.78
    places = np.stack([from_u, from_v, np.ones_like(u)], axis=-1) @ source.matrix.T
    places += source.bulge * np.clip(1 - from_u**2, 0, 1)[..., None]
    cloth = cv2.remap(
        lender,
        places[..., 0].astype(np.float32),
        places[..., 1].astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32)
    sheet = np.dstack([cloth, coverage(outline, ppu)]).astype(np.float32)
    return blend_sheet(face, sheet, frame, rng=rng, opacity=1.0, relight=0.35)
