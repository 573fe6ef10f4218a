import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.data import astronaut

from models.crop import crop_face
from stream_server.classify.crops import crops
from stream_server.frames import FaceBox, Picture

PICTURE = Picture.from_bgr(np.ascontiguousarray(astronaut()[:, :, ::-1]))
WHOLE = PICTURE.bgr()
PLACE = st.floats(-60, 560)
SIDE = st.floats(1, 500)


@given(PLACE, PLACE, SIDE, SIDE, st.sampled_from([0.0, 0.15, 0.5]), st.sampled_from([16, 80, 224]))
def test_same_pixels_as_cropping_the_whole_picture(
    x: float, y: float, width: float, height: float, margin: float, size: int
) -> None:
    box = FaceBox(x, y, x + width, y + height, 0.9)
    (found,) = crops(PICTURE, [box], margin, size)
    wanted = crop_face(WHOLE, (box.x0, box.y0, box.x1, box.y1), margin, size)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, wanted)


def test_one_crop_a_box_in_order() -> None:
    boxes = [FaceBox(10, 10, 60, 60, 0.9), FaceBox(300, 200, 420, 330, 0.8)]
    found = crops(PICTURE, boxes, 0.15, 32)
    assert len(found) == 2
    for crop, box in zip(found, boxes, strict=True):
        assert np.array_equal(crop, crops(PICTURE, [box], 0.15, 32)[0])
    assert not np.array_equal(*found)
    assert crops(PICTURE, [], 0.15, 32) == []


@pytest.mark.parametrize("size", [(2, 2), (4, 64), (64, 4)])
def test_pictures_smaller_than_the_face(size: tuple[int, int]) -> None:
    picture = Picture.from_bgr(np.full((size[1], size[0], 3), 90, np.uint8))
    (found,) = crops(picture, [FaceBox(-50, -50, 200, 200, 0.9)], 0.15, 48)
    assert found.shape == (48, 48, 3)
