"""The service's face detector against labelled faces, and the whole way from picture to verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_f1_score
from torchvision.ops import box_iou

from models.card import ModelCard
from models.errors import InputError
from stream_server.classify.crops import crops
from stream_server.frames import FaceBox, Picture
from stream_server.ports import FaceClassifier, FaceDetector
from trainer.data import LabelledFace
from trainer.data.pictures import read_picture
from trainer.evaluate import among
from trainer.judge import (
    Answer,
    Box,
    Done,
    Faces,
    Judged,
    Look,
    Question,
    Seen,
    by_picture,
    judge,
    nothing_asked,
    stacked,
    within,
)

IOU = 0.4
SIZES = (16, 24, 40)
NOBODY = -1
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One picture: its labelled faces, its detections, and which has found which.

    `probabilities` (D x labels) and `face_of` (D indices into `faces`, or NOBODY) have a row for
    each detection in `found`.
    """

    faces: Faces
    found: tuple[FaceBox, ...]
    probabilities: NDArray[np.float32]
    face_of: Indices

    @property
    def widths(self) -> NDArray[np.float64]:
        """Widths of the detections in pixels."""
        return np.array([box.x1 - box.x0 for box in self.found], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Detected(Answer):
    """The faces asked about that were found, with the detector's boxes; `scenes` has all."""

    scenes: tuple[Scene, ...]


def by_detector(
    question: Question,
    card: ModelCard,
    classifier: FaceClassifier,
    detector: FaceDetector,
    done: Done,
) -> Detected:
    """The faces asked about, judged where the detector finds them, as the service would.

    Raises InputError when the pictures are no scenes with boxes, or no face is asked about.
    """
    if any(face.box is None for face in question.faces):
        raise InputError(
            f"{question.data.root}: --faces detect needs scenes with boxes (layout voc), these "
            "pictures are faces cut out already; leave --faces away"
        )
    look = look_by_detector(detector, card)
    pictures = by_picture(question.faces, question.without)
    judged, problems = judge(pictures, look, classifier, done)
    scenes = tuple(scene(each) for each in judged)
    if not any(_asked(face, question) for each in scenes for face in each.faces):
        raise nothing_asked(question, problems)
    broken = (*question.data.problems, *problems)
    return Detected(*found_faces(scenes, question, len(card.labels)), broken, scenes)


def look_by_detector(detector: FaceDetector, card: ModelCard) -> Look:
    """Looks where the detector finds faces, and cuts them out as the service does."""

    def look(path: Path, faces: Faces) -> Seen:
        bgr = read_picture(path)
        inside, problems = within(bgr, faces)
        picture = Picture.from_bgr(bgr)
        found = tuple(detector.detect(picture))
        cut = crops(picture, found, card.crop_margin, card.input_size)
        return Seen(inside, stacked(cut, card.input_size), found, problems)

    return look


def match(faces: Sequence[Box], found: Sequence[FaceBox]) -> Indices:
    """Which of `faces` (boxes in pixels) each detection has found, or NOBODY: D indices.

    The best score chooses first; each takes the free face that it overlaps most, by at least
    `IOU`.
    """
    face_of = np.full(len(found), NOBODY, np.int64)
    if not faces or not found:
        return face_of
    corners = [(box.x0, box.y0, box.x1, box.y1) for box in found]
    overlaps = box_iou(
        torch.tensor(corners, dtype=torch.float64), torch.tensor(faces, dtype=torch.float64)
    ).numpy()
    for index in np.argsort([-box.score for box in found], kind="stable"):
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= IOU:
            face_of[index] = best
            overlaps[:, best] = 0
    return face_of


def scene(judged: Judged) -> Scene:
    """The detections of one picture matched to its labelled faces."""
    face_of = match([_box(face) for face in judged.faces], judged.found)
    return Scene(judged.faces, judged.found, judged.probabilities, face_of)


def detection_figures(scenes: Sequence[Scene], question: Question) -> dict[str, float | None]:
    """Recall of faces of at least 16, 24 and 40 px, and precision; None where not defined.

    Recall is over the labelled faces of the asked classes, whatever `question.min_size` is.
    Precision is the share of detections that found any labelled face, among those at least
    `question.min_size` wide: smaller ones are nobody's question.
    """
    figures: dict[str, float | None] = {}
    for size in SIZES:
        sized = replace(question, min_size=size)
        hits = [
            index in each.face_of
            for each in scenes
            for index, face in enumerate(each.faces)
            if _asked(face, sized)
        ]
        figures[f"recall_{size}"] = float(np.mean(hits)) if hits else None
    hits = [
        bool(face != NOBODY)
        for each in scenes
        for face, width in zip(each.face_of, each.widths, strict=True)
        if width >= question.min_size
    ]
    figures["precision"] = float(np.mean(hits)) if hits else None
    return figures


def end_to_end_macro_f1(scenes: Sequence[Scene], question: Question) -> float | None:
    """Macro F1 of the whole way, over the classes that are there; None if there are none.

    An asked face that is not found is missed by its class. A detection that found no labelled face
    (and is `min_size` wide) is a false alarm of the class it was given. Labelled faces that are
    not asked about, and detections of them, are left out.
    """
    # "No face" is one more class, in the truth of false alarms and in the answer to missed faces.
    no_face = len(question.classes)
    pairs = [pair for each in scenes for pair in _outcomes(each, question, no_face)]
    truth, answers = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    present = [index for index in range(no_face) if (truth == index).any()]
    if not present:
        return None
    f1 = multiclass_f1_score(answers, truth, no_face + 1, average="none")
    return float(f1[present].mean())


def _outcomes(each: Scene, question: Question, no_face: int) -> list[tuple[int, int]]:
    """(true, answered) places in the classes, for each face and false alarm of one picture."""
    place = {label: index for index, label in enumerate(question.classes)}
    answers = among(each.probabilities, question.classes).argmax(axis=1)
    pairs = []
    for face, answer, width in zip(each.face_of, answers, each.widths, strict=True):
        if face == NOBODY and width >= question.min_size:
            pairs.append((no_face, int(answer)))
        elif face != NOBODY and _asked(each.faces[face], question):
            pairs.append((place[each.faces[face].label], int(answer)))
    missed = [
        (place[face.label], no_face)
        for index, face in enumerate(each.faces)
        if _asked(face, question) and index not in each.face_of
    ]
    return pairs + missed


def found_faces(
    scenes: Sequence[Scene], question: Question, labels: int
) -> tuple[Faces, NDArray[np.float32]]:
    """The asked faces that were found, with the detector's boxes, and their N x labels rows."""
    faces: list[LabelledFace] = []
    rows: list[NDArray[np.float32]] = []
    for each in scenes:
        for index, box, row in zip(each.face_of, each.found, each.probabilities, strict=True):
            if index != NOBODY and _asked(each.faces[index], question):
                faces.append(replace(each.faces[index], box=(box.x0, box.y0, box.x1, box.y1)))
                rows.append(row)
    return tuple(faces), np.array(rows, np.float32).reshape(-1, labels)


def _asked(face: LabelledFace, question: Question) -> bool:
    x0, _, x1, _ = _box(face)
    return question.has(face.label, x1 - x0)


def _box(face: LabelledFace) -> Box:
    """The box of a face in a scene. Raises ValueError when the picture is the face's crop."""
    if face.box is None:
        raise ValueError(f"{face.path} has no boxes")
    return face.box
