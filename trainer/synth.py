"""Painted training faces: masks worn rightly and wrongly, and faces easily taken for either.

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
    Style,
    Wearing,
    blend_sheet,
    coverage,
    face_frame,
    folds,
    mask_outline,
    paint_mask,
    sheet_pixels,
    sheet_scale,
)
from trainer.data import INCORRECT, SIZE, WIDE, WITH_MASK, WITHOUT_MASK, Crops
from trainer.props import AROUND, BEFORE_MOUTH, dark_clothes, turned

_UNSEEN = 2.0
"""A mean difference (grey levels) that nobody sees: the face had no more pixels than that."""
_TRIES = 50

Finder = Callable[[Image], NDArray[np.float32] | None]

# Mirrors the real wrong wearings of the training scenes: of 35, the nose is out in 16, the mask
# hangs below the mouth or the chin in 16.
_WRONG: dict[Wearing, float] = {
    "nose_tip_out": 0.10,
    "nose_out": 0.38,
    "below_mouth": 0.16,
    "chin": 0.22,
    "half_off": 0.06,
    "one_ear": 0.05,
    "mouth_out": 0.03,
}
_STYLES: dict[Style, float] = {
    "surgical": 0.45,
    "cloth": 0.15,
    "dark": 0.15,
    "respirator": 0.15,
    "patterned": 0.10,
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
    picks = rng.choice(len(wearings), count, p=shares / shares.sum())
    painted = [_paint_until_seen(bare, lenders, wearings[int(pick)], rng) for pick in picks]
    labels = [WITH_MASK if wearings[int(pick)] == "correct" else INCORRECT for pick in picks]
    return _crops(painted, labels)


def paint_wrong(bare: Marked, lenders: Marked, count: int, rng: np.random.Generator) -> Crops:
    """`count` faces that wear their mask incorrectly."""
    return paint(bare, lenders, count, tuple(_WRONG), rng)


def paint_right(bare: Marked, lenders: Marked, count: int, rng: np.random.Generator) -> Crops:
    """`count` faces that wear their mask as one should."""
    return paint(bare, lenders, count, ("correct",), rng)


def hard_negatives(bare: Marked, masked: Marked, count: int, rng: np.random.Generator) -> Crops:
    """`count` faces that are easily taken for another class, labelled by the truth.

    The first half wears no mask: a hand, cup, beard or scarf is before the mouth or near it. The
    others wear one as they should: black on black, under glasses, a hat or a hood, from the side.
    `masked` may be empty: then their masks are painted on `bare`.
    """
    faces = [_hard_without(bare, rng) for _ in range(count - count // 2)]
    labels = [WITHOUT_MASK] * len(faces) + [WITH_MASK] * (count // 2)
    faces += [_hard_with(bare, masked, rng) for _ in range(count // 2)]
    return _crops(faces, labels)


Face = tuple[Image, float]
"""A wide crop and the width of its face (pixels)."""


def _crops(faces: Sequence[Face], labels: Sequence[int]) -> Crops:
    images = np.stack([image for image, _ in faces])
    widths = np.array([width for _, width in faces], np.float32)
    return Crops(images, np.array(labels, np.int64), widths)


def _paint_until_seen(
    bare: Marked, lenders: Marked, wearing: Wearing, rng: np.random.Generator
) -> Face:
    """A painted face on which the mask shows: many crops end at the chin."""
    for _ in range(_TRIES):
        index = int(rng.integers(len(bare.crops)))
        face = bare.crops.images[index]
        painted = _paint_one(bare, index, lenders, wearing, rng)
        if _shows(painted, face):
            break
    dressed = _dress(painted, bare.landmarks[index], rng, 0.12)
    return _as_found(dressed, face), float(bare.crops.width[index])


def _hard_without(bare: Marked, rng: np.random.Generator) -> Face:
    index = int(rng.integers(len(bare.crops)))
    face, marks = bare.crops.images[index], bare.landmarks[index]
    prop = BEFORE_MOUTH[int(rng.integers(len(BEFORE_MOUTH)))]
    out = _dress(prop(face, face_frame(marks), rng), marks, rng, 0.4)
    return _as_found(out, face), float(bare.crops.width[index])


def _hard_with(bare: Marked, masked: Marked, rng: np.random.Generator) -> Face:
    dark = rng.random() < 0.3
    painted = dark or not len(masked.crops) or rng.random() < 0.4
    people = bare if painted else masked
    index = int(rng.integers(len(people.crops)))
    face, marks = people.crops.images[index], people.landmarks[index]
    out = face
    if painted:
        style: Style = "dark" if dark else _style(rng)
        out = paint_mask(face, marks, wearing="correct", style=style, rng=rng)
    if dark:
        out = dark_clothes(out, face_frame(marks), rng)
    out = _dress(out, marks, rng, 0.6)
    return _as_found(out, face), float(people.crops.width[index])


def _dress(
    face: Image, landmarks: NDArray[np.float32], rng: np.random.Generator, likely: float
) -> Image:
    """With the chance `likely`: glasses, a hat or a hood; and half as often a turn of the head."""
    frame = face_frame(landmarks)
    if rng.random() < likely:
        face = AROUND[int(rng.integers(len(AROUND)))](face, frame, rng)
    if rng.random() < likely / 2:
        face = turned(face, frame, rng)
    return face


def _as_found(changed: Image, face: Image) -> Image:
    """As sharp as the face was found: what is drawn sharply on a blurred face gives itself away."""
    for pixels in (28, 40, 56, 80):
        if float(cv2.absdiff(face, _of_few_pixels(face, pixels)).mean()) < _UNSEEN:
            return _of_few_pixels(changed, pixels)
    return changed


def _of_few_pixels(image: Image, pixels: int) -> Image:
    few = cv2.resize(image, (pixels, pixels), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(few, (WIDE, WIDE), interpolation=cv2.INTER_LINEAR), np.uint8)


def _shows(painted: Image, bare: Image) -> bool:
    """Whether the mask is seen even where the augmentation moves its lower end out of sight."""
    rim = (WIDE - SIZE) // 2 + 8
    changed = cv2.absdiff(painted, bare).max(axis=2)[rim:-rim, rim:-rim] > 24
    return float(changed.mean()) > 0.06


def _style(rng: np.random.Generator) -> Style:
    return STYLES[int(rng.choice(len(STYLES), p=[_STYLES[style] for style in STYLES]))]


def _paint_one(
    bare: Marked, index: int, lenders: Marked, wearing: Wearing, rng: np.random.Generator
) -> Image:
    face, marks = bare.crops.images[index], bare.landmarks[index]
    if len(lenders.crops) and rng.random() < 0.5:
        lender = int(rng.integers(len(lenders.crops)))
        return lend_mask(
            face, marks, lenders.crops.images[lender], lenders.landmarks[lender], wearing, rng
        )
    return paint_mask(face, marks, wearing=wearing, style=_style(rng), rng=rng)


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
    ppu = sheet_scale(frame)
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
    cloth *= 1 + folds(across, share, rng)[..., None]
    sheet = np.dstack([cloth, coverage(outline, ppu)]).astype(np.float32)
    return blend_sheet(face, sheet, frame, rng=rng, opacity=1.0, relight=0.35)
