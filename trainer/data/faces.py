"""What a data set consists of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LabelledFace:
    """One face: `box` is (x0, y0, x1, y1) in pixels; None where the picture is the face's crop."""

    path: Path
    label: int
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken picture or annotation, which was skipped, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class DataSet:
    """The labelled faces of one folder.

    `splits` has the keys Train, Validation and Test as far as they are there, or the one key ""
    where the folder is not split. `classes` are those that the layout declares: what a set's
    folders or annotations do not name cannot be found missing. `without` are the pictures of each
    split that are annotated as scenes without a face.
    """

    root: Path
    layout: str
    splits: Mapping[str, tuple[LabelledFace, ...]]
    classes: tuple[int, ...]
    problems: tuple[Problem, ...]
    without: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
