"""The faces of a data set, judged as the service would: its crops, its runtime, in batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models import LABELS
from models.card import ModelCard
from models.crop import Image, crop_face
from models.errors import InputError
from stream_server.frames import FaceBox
from stream_server.ports import FaceClassifier
from trainer.data import DataSet, LabelledFace, Problem, label_of
from trainer.data.classes import is_class
from trainer.data.crops import clip, face_width
from trainer.data.layouts import SPLITS
from trainer.data.pictures import BrokenPicture, read_picture

ALL = "all"
BATCH = 32
READ_AHEAD = 8
Box = tuple[float, float, float, float]
Faces = tuple[LabelledFace, ...]
Done = Callable[[int], object]
"""Is told how many more pictures are through."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which faces of a data set are asked about: those of `classes`, `min_size` px and wider.

    `faces` are all of the split, since a detector finds the others too, and `without` its pictures
    without a face, where it may find one all the same.
    """

    data: DataSet
    split: str
    faces: Faces
    classes: tuple[int, ...]
    min_size: float
    without: tuple[Path, ...] = ()

    def has(self, label: int, width: float) -> bool:
        """Whether a face of this class and width (px) is asked about."""
        return label in self.classes and width >= self.min_size


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The faces asked about with the model's probabilities (N x labels), and what is broken."""

    faces: Faces
    probabilities: NDArray[np.float32]
    broken: tuple[Problem, ...]

    @property
    def labels(self) -> NDArray[np.int64]:
        """True labels, N."""
        return np.array([face.label for face in self.faces], np.int64)


def ask(data: DataSet, split: str | None, exclude: Iterable[str], min_size: float) -> Question:
    """The question about the named split, else about Test, else Validation, else all there is.

    `exclude` are names of classes. Raises InputError when there is no such split, or when fewer
    than two classes are left.
    """
    name = _split(data, split)
    classes = tuple(sorted(set(data.classes) - {_excluded(each) for each in exclude}))
    if len(classes) < 2:
        left = ", ".join(LABELS[label] for label in classes) or "none"
        raise InputError(
            f"{data.root}: it takes two classes to tell one from another, here is {left}; "
            "exclude fewer, or add faces of another class"
        )
    without = data.without.get(name, ())
    return Question(data, name or ALL, data.splits[name], classes, min_size, without)


def _excluded(name: str) -> int:
    if not is_class(name):
        raise InputError(f"--exclude {name}: no such class; there are {', '.join(LABELS)}")
    return label_of(name)


def _split(data: DataSet, wanted: str | None) -> str:
    """The key of the split to look at."""
    if wanted is None:
        return next(name for name in ("Test", "Validation", *data.splits) if name in data.splits)
    name = SPLITS.get(wanted.lower(), wanted)
    if name not in data.splits:
        known = ", ".join(filter(None, data.splits))
        mend = f"choose one of {known}" if known else "it is not split, leave --split away"
        raise InputError(f"--split {wanted}: {data.root} has no such part; {mend}")
    return name


def nothing_asked(question: Question, broken: Sequence[Problem]) -> InputError:
    """What to say when no face is left to be asked about."""
    place = f"{question.data.root} ({question.split})"
    if broken:
        count = len(broken)
        return InputError(f"no face to judge in {place}: {count} broken, the first is {broken[0]}")
    wanted = ", ".join(LABELS[label] for label in question.classes)
    return InputError(
        f"no face of {wanted} in {place} is {question.min_size:g} px wide: lower --min-size"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is to be judged in one picture.

    `faces` are the labelled ones, their boxes clipped to the picture, and `found` the detector's,
    if there is one. `crops` (N x size x size x 3, uint8, BGR) belong to `found` then, else to
    `faces`.
    """

    faces: Faces
    crops: Image
    found: tuple[FaceBox, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One picture's faces with the model's probabilities: N x labels, a row for each crop."""

    faces: Faces
    found: tuple[FaceBox, ...]
    probabilities: NDArray[np.float32]


Shots = Mapping[Path, Faces]
"""Pictures with their labelled faces."""
Look = Callable[[Path, Faces], Seen]
"""From a picture and its labelled faces to what is seen there; BrokenPicture if it is."""


def by_picture(faces: Iterable[LabelledFace], without: Iterable[Path] = ()) -> Shots:
    """The faces of each picture together; the pictures `without` one have none."""
    groups: dict[Path, list[LabelledFace]] = {}
    for face in faces:
        groups.setdefault(face.path, []).append(face)
    return {path: tuple(group) for path, group in groups.items()} | dict.fromkeys(without, ())


def by_labels(
    question: Question, card: ModelCard, classifier: FaceClassifier, done: Done
) -> Answer:
    """The faces asked about, judged where their labels say that they are.

    Raises InputError when there are none.
    """
    faces = tuple(face for face in question.faces if face.label in question.classes)
    judged, problems = judge(by_picture(faces), look_at_labels(card, question), classifier, done)
    broken = (*question.data.problems, *problems)
    kept = tuple(face for each in judged for face in each.faces)
    if not kept:
        raise nothing_asked(question, problems)
    return Answer(kept, np.concatenate([each.probabilities for each in judged]), broken)


def look_at_labels(card: ModelCard, question: Question) -> Look:
    """Looks where the labels say that faces are, at those asked about."""

    def look(path: Path, faces: Faces) -> Seen:
        picture = read_picture(path)
        inside, problems = within(picture, faces)
        asked = tuple(
            face for face in inside if question.has(face.label, face_width(picture, face.box))
        )
        crops = [cut(picture, face.box, card, card.input_size) for face in asked]
        return Seen(asked, stacked(crops, card.input_size), problems=problems)

    return look


def within(picture: Image, faces: Faces) -> tuple[Faces, tuple[Problem, ...]]:
    """The faces with their boxes clipped to the picture, and a Problem for each one outside."""
    clipped = [(face, face.box and clip(face.box, picture)) for face in faces]
    inside = tuple(replace(face, box=box) for face, box in clipped if face_width(picture, box) > 0)
    problems = tuple(
        Problem(face.path, f"its box {face.box} has nothing of the picture in it")
        for face, box in clipped
        if face_width(picture, box) <= 0
    )
    return inside, problems


def cut(picture: Image, box: Box | None, card: ModelCard, size: int) -> Image:
    """The crop of a face as the service cuts it (margin of the card), size x size x 3.

    A picture that is one face already is only scaled.
    """
    if box is not None:
        return crop_face(picture, box, card.crop_margin, size)
    way = cv2.INTER_AREA if picture.shape[1] > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (size, size), interpolation=way), np.uint8)


def stacked(crops: Sequence[Image], size: int) -> Image:
    """N crops as N x size x size x 3, also when there are none."""
    return np.stack(crops) if crops else np.empty((0, size, size, 3), np.uint8)


def judge(
    pictures: Shots,
    look: Look,
    classifier: FaceClassifier,
    done: Done,
) -> tuple[list[Judged], tuple[Problem, ...]]:
    """The judged faces of each picture, in the order of `pictures`, and what is broken.

    `look` runs in a thread of its own, some pictures ahead of the classifier, which gets the faces
    of several pictures at once. `done` is called with the number of pictures that are through.
    """
    judged: list[Judged] = []
    problems: list[Problem] = []

    def tolerant(path: Path, faces: Faces) -> Seen:
        try:
            return look(path, faces)
        except BrokenPicture as error:
            broken = Problem(path, error.reason)
            return Seen((), stacked([], classifier.input_size), problems=(broken,))

    with ThreadPoolExecutor(1, thread_name_prefix="look") as pool:
        for several in _batches(_ahead(pool, tolerant, pictures)):
            crops = np.concatenate([seen.crops for seen in several])
            rows = classifier.classify(crops)
            ends = np.cumsum([len(seen.crops) for seen in several])[:-1]
            for seen, part in zip(several, np.split(rows, ends), strict=True):
                judged.append(Judged(seen.faces, seen.found, part))
                problems += seen.problems
            done(len(several))
    return judged, tuple(problems)


def _batches(pictures: Iterable[Seen]) -> Iterator[list[Seen]]:
    """Pictures that have at least `BATCH` faces between them."""
    several: list[Seen] = []
    for seen in pictures:
        several.append(seen)
        if sum(len(each.crops) for each in several) >= BATCH:
            yield several
            several = []
    if several:
        yield several


def _ahead(pool: ThreadPoolExecutor, look: Look, pictures: Shots) -> Iterator[Seen]:
    """What is seen, in order, with at most `READ_AHEAD` more pictures under way or waiting."""
    waiting: deque[Future[Seen]] = deque()
    try:
        for path, faces in pictures.items():
            waiting.append(pool.submit(look, path, faces))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
