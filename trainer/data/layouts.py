"""Data sets as they come: class folders, with or without splits, and Pascal VOC annotations."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from models import LABELS
from trainer.data.classes import WITH_MASK, WITHOUT_MASK, DataError, is_class, label_of
from trainer.data.faces import DataSet, LabelledFace, Problem
from trainer.data.pictures import is_picture, read_picture

LAYOUTS = ("12k", "folders", "voc")
KNOWN = (
    "class folders (with_mask/, without_mask/, ...), the same below train/, validation/ and test/,"
    " or Pascal VOC (images/ and annotations/)"
)
SPLITS = {
    **dict.fromkeys(("train", "training"), "Train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "Validation"),
    **dict.fromkeys(("test", "testing"), "Test"),
}
_ANNOTATIONS = ("annotations", "annotation", "labels")
_PICTURES = ("images", "jpegimages", "image", "pictures")


def read_dataset(root: Path, layout: str = "auto") -> DataSet:
    """All labelled faces below `root`; what is broken is among its `problems`.

    `layout` is auto, 12k, folders or voc. Pictures are looked at only as far as it takes to find
    a readable one of each class. Raises DataError where `root` is missing, empty, of no known
    layout, names an unknown class, or has a class without a single readable picture.
    """
    root = _unwrap(root)
    kind = _detect(root) if layout == "auto" else layout
    parts = _splits(root) or {"": [root]}
    if kind == "voc":
        found = _read_voc(root, parts)
    elif kind in ("12k", "folders"):
        found = _read_folders(root, parts, kind)
    else:
        raise DataError(f"unknown layout {layout!r}: give auto or one of {', '.join(LAYOUTS)}")
    _check_classes(found)
    return found


def _folders(folder: Path) -> list[Path]:
    """What archives and desktops leave behind is not part of a data set."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    )


def _unwrap(root: Path) -> Path:
    """`root`, or the data set in it where an archive wrapped it in a folder of its own."""
    if not root.is_dir():
        raise DataError(f"no folder {root}: give the folder of a data set")
    inside = _folders(root)
    while len(inside) == 1 and not _means_something(inside[0]) and not _files(root):
        root = inside[0]
        inside = _folders(root)
    return root


def _means_something(folder: Path) -> bool:
    """Whether a lone folder is a part of the data set rather than what wraps it."""
    if folder.name.lower() in (*SPLITS, *_PICTURES, *_ANNOTATIONS):
        return True
    # An archive may well be called "Face Mask"; that is no class where the classes stand in it.
    return is_class(folder.name) and not any(map(_means_something, _folders(folder)))


def _files(folder: Path) -> bool:
    return _has_picture(folder) or _annotated(folder)


def _annotated(folder: Path) -> bool:
    return any(map(_is_annotation, folder.iterdir()))


def _is_annotation(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and not path.name.startswith(".")


def _below(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The files below `folder` that are `wanted`, less those in hidden folders."""
    return sorted(
        path
        for path in folder.rglob("*")
        if wanted(path) and not any(n.startswith(".") for n in path.relative_to(folder).parts)
    )


def _splits(root: Path) -> dict[str, list[Path]]:
    """The folders of each split, none where `root` is not split."""
    parts: dict[str, list[Path]] = {}
    for folder in _folders(root):
        if folder.name.lower() in SPLITS:
            parts.setdefault(SPLITS[folder.name.lower()], []).append(folder)
    return {split: parts[split] for split in ("Train", "Validation", "Test") if split in parts}


def _detect(root: Path) -> str:
    splits = _splits(root)
    parts = [folder for folders in splits.values() for folder in folders] or [root]
    if any(_named(part, _ANNOTATIONS) or _annotated(part) for part in parts):
        return "voc"
    if _is_12k(root):
        return "12k"
    if any(is_class(folder.name) for part in parts for folder in _folders(part)):
        return "folders"
    inside = [folder.name for part in parts for folder in _folders(part)]
    if any(_has_picture(folder) for part in parts for folder in _folders(part)):
        label_of(inside[0])  # raises: class folders, as it seems, of names that are not known
    raise DataError(f"{root} is not a data set of a known layout: {KNOWN}")


def _has_picture(folder: Path) -> bool:
    return any(is_picture(path) for path in folder.iterdir())


def _named(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((path for path in _folders(folder) if path.name.lower() in names), None)


# --- class folders --------------------------------------------------------------------------------


def _is_12k(root: Path) -> bool:
    """Whether it is Face Mask 12K, or some of its three parts."""
    names = {folder.name for folder in _folders(root)}
    return (
        bool(names)
        and names <= {"Train", "Validation", "Test"}
        and all(
            {folder.name for folder in _folders(root / name)} == {"WithMask", "WithoutMask"}
            for name in names
        )
    )


def _read_folders(root: Path, parts: Mapping[str, list[Path]], kind: str) -> DataSet:
    if kind == "12k" and not _is_12k(root):
        raise DataError(
            f"{root} is not laid out as Face Mask 12K: Train, Validation and Test, or some of"
            " them, with WithMask and WithoutMask each; give --layout folders for other folders"
        )
    splits = {
        split: tuple(face for folder in folders for face in _class_folders(folder))
        for split, folders in parts.items()
    }
    labels = {face.label for faces in splits.values() for face in faces}
    classes = (WITH_MASK, WITHOUT_MASK) if kind == "12k" else tuple(sorted(labels))
    return DataSet(root, kind, splits, classes, ())


def _class_folders(folder: Path) -> Iterator[LabelledFace]:
    classes = _folders(folder)
    if not classes:
        raise DataError(f"no pictures in {folder}: it has to hold a folder for each class")
    for directory in classes:
        try:
            label = label_of(directory.name)
        except DataError as error:
            raise DataError(f"{directory}: {error}") from error
        pictures = _below(directory, is_picture)
        if not pictures:
            raise DataError(f"class without a picture: {directory} has no pictures in it")
        for path in pictures:
            yield LabelledFace(path, label, None)


# --- Pascal VOC -----------------------------------------------------------------------------------


def _read_voc(root: Path, parts: Mapping[str, list[Path]]) -> DataSet:
    problems: list[Problem] = []
    without: dict[str, list[Path]] = {split: [] for split in parts}
    splits = {
        split: tuple(
            face for folder in folders for face in _scene_folder(folder, problems, without[split])
        )
        for split, folders in parts.items()
    }
    for split, faces in splits.items():
        if not faces:
            first = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
            raise DataError(f"no annotated scenes in {parts[split][0]}{first}")
    labels = {face.label for faces in splits.values() for face in faces}
    empty = {split: tuple(pictures) for split, pictures in without.items()}
    return DataSet(root, "voc", splits, tuple(sorted(labels)), tuple(problems), empty)


def _scene_folder(
    folder: Path, problems: list[Problem], without: list[Path]
) -> Iterator[LabelledFace]:
    """The faces of one folder's annotated pictures.

    What is broken is added to `problems`, a picture that is annotated as without a face to
    `without`.
    """
    annotations = _named(folder, _ANNOTATIONS) or folder
    picture_folder = _named(folder, _PICTURES) or folder
    pictures = {
        path.relative_to(picture_folder).with_suffix(""): path
        for path in _below(picture_folder, is_picture)
    }
    for xml in _below(annotations, _is_annotation):
        picture = pictures.pop(xml.relative_to(annotations).with_suffix(""), None)
        if picture is None:
            problems.append(Problem(xml, f"it has no picture in {picture_folder}"))
            continue
        try:
            boxes = read_boxes(xml)
        except (ET.ParseError, ValueError) as error:
            problems.append(Problem(xml, f"it is not a Pascal VOC annotation: {error}"))
            continue
        if not boxes:
            without.append(picture)
        for label, box in boxes:
            if box[2] > box[0] and box[3] > box[1]:
                yield LabelledFace(picture, label, box)
            else:
                problems.append(Problem(xml, f"the box {box} is empty"))
    problems += [Problem(path, "it has no annotation") for path in pictures.values()]


def read_boxes(xml: Path) -> list[tuple[int, tuple[float, float, float, float]]]:
    """(label, box) of each object of a Pascal VOC annotation.

    Raises ET.ParseError or ValueError on one that is broken, DataError on an unknown class.
    """
    boxes = []
    for item in ET.parse(xml).getroot().iter("object"):
        x0, y0, x1, y1 = (
            _number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
        )
        try:
            label = label_of(item.findtext("name", "").strip())
        except DataError as error:
            raise DataError(f"{xml}: {error}") from error
        boxes.append((label, (x0, y0, x1, y1)))
    return boxes


def _number(item: ET.Element, where: str) -> float:
    text = item.findtext(where)
    if text is None:
        raise ValueError(f"an object has no {where}")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{where} is {text}")
    return number


# --- both -----------------------------------------------------------------------------------------


def _check_classes(found: DataSet) -> None:
    """Each class of each split has a picture that can be read, or DataError."""
    for faces in found.splits.values():
        for label in sorted({face.label for face in faces}):
            pictures = dict.fromkeys(face.path for face in faces if face.label == label)
            if not any(_readable(path) for path in pictures):
                raise DataError(
                    f"class {LABELS[label]} has no readable picture:"
                    f" all {len(pictures)} are broken, {next(iter(pictures))} is the first"
                )


def _readable(path: Path) -> bool:
    try:
        read_picture(path)
    except DataError:
        return False
    return True
