"""Where the network errs, shown on one portrait that anyone may see, with painted masks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut

from models import LABELS
from models.card import ModelCard
from models.crop import Image, crop_face
from models.mask_painter import STYLES, WEARINGS, paint_mask
from trainer.data import INCORRECT, WITH_MASK, WITHOUT_MASK
from trainer.evaluate import openvino_predictor, softmax

BOX = (182.0, 58.9, 269.6, 177.2)
LANDMARKS = np.array(
    [[203.3, 103.0], [247.1, 104.7], [223.9, 125.7], [204.3, 143.2], [242.0, 144.4]], np.float32
)
"""CenterFace's answer on scikit-image's astronaut (NASA, public domain)."""
TAKES = 3
SHOWN = 12
ALIKE = 3
COLUMNS = 6
TILE = 112
CAPTION = 44


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A picture (TILE x TILE x 3, BGR) with its true class and what was painted how."""

    crop: Image
    label: int
    wearing: str
    how: str


def failure_sheet(folder: Path, card: ModelCard, xml: Path) -> dict[str, str]:
    """Write NAME-errors.jpg with the surest wrong verdicts; its name and what it shows.

    Nothing is written, and nothing returned, where no verdict is wrong.
    """
    cases = list(painted_cases(card))
    crops = np.stack([cv2.resize(case.crop, (card.input_size,) * 2) for case in cases])
    probabilities = softmax(openvino_predictor(xml)(crops.astype(np.uint8)), card.temperature)
    answers = probabilities.argmax(axis=1)
    labels = np.array([case.label for case in cases])
    wrong = np.flatnonzero(answers != labels)
    if not len(wrong):
        return {}
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1))]
    tiles = [
        tile(cases[i], f"{LABELS[answers[i]]} {probabilities[i].max():.0%}")
        for i in varied(surest, cases)
    ]
    file = f"{card.name}-errors.jpg"
    cv2.imwrite(str(folder / file), sheet(tiles))
    caption = (
        f"Wrong on {len(wrong)} of {len(cases)} pictures painted on one portrait; the surest "
        "errors, with the verdict below what was painted."
    )
    return {file: caption}


def varied(order: NDArray[np.int64], cases: Sequence[Case]) -> list[int]:
    """The first of `order`, but no more than `ALIKE` of those that were worn alike."""
    taken: Counter[str] = Counter()
    found = []
    for index in order:
        taken[cases[index].wearing] += 1
        if taken[cases[index].wearing] <= ALIKE:
            found.append(int(index))
    return found[:SHOWN]


def painted_cases(card: ModelCard) -> Iterator[Case]:
    """Each way of wearing in each style, and the bare face, in several takes and conditions."""
    portrait = np.ascontiguousarray(astronaut()[:, :, ::-1])  # type: ignore[no-untyped-call]
    for take in range(TAKES):
        rng = np.random.default_rng(take)
        for how, crop in _in_conditions(portrait, card, rng):
            yield Case(crop, WITHOUT_MASK, "no mask", how)
        for wearing, style in product(WEARINGS, STYLES):
            label = WITH_MASK if wearing == "correct" else INCORRECT
            painted = paint_mask(portrait, LANDMARKS, wearing=wearing, style=style, rng=rng)
            for how, crop in _in_conditions(painted, card, rng):
                yield Case(crop, label, wearing, f"{style} {how}")


def _in_conditions(
    picture: Image, card: ModelCard, rng: np.random.Generator
) -> Iterator[tuple[str, Image]]:
    """The face as it is, in the dark, from afar, and tilted."""
    crop = crop_face(picture, BOX, card.crop_margin, TILE)
    yield "", crop
    noisy = 0.2 * crop + rng.normal(0, 4, crop.shape)
    yield "dark", np.clip(noisy, 0, 255).astype(np.uint8)
    small = cv2.resize(crop, (20, 20), interpolation=cv2.INTER_AREA)
    far = cv2.resize(small, (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    yield "20 px", np.asarray(far, np.uint8)
    middle = ((BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2)
    turn = cv2.getRotationMatrix2D(middle, float(rng.choice((-35, 35))), 1.0)
    turned = cv2.warpAffine(picture, turn, picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    yield "tilted", crop_face(np.asarray(turned, np.uint8), BOX, card.crop_margin, TILE)


def tile(case: Case, verdict: str) -> Image:
    """The picture over what was painted (black) and the verdict (red)."""
    found = np.full((TILE + CAPTION, TILE, 3), 255, np.uint8)
    found[:TILE] = case.crop
    words = [case.wearing.replace("_", " "), case.how, verdict]
    for row, text in enumerate(words):
        colour = (0, 0, 200) if row == len(words) - 1 else (0, 0, 0)
        place = (2, TILE + 12 + 13 * row)
        cv2.putText(found, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.34, colour, 1, cv2.LINE_AA)
    return found


def sheet(tiles: list[Image]) -> Image:
    """The tiles in rows, with white room between them."""
    blank = np.full_like(tiles[0], 255)
    filled = tiles + [blank] * (-len(tiles) % COLUMNS)
    framed = [
        cv2.copyMakeBorder(t, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255,) * 3) for t in filled
    ]
    rows = [np.hstack(framed[i : i + COLUMNS]) for i in range(0, len(framed), COLUMNS)]
    return np.asarray(np.vstack(rows), np.uint8)
