"""Painted masks: on the lower face, worn as asked, the same for the same chance."""

import numpy as np
import pytest

from models.mask_painter import (
    STYLES,
    WEARINGS,
    face_frame,
    mask_outline,
    paint_mask,
    sheet_map,
)

# A frontal face, 100 px between the eyes, in a picture of 400 x 400.
LANDMARKS = np.array([[150, 130], [250, 130], [200, 187], [158, 246], [242, 246]], np.float32)
FACE = np.full((400, 400, 3), (120, 150, 200), np.uint8)


def changed(wearing, style="surgical", seed=0, landmarks=LANDMARKS):
    painted = paint_mask(
        FACE, landmarks, wearing=wearing, style=style, rng=np.random.default_rng(seed)
    )
    return np.abs(painted.astype(int) - FACE).max(axis=2) > 25


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("wearing", WEARINGS)
def test_a_mask_covers_what_its_way_of_wearing_says(wearing, style):
    for seed in range(3):
        painted = changed(wearing, style, seed)
        assert not painted[:120].any(), "the eyes stay free"
        nose_tip = painted[183:190, 195:205].mean()
        mouth = painted[242:250, 190:210].mean()
        assert (nose_tip > 0.5) == (wearing in ("correct", "mouth_out"))
        if wearing != "half_off":  # it may hang before a part of the mouth
            assert (mouth > 0.5) == (wearing in ("correct", "nose_tip_out", "nose_out"))
        assert painted.mean() > 0.01


def test_a_nose_that_is_out_shows_its_nostrils():
    # They lie at a fifth of the way from the nose tip to the mouth: one who sees them sees that
    # the mask is worn wrongly, and the label is no riddle.
    for wearing in ("nose_tip_out", "nose_out", "half_off"):
        for seed in range(20):
            outline = mask_outline(wearing, np.random.default_rng(seed))
            nose = outline.points[np.abs(outline.points[:, 0]) < 0.12]
            assert nose[:, 1].min() > 0.64, (wearing, seed)


def test_a_correct_mask_covers_the_nostrils_whatever_its_cut():
    tops = []
    for seed in range(50):
        outline = mask_outline("correct", np.random.default_rng(seed))
        tops.append(outline.points[np.abs(outline.points[:, 0]) < 0.12][:, 1].min())
    assert max(tops) < 0.5
    assert min(tops) < 0.15, "some reach up to the eyes"


@pytest.mark.parametrize("wearing", ["half_off", "one_ear"])
def test_a_mask_off_one_ear_hangs_from_the_other(wearing):
    sides = set()
    for seed in range(10):
        outline = mask_outline(wearing, np.random.default_rng(seed))
        centre = outline.points.mean(axis=0)
        sides.add(outline.held)
        if wearing == "one_ear":
            assert centre[0] * outline.held > 0.4
        free = outline.corners[[3, 2] if outline.held > 0 else [0, 1]].mean(axis=0)
        held = outline.corners[[0, 1] if outline.held > 0 else [3, 2]].mean(axis=0)
        assert free[1] > held[1] + 0.4
    assert sides == {-1, 1}


def test_the_cloth_runs_from_the_upper_edge_to_the_lower_wherever_the_mask_hangs():
    for wearing in WEARINGS:
        outline = mask_outline(wearing, np.random.default_rng(1))
        centre = outline.points.mean(axis=0)
        across, depth = outline.cloth(*outline.points.T)
        assert depth.min() > -0.25, wearing
        assert depth.max() < 1.25, wearing
        assert np.abs(across).max() < 1.3
        assert 0.1 < outline.cloth(*centre)[1] < 0.9


def test_the_same_chance_gives_the_same_picture_and_another_another():
    def paint(seed):
        rng = np.random.default_rng(seed)
        return paint_mask(FACE, LANDMARKS, wearing="nose_out", style="patterned", rng=rng)

    np.testing.assert_array_equal(paint(4), paint(4))
    assert (paint(4) != paint(5)).any()


def test_the_input_is_left_alone_and_opacity_nought_paints_no_cloth():
    before = FACE.copy()
    rng = np.random.default_rng(0)
    out = paint_mask(FACE, LANDMARKS, wearing="correct", style="dark", rng=rng, opacity=0.0)
    np.testing.assert_array_equal(FACE, before)
    np.testing.assert_array_equal(out, FACE)


def test_the_mask_follows_a_turned_and_moved_face():
    turn = np.array([[0.9, -0.2], [0.2, 0.9]])
    moved = (LANDMARKS - 200) @ turn.T * 0.6 + [120, 260]
    rows, columns = np.nonzero(changed("correct", landmarks=moved))
    mouth = moved[3:].mean(axis=0)
    assert abs(columns.mean() - mouth[0]) < 25
    assert abs(rows.mean() - mouth[1]) < 40


def test_the_mask_bulges_to_where_the_nose_points():
    def middle(push):
        """The column of the nose's row that shows the middle of the sheet, 150 wide."""
        nose = np.array([[0, 0], [0, 0], [push, 0], [0, 0], [0, 0]], np.float32)
        across, _ = sheet_map(face_frame(LANDMARKS + nose), 50, (0, 0, 400, 400))
        return int(np.abs(across[187] - 75).argmin())

    assert (middle(-18), middle(0), middle(18)) == (182, 200, 218)


def test_a_face_outside_the_picture_is_no_error():
    assert not changed("correct", landmarks=LANDMARKS + 5000).any()


def test_unknown_names_and_degenerate_landmarks_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown mask style"):
        paint_mask(FACE, LANDMARKS, wearing="correct", style="lace", rng=rng)
    with pytest.raises(ValueError, match="unknown way of wearing"):
        mask_outline("sideways", rng)
    with pytest.raises(ValueError, match="landmarks"):
        face_frame(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="5 x 2"):
        face_frame(np.zeros((4, 2)))
