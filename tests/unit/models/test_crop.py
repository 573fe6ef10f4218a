"""The crop's geometry: training and serving both rest on it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.crop import crop_face, face_square

coordinate = st.floats(-500, 500)
length = st.floats(0.5, 400)


@given(coordinate, coordinate, length, length, st.floats(-0.5, 2))
def test_square_is_centred_on_the_box_and_grows_with_the_margin(x0, y0, width, height, margin):
    left, top, side = face_square(x0, y0, x0 + width, y0 + height, margin)
    assert side == pytest.approx((1 + margin) * max(width, height), rel=1e-3)
    assert left + side / 2 == pytest.approx(x0 + width / 2, abs=1e-6)
    assert top + side / 2 == pytest.approx(y0 + height / 2, abs=1e-6)


@given(coordinate, coordinate, length, length, st.sampled_from([16, 80, 112]))
def test_any_box_gives_a_crop_of_pixels_that_are_in_the_picture(x0, y0, width, height, size):
    picture = np.full((60, 90, 3), 77, np.uint8)
    crop = crop_face(picture, (x0, y0, x0 + width, y0 + height), 0.15, size)
    assert crop.shape == (size, size, 3)
    assert crop.dtype == np.uint8
    assert np.abs(crop.astype(int) - 77).max() <= 1


def test_a_crop_at_its_own_size_is_the_pixels_themselves():
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    crop = crop_face(picture, (20, 10, 52, 42), 0.0, 32)
    np.testing.assert_array_equal(crop, picture[10:42, 20:52])


def test_outside_the_picture_the_border_is_repeated():
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, 0] = (10, 20, 30)
    crop = crop_face(picture, (-20, 0, 20, 40), 0.0, 40)
    assert (crop[:, :20] == (10, 20, 30)).all()
    assert (crop[:, 22:] == 0).all()


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 9, 9, 5), (float("nan"), 0, 1, 1)])
def test_an_empty_box_is_refused(box):
    with pytest.raises(ValueError, match="empty face box"):
        crop_face(np.zeros((20, 20, 3), np.uint8), box, 0.15, 16)


def test_a_picture_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="H x W x 3"):
        crop_face(np.zeros((20, 20), np.uint8), (1, 1, 5, 5), 0.15, 16)
