import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.detect.geometry import MAX_FACES, face_boxes, input_size, shrink
from stream_server.frames import Picture

LENGTHS = st.integers(2, 8192)


@pytest.mark.parametrize(
    ("frame", "seen"),
    [
        ((1280, 720), (640, 352)),
        ((1920, 1080), (640, 352)),
        ((3840, 2160), (640, 352)),
        ((640, 480), (416, 320)),
        ((480, 640), (320, 416)),
        ((320, 240), (320, 224)),
        ((960, 540), (480, 256)),
        ((388, 218), (384, 192)),
        ((16, 16), (32, 32)),
        ((4000, 64), (640, 32)),
    ],
)
def test_size_for_common_frames(frame: tuple[int, int], seen: tuple[int, int]) -> None:
    assert input_size(*frame) == seen


@given(LENGTHS, LENGTHS, st.none() | st.integers(32, 4096))
def test_size_is_a_multiple_of_32_within_frame_and_limit(
    width: int, height: int, long_side: int | None
) -> None:
    seen = input_size(width, height, long_side)
    for side, own in zip(seen, (width, height), strict=True):
        assert side % 32 == 0
        assert 32 <= side <= max(32, own)
        assert side <= (long_side or 640) + 16


@given(st.integers(320, 4096), st.integers(320, 4096))
def test_size_keeps_the_aspect_within_rounding(width: int, height: int) -> None:
    across, down = input_size(width, height)
    stretch = (across / width) / (down / height)
    # Half a step of 32 px on the shorter side, a whole one where the frame itself is that small.
    worst = 32 / min(across, down)
    assert 1 / (1 + worst) - 0.05 <= stretch <= 1 + worst + 0.05


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (1366, 768), (640, 480), (1280, 64)])
def test_shrink_looks_like_plain_scaling(size: tuple[int, int]) -> None:
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)[None]
    ramp[..., 2] = np.linspace(0, 255, height)[:, None]
    picture = Picture.from_bgr(ramp)
    seen = input_size(width, height)
    small = shrink(picture, *seen)
    assert small.shape == (seen[1], seen[0], 3)
    plain = picture.scaled_bgr(*seen)
    assert np.abs(small.astype(int) - plain).mean() < 2


def _picture(width: int, height: int) -> Picture:
    return Picture(np.zeros((height * 3 // 2, width), np.uint8))


def test_boxes_come_back_in_pixels_of_the_picture() -> None:
    boxes = np.float32([[10, 20, 30, 40]])
    points = np.float32([[[11, 21], [12, 22], [13, 23], [14, 24], [15, 25]]])
    (face,) = face_boxes(boxes, np.float32([0.5]), points, _picture(200, 400), (100, 100))
    assert (face.x0, face.y0, face.x1, face.y1) == (20, 80, 60, 160)
    assert face.score == 0.5
    assert face.landmarks == ((22, 84), (24, 88), (26, 92), (28, 96), (30, 100))


def test_boxes_are_clipped_and_the_unusable_left_out() -> None:
    boxes = np.float32(
        [
            [-20, -5, 50, 50],
            [90, 90, 130, 130],
            [120, 10, 140, 20],
            [5, 5, 5.5, 50],
            [np.nan, 0, 9, 9],
            [0, 0, np.inf, 9],
        ]
    )
    found = face_boxes(
        boxes,
        np.ones(6, np.float32),
        np.zeros((6, 5, 2), np.float32),
        _picture(100, 100),
        (100,) * 2,
    )
    assert [(f.x0, f.y0, f.x1, f.y1) for f in found] == [(0, 0, 50, 50), (90, 90, 100, 100)]


def test_faces_are_capped_at_the_best() -> None:
    count = MAX_FACES + 20
    boxes = np.tile(np.float32([[1, 1, 9, 9]]), (count, 1))
    scores = np.linspace(1, 0.5, count, dtype=np.float32)
    found = face_boxes(
        boxes, scores, np.zeros((count, 5, 2), np.float32), _picture(10, 10), (10, 10)
    )
    assert [f.score for f in found] == scores[:MAX_FACES].tolist()
