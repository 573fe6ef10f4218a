"""Painted training faces: labels by the truth, as sharp as found, the same for the same chance."""

import cv2
import numpy as np
import pytest

from models.mask_painter import face_frame
from trainer import props
from trainer.data import INCORRECT, WIDE, WITH_MASK, WITHOUT_MASK, Crops
from trainer.synth import Marked, hard_negatives, mark, paint_right, paint_wrong

LANDMARKS = np.array([[54, 54], [90, 54], [72, 75], [57, 96], [87, 96]], np.float32)
SKIN = (120, 150, 200)


def people(count=4, noise=25.0, pixels=WIDE, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(SKIN, noise, (count, pixels, pixels, 3)).clip(0, 255).astype(np.uint8)
    whole = [cv2.resize(i, (WIDE, WIDE), interpolation=cv2.INTER_LINEAR) for i in images]
    crops = Crops(np.stack(whole), np.full(count, WITHOUT_MASK), np.full(count, 90, np.float32))
    return Marked(crops, np.repeat(LANDMARKS[None], count, axis=0))


NOBODY = Marked(people(1).crops.where(np.zeros(1, np.bool_)), np.empty((0, 5, 2), np.float32))


def test_painted_faces_have_the_label_of_their_way_of_wearing():
    rng = np.random.default_rng(0)
    wrong, right = paint_wrong(people(), NOBODY, 12, rng), paint_right(people(), people(), 5, rng)
    assert wrong.labels.tolist() == [INCORRECT] * 12
    assert right.labels.tolist() == [WITH_MASK] * 5
    assert wrong.images.shape == (12, WIDE, WIDE, 3)
    assert (wrong.width == 90).all()


def test_hard_negatives_are_labelled_by_the_truth_and_none_is_incorrect():
    for masked in (people(), NOBODY):
        found = hard_negatives(people(), masked, 21, np.random.default_rng(0))
        assert (found.labels == WITHOUT_MASK).sum() == 11
        assert (found.labels == WITH_MASK).sum() == 10


def test_the_same_chance_gives_the_same_faces():
    def draw(seed):
        return hard_negatives(people(), people(), 6, np.random.default_rng(seed)).images

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()


def test_a_mask_that_would_hardly_be_seen_is_drawn_anew():
    # On six of eight crops the face is so low that its mouth is out of sight.
    low = people(8, noise=0)
    low.landmarks[:6, :, 1] += 75
    painted = paint_wrong(low, NOBODY, 30, np.random.default_rng(0))
    changed = np.abs(painted.images[:, 24:-24, 24:-24] - np.array(SKIN)).max(axis=3) > 24
    assert (changed.mean(axis=(1, 2)) > 0.04).all()


def edges(image):
    return float(np.abs(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_32F)).max())


def test_a_blurred_face_gets_no_sharp_mask():
    blurred = people(pixels=12, noise=10)
    soft = paint_right(blurred, NOBODY, 6, np.random.default_rng(3)).images
    face = np.median([edges(i) for i in blurred.crops.images])
    assert np.median([edges(i) for i in soft]) < 4 * face


@pytest.mark.parametrize("prop", [*props.BEFORE_MOUTH, props.dark_clothes])
def test_what_is_before_the_mouth_leaves_the_eyes_free(prop):
    face = np.full((WIDE, WIDE, 3), SKIN, np.uint8)
    for seed in range(5):
        out = prop(face, face_frame(LANDMARKS), np.random.default_rng(seed))
        changed = np.abs(out.astype(int) - face).max(axis=2) > 30
        assert not changed[:58].any(), seed
        assert changed[75:].mean() > 0.01, seed
    assert (face == SKIN).all(), "the input is left alone"


@pytest.mark.parametrize("prop", props.AROUND)
def test_what_is_around_the_face_leaves_nose_and_mouth_free(prop):
    face = np.full((WIDE, WIDE, 3), SKIN, np.uint8)
    for seed in range(5):
        out = prop(face, face_frame(LANDMARKS), np.random.default_rng(seed))
        changed = np.abs(out.astype(int) - face).max(axis=2) > 30
        assert not changed[70:100, 57:87].any(), seed
        assert changed.any(), seed


def test_no_prop_needs_the_face_to_be_in_the_picture():
    face = np.full((WIDE, WIDE, 3), SKIN, np.uint8)
    frame = face_frame(LANDMARKS + 5000)
    for prop in (*props.BEFORE_MOUTH, *props.AROUND, props.dark_clothes, props.turned):
        assert prop(face, frame, np.random.default_rng(0)).shape == face.shape


def test_a_turned_face_is_narrower_on_one_side():
    face = np.zeros((WIDE, WIDE, 3), np.uint8)
    face[:, [54, 90]] = 255  # both eyes
    out = props.turned(face, face_frame(LANDMARKS), np.random.default_rng(0))
    columns = np.flatnonzero(out[:, :, 0].max(axis=0) > 60)
    left, right = 72 - columns.min(), columns.max() - 72
    assert min(left, right) < 0.85 * max(left, right)


def test_faces_without_landmarks_are_left_out():
    crops = people(5).crops
    found = iter([LANDMARKS, None, LANDMARKS, LANDMARKS, None])
    marked = mark(crops, lambda _: next(found), enough=2)
    assert len(marked.crops) == len(marked.landmarks) == 2
    np.testing.assert_array_equal(marked.crops.images, crops.images[[0, 2]])
