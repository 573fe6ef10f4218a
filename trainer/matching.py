"""Labelled faces and the service's face detector: which has found which, and where."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from stream_server.frames import FaceBox, Picture
from stream_server.ports import FaceDetector
from trainer.data import DataError, LabelledFace
from trainer.data.pictures import read_picture
from trainer.judge import Box, by_picture, within

IOU = 0.4
NOBODY = -1
Indices = NDArray[np.int64]


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


def as_detected(faces: Sequence[LabelledFace], detector: FaceDetector) -> Iterator[LabelledFace]:
    """The faces of scenes that the detector finds, with its boxes in place of the labels'.

    Broken pictures have none: who reads the labelled faces names them.
    """
    for group in by_picture(faces):
        try:
            bgr = read_picture(group[0].path)
        except DataError:
            continue
        inside, _ = within(bgr, group)
        found = detector.detect(Picture.from_bgr(bgr))
        for index, box in zip(match([box_of(face) for face in inside], found), found, strict=True):
            if index != NOBODY:
                yield replace(inside[index], box=(box.x0, box.y0, box.x1, box.y1))


def box_of(face: LabelledFace) -> Box:
    """The box of a face in a scene. Raises ValueError when the picture is the face's crop."""
    if face.box is None:
        raise ValueError(f"{face.path} has no boxes")
    return face.box
