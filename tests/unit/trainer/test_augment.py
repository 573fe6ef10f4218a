"""What cameras do to faces: each step changes what it says and nothing else."""

import cv2
import numpy as np
import pytest

from trainer import augment as views
from trainer.data import WIDE

STEPS = (
    views.occlude,
    views.cut,
    views.recolour,
    views.light,
    views.dim,
    views.blur,
    views.shrink,
    views.compress,
)


def noise(size=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_keeps_shape_and_input_and_changes_pixels(step):
    image = noise()
    before = image.copy()
    for seed in range(6):
        out = step(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        assert (out != image).any()
        np.testing.assert_array_equal(out, step(image, np.random.default_rng(seed)))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("size", [64, 96, 112])
def test_a_view_is_of_the_asked_size_and_the_same_for_the_same_chance(size):
    wide = noise(WIDE)
    first = views.augment(wide, size, np.random.default_rng(1))
    assert first.shape == (size, size, 3)
    np.testing.assert_array_equal(first, views.augment(wide, size, np.random.default_rng(1)))
    assert (first != views.augment(wide, size, np.random.default_rng(2))).any()


def test_a_view_keeps_the_middle_of_the_face_in_sight_however_it_is_turned():
    wide = np.zeros((WIDE, WIDE, 3), np.uint8)
    wide[66:78, 66:78] = 255
    for seed in range(60):
        view = views.move(wide, 112, np.random.default_rng(seed))
        rows, columns = np.nonzero(view[:, :, 0] > 128)
        assert abs(rows.mean() - 56) < 12
        assert abs(columns.mean() - 56) < 12


def test_a_mask_on_the_chin_stays_in_sight():
    # The lowest seventh of what the server sees, where a mask under the chin hangs.
    wide = np.zeros((WIDE, WIDE, 3), np.uint8)
    wide[112:128, 40:104] = 255
    gone = sum(
        (views.move(wide, 112, np.random.default_rng(seed)) > 128).mean() < 0.01
        for seed in range(200)
    )
    assert gone < 10


def test_a_face_seen_from_the_side_is_nearer_on_one_side():
    wide = np.zeros((WIDE, WIDE, 3), np.uint8)
    cv2.line(wide, (50, 62), (50, 82), (255, 0, 0), 3)
    cv2.line(wide, (94, 62), (94, 82), (0, 255, 0), 3)
    ratios = []
    for seed in range(100):
        view = views.move(wide, 112, np.random.default_rng(seed))
        left, right = (float((view[:, :, colour] > 100).sum()) for colour in (0, 1))
        ratios.append(left / right)
    assert min(ratios) < 0.8
    assert max(ratios) > 1.25
    assert np.median(np.abs(np.log(ratios))) < 0.08, "most faces are seen from the front"


def test_a_cut_face_loses_a_side_but_never_its_lower_part():
    image = noise(100)
    lost = {}
    for seed in range(80):
        out = views.cut(image, np.random.default_rng(seed))
        same = (out == image).all(axis=2)
        rows, columns = np.flatnonzero(same.any(axis=1)), np.flatnonzero(same.any(axis=0))
        sides = (rows[0], 99 - rows[-1], columns[0], 99 - columns[-1])
        lost.setdefault(int(np.argmax(sides)), []).append(max(sides))
    assert set(lost) == {0, 1, 2, 3}
    assert max(lost[0] + lost[1]) <= 10
    assert max(lost[2]) > 15


def test_recolouring_is_what_its_figures_say():
    """Against the same sums, written out pixel by pixel in float64."""
    image = noise(40, seed=3)
    rng = np.random.default_rng(5)
    saturation = 0.0 if rng.random() < 0.07 else rng.uniform(0.5, 1.4)
    contrast = rng.uniform(0.65, 1.3)
    gains = rng.uniform(0.72, 1.28) * rng.uniform(0.9, 1.1, 3)
    grey = (image @ np.array([0.114, 0.587, 0.299]))[..., None]
    expected = grey + saturation * (image - grey)
    expected = ((expected - grey.mean()) * contrast + grey.mean()) * gains
    out = views.recolour(image, np.random.default_rng(5))
    np.testing.assert_allclose(out, np.clip(expected, 0, 255), atol=1)


def test_dimmed_faces_are_darker_or_lit_from_behind():
    image = np.full((64, 64, 3), 160, np.uint8)
    for seed in range(20):
        out = views.dim(image, np.random.default_rng(seed))
        assert out[24:40, 24:40].mean() < 155


def test_light_falls_from_one_side():
    image = np.full((64, 64, 3), 128, np.uint8)
    leaning = 0
    for seed in range(20):
        out = views.light(image, np.random.default_rng(seed)).astype(float)
        halves = [out[:, :32].mean(), out[:, 32:].mean(), out[:32].mean(), out[32:].mean()]
        leaning += max(halves) - min(halves) > 8
    assert leaning >= 17, "now and then a shadow's edge is just out of sight"
