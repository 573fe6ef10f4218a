"""What every `FaceDetector` keeps, whichever network is behind it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from stream_server.classify.cuda import lane, replica_devices
from stream_server.detect.centerface import CenterFaceDetector
from stream_server.detect.torch_cuda import TorchCenterFaceDetector
from stream_server.detect.yunet import YuNetDetector
from stream_server.frames import FaceBox, Picture, Pixels
from stream_server.ports import FaceDetector
from tests.fakes.yunet_network import write_yunet_network

Corners = tuple[float, float, float, float]
# Measured by eye on scikit-image's picture: hairline to chin, ear to cheek.
ASTRONAUT_FACE: Corners = (178, 60, 272, 177)


@dataclass(frozen=True)
class Case:
    """A detector, and a 512x512 BGR picture with the one thing it must find in it.

    Where pictures share a run, a box may differ by `rounding` px with the company it had.
    """

    build: Callable[[], FaceDetector]
    scene: Pixels
    box: Corners
    rounding: float = 0.0


def _bright_scene() -> Pixels:
    scene = np.full((512, 512, 3), 16, np.uint8)
    left, top, right, bottom = (int(v) for v in ASTRONAUT_FACE)
    scene[top:bottom, left:right] = 240
    return scene


def _by_torch(device: str) -> FaceDetector:
    """As the service builds it; two lanes on the CPU, which has one."""
    devices = replica_devices(device) if device != "cpu" else ("cpu", "cpu")
    return TorchCenterFaceDetector([lane(name) for name in devices])


TORCH_DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=["centerface", "yunet", *TORCH_DEVICES])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "yunet":
        path = write_yunet_network(tmp_path / "yunet.onnx")
        return Case(lambda: YuNetDetector(path), _bright_scene(), ASTRONAUT_FACE)
    scene = np.ascontiguousarray(astronaut()[:, :, ::-1])
    if request.param == "centerface":
        return Case(CenterFaceDetector, scene, ASTRONAUT_FACE)
    return Case(lambda: _by_torch(request.param), scene, ASTRONAUT_FACE, rounding=0.5)


@pytest.fixture
def detector(case: Case) -> FaceDetector:
    return case.build()


def _placed(
    scene: Pixels, box: Corners, width: int, height: int, scale: float, left: int, top: int
) -> tuple[Picture, Corners]:
    """The scene scaled and pasted into a dark picture of the given size, and where the box is."""
    canvas = np.full((height, width, 3), 16, np.uint8)
    small = cv2.resize(scene, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    shown = small[: height - top, : width - left]
    canvas[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    x0, y0, x1, y1 = (v * scale for v in box)
    return Picture.from_bgr(canvas), (x0 + left, y0 + top, x1 + left, y1 + top)


def _iou(box: FaceBox, other: Corners) -> float:
    width = min(box.x1, other[2]) - max(box.x0, other[0])
    height = min(box.y1, other[3]) - max(box.y0, other[1])
    shared = max(width, 0) * max(height, 0)
    areas = (box.x1 - box.x0) * (box.y1 - box.y0) + (other[2] - other[0]) * (other[3] - other[1])
    return shared / (areas - shared)


PLACES = {
    "as it is": (512, 512, 1.0, 0, 0),
    "640x480": (640, 480, 0.9, 100, 10),
    "720p": (1280, 720, 1.3, 500, 20),
    "1080p": (1920, 1080, 1.5, 900, 200),
    "portrait": (720, 1280, 1.2, 60, 500),
    "small": (320, 240, 0.45, 60, 5),
    "very wide": (1920, 200, 1.0, 1200, 0),
    "odd divisors": (1366, 768, 1.2, 300, 50),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_finds_the_one_thing_where_it_is(
    case: Case, detector: FaceDetector, place: tuple[int, int, float, int, int]
) -> None:
    picture, expected = _placed(case.scene, case.box, *place)
    faces = detector.detect(picture)
    assert len(faces) == 1
    assert _iou(faces[0], expected) > 0.5
    assert 0.4 <= faces[0].score <= 1
    assert len(faces[0].landmarks) == 5
    x0, y0, x1, y1 = expected
    assert all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in faces[0].landmarks)


def test_boxes_stay_inside_the_picture(case: Case, detector: FaceDetector) -> None:
    for cut in (200, 215):
        picture = Picture.from_bgr(np.ascontiguousarray(case.scene[100:, cut:]))
        faces = detector.detect(picture)
        assert faces
        for face in faces:
            assert 0 <= face.x0 < face.x1 <= picture.width
            assert 0 <= face.y0 < face.y1 <= picture.height


@pytest.mark.parametrize("size", [(512, 512), (1280, 720), (64, 64), (16, 16), (2, 2), (4000, 2)])
def test_nothing_in_a_blank_picture(detector: FaceDetector, size: tuple[int, int]) -> None:
    width, height = size
    for level in (0, 100):
        blank = np.full((height, width, 3), level, np.uint8)
        assert detector.detect(Picture.from_bgr(blank)) == []


def test_best_score_first_and_picture_untouched(case: Case, detector: FaceDetector) -> None:
    picture, _ = _placed(case.scene, case.box, 1280, 720, 1.0, 0, 0)
    before = picture.i420.copy()
    picture.i420.setflags(write=False)
    scores = [face.score for face in detector.detect(picture)]
    assert scores == sorted(scores, reverse=True)
    assert np.array_equal(picture.i420, before)


def test_four_threads_get_what_one_gets(case: Case, detector: FaceDetector) -> None:
    pictures = [_placed(case.scene, case.box, *place)[0] for place in list(PLACES.values())[:4]] * 2
    alone = [detector.detect(picture) for picture in pictures]
    fresh = case.build()
    together = threading.Barrier(4)

    def run(index: int) -> list[list[FaceBox]]:
        together.wait(10)
        return [fresh.detect(picture) for picture in pictures[index:] + pictures[:index]]

    with ThreadPoolExecutor(4) as pool:
        for index, found in enumerate(pool.map(run, range(4))):
            expected = alone[index:] + alone[:index]
            for faces, wanted in zip(found, expected, strict=True):
                assert _corners(faces) == pytest.approx(_corners(wanted), abs=case.rounding)


def _corners(faces: list[FaceBox]) -> np.ndarray:
    return np.array([(face.x0, face.y0, face.x1, face.y1) for face in faces])
