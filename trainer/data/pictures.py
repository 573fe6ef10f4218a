"""Picture files to pixels."""

from pathlib import Path

import cv2
import numpy as np

from models.crop import Image
from trainer.data.classes import DataError

SUFFIXES = frozenset(
    f".{kind}"
    for kind in "avif bmp gif jfif jpe jpeg jpg jp2 pgm png pnm ppm tif tiff webp".split()  # noqa: SIM905
)


class BrokenPicture(DataError):
    """A picture that cannot be read; `reason` says why, without the place."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def is_picture(path: Path) -> bool:
    """Whether the name says so; the content may still be broken."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_picture(path: Path) -> Image:
    """H x W x 3, BGR, uint8, turned as its EXIF says. Raises BrokenPicture where it is broken."""
    return decode(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises BrokenPicture where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenPicture(path, f"cannot be read: {error.strerror}") from error


def decode(content: bytes, path: Path) -> Image:
    """As `read_picture`, from a content read already."""
    if not content:
        raise BrokenPicture(path, "not a picture: it is empty")
    try:
        # From memory: of a file that is cut short, cv2.imread gives grey pixels, not an error.
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # OpenCV takes at most 2^30 pixels.
        raise BrokenPicture(path, "too large to be read") from error
    if picture is None:
        raise BrokenPicture(path, "not a picture, or cut short")
    return np.asarray(picture, np.uint8)
