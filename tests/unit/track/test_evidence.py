from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.frames import FaceBox, Verdict
from stream_server.track.cadence import Effort, classification_due
from stream_server.track.evidence import Evidence, quality

LABELS = ("with_mask", "without_mask", "incorrect")
MASK, BARE, WRONG = (0.94, 0.03, 0.03), (0.03, 0.94, 0.03), (0.03, 0.03, 0.94)
UNSURE = (0.4, 0.35, 0.25)


def evidence() -> Evidence:
    return Evidence(LABELS, 0.64)


def settled_on(row: Sequence[float], seconds: float = 1.0, quality: float = 1.0) -> Evidence:
    """Evidence of crops each 0.1 s up to the time 0, classified as rarely as the cadence says."""
    told = evidence()
    for step in range(round(seconds * 10) + 1):
        told.add(row, quality, step / 10 - seconds)
    return told


def test_before_the_first_crop_nothing_is_known() -> None:
    told = evidence()
    assert told.verdict is Verdict.UNCERTAIN
    assert told.probabilities == pytest.approx([1 / 3] * 3)
    assert told.confidence == pytest.approx(1 / 3)
    assert not told.settled


def test_two_good_crops_make_a_verdict_and_one_does_not() -> None:
    told = evidence()
    told.add(MASK, 1.0, 0.0)
    assert told.verdict is Verdict.UNCERTAIN
    told.add(MASK, 1.0, 0.033)
    assert told.verdict is Verdict.WITH_MASK
    assert told.settled
    assert told.confidence == pytest.approx(0.94)


@pytest.mark.parametrize("every", [0.5, 1.0, 5.0])
def test_rare_crops_make_a_verdict_and_change_it_with_the_second_one(every: float) -> None:
    one, told = evidence(), []
    rows = [MASK, MASK, MASK, BARE, MASK, MASK, BARE, BARE]
    for number, row in enumerate(rows):
        one.add(row, 1.0, number * every)
        told.append(one.verdict)
    mask, bare = Verdict.WITH_MASK, Verdict.WITHOUT_MASK
    assert told == [Verdict.UNCERTAIN, mask, mask, mask, mask, mask, mask, bare]


def test_poor_crops_need_company() -> None:
    told = evidence()
    for number in range(5):
        told.add(MASK, 0.1, number / 30)
        assert told.verdict is Verdict.UNCERTAIN
    told.add(MASK, 0.1, 5 / 30)
    assert told.verdict is Verdict.WITH_MASK


def test_crops_below_the_threshold_make_no_verdict() -> None:
    told = evidence()
    for number in range(30):
        told.add(UNSURE, 1.0, number / 30)
    assert told.verdict is Verdict.UNCERTAIN
    assert told.confidence == pytest.approx(0.4)


@settings(deadline=None)
@given(
    st.floats(0.01, 1.0),
    st.lists(st.floats(0.01, 1.0), min_size=12, max_size=12),
    st.sampled_from([MASK, WRONG, UNSURE]),
    st.sampled_from([0.033, 0.1, 0.25, 0.6]),
    st.floats(0.01, 3.0),
)
def test_one_odd_crop_never_changes_a_verdict(
    odd_quality: float, qualities: list[float], odd: Sequence[float], every: float, gap: float
) -> None:
    told = settled_on(BARE, quality=qualities[0])
    told.add(odd, odd_quality, gap)
    assert told.verdict is Verdict.WITHOUT_MASK
    for number, one in enumerate(qualities):
        told.add(BARE, one, gap + every * (number + 1))
        if every * (number + 1) < 0.5:  # later it may be taken back, never replaced
            assert told.verdict is Verdict.WITHOUT_MASK
        assert told.verdict in (Verdict.WITHOUT_MASK, Verdict.UNCERTAIN)


def test_an_odd_crop_is_asked_about_at_once() -> None:
    told = settled_on(BARE)
    assert told.settled
    told.add(MASK, 0.2, 0.3)
    assert not told.settled
    told.add(BARE, 1.0, 0.333)
    assert told.settled


@pytest.mark.parametrize("fps", [10, 30])
@pytest.mark.parametrize("phase", range(6))
@pytest.mark.parametrize("row", [MASK, WRONG])
@pytest.mark.parametrize("new_quality", [0.4, 1.0])
def test_a_true_change_is_told_within_half_a_second(
    fps: int, phase: int, row: Sequence[float], new_quality: float
) -> None:
    """Crops come as rarely as the cadence says for a settled face. The flow sees a mask slip; of
    one that comes or goes it need see nothing."""
    told, classified, effort = evidence(), float("-inf"), Effort()
    change = fps + phase
    for number in range(3 * fps):
        now = number / fps
        changed = number >= change
        followed = 0.5 if row is WRONG and number == change else 1.0
        if classification_due(told.settled, followed, now - classified, effort):
            told.add(row if changed else BARE, new_quality if changed else 1.0, now)
            classified = now
        if told.verdict.value == LABELS[row.index(max(row))]:
            assert now - change / fps <= 0.5 + 1e-9
            return
        assert told.verdict is Verdict.WITHOUT_MASK or number < 3
    pytest.fail("the change was never told")


def test_a_mask_that_goes_up_is_told_once() -> None:
    """Before it covers the nose it is worn wrong for 0.4 s."""
    told = settled_on(BARE)
    seen = [told.verdict]
    for number in range(30):
        told.add(WRONG if number < 10 else MASK, 1.0, 0.04 * number)
        if told.verdict is not seen[-1]:
            seen.append(told.verdict)
    assert seen == [Verdict.WITHOUT_MASK, Verdict.WITH_MASK]


def test_labels_that_take_turns_change_nothing() -> None:
    told = settled_on(BARE)
    for number in range(60):
        told.add(MASK if number % 3 == 0 else BARE, 1.0, number / 20)
        assert told.verdict is Verdict.WITHOUT_MASK


def test_lasting_doubt_takes_the_verdict_back_and_short_doubt_does_not() -> None:
    told = settled_on(BARE)
    for number in range(1, 21):
        told.add(UNSURE, 1.0, number / 20)
        assert told.verdict is Verdict.WITHOUT_MASK
    for number in range(21, 40):
        told.add(UNSURE, 1.0, number / 20)
    assert told.verdict is Verdict.UNCERTAIN


def test_after_doubt_a_verdict_does_not_come_back_at_once() -> None:
    told = settled_on(BARE)
    for number in range(1, 41):
        told.add(UNSURE, 1.0, number / 20)
    assert told.verdict is Verdict.UNCERTAIN
    for number in range(41, 60):
        told.add(BARE, 1.0, number / 20)
        if told.verdict is not Verdict.UNCERTAIN:
            break
    assert 0.29 <= (number - 41) / 20 <= 0.5


def test_a_verdict_is_kept_a_little_below_the_threshold_that_gave_it() -> None:
    told = settled_on(BARE)
    for number in range(1, 60):
        told.add((0.3, 0.58, 0.12), 1.0, number / 20)
    assert told.verdict is Verdict.WITHOUT_MASK


ROWS = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda row: sum(row) > 0.1)


@settings(deadline=None)
@given(st.lists(st.tuples(ROWS, st.floats(0.0, 1.0), st.floats(0.0, 1e5)), max_size=40))
def test_means_stay_probabilities_and_weights_bounded(
    crops: list[tuple[list[float], float, float]],
) -> None:
    told, now = evidence(), 0.0
    for row, weight, after in crops:
        now += after
        told.add([part / sum(row) for part in row], weight, now)
        assert sum(told.probabilities) == pytest.approx(1.0)
        assert min(told.probabilities) >= 0
        assert np.isfinite(told.confidence)


def crop(shade: int = 120, contrast: int = 60) -> np.ndarray:
    chess = np.indices((32, 32)).sum(0) % 2 * contrast + shade - contrast // 2
    return np.repeat(chess[..., None], 3, 2).astype(np.uint8)


def face(side: float, nose: float = 0.5) -> FaceBox:
    eyes = (0.3 * side, 0.4 * side), (0.7 * side, 0.4 * side)
    mouth = (0.35 * side, 0.8 * side), (0.65 * side, 0.8 * side)
    return FaceBox(0, 0, side, side, 0.9, (*eyes, (nose * side, 0.6 * side), *mouth))


def test_an_ordinary_face_has_full_quality() -> None:
    assert quality(crop(), face(100)) == 1.0
    assert quality(crop(), FaceBox(0, 0, 100, 100, 0.9)) == 1.0


@pytest.mark.parametrize(
    ("poor", "box"),
    [
        (crop(), face(12)),
        (crop(contrast=0), face(100)),
        (crop(shade=10, contrast=16), face(100)),
        (crop(shade=245, contrast=16), face(100)),
        (crop(), face(100, nose=0.7)),
    ],
    ids=["small", "blurred", "dark", "glaring", "side face"],
)
def test_what_is_hard_to_see_weighs_less(poor: np.ndarray, box: FaceBox) -> None:
    assert 0.05 < quality(poor, box) < 0.8


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=14, max_size=14),
    st.integers(0, 255),
)
def test_quality_is_a_share_for_any_landmarks(numbers: list[float], shade: int) -> None:
    x, y = sorted(numbers[:2]), sorted(numbers[2:4])
    points = tuple(zip(numbers[4::2], numbers[5::2], strict=True))
    value = quality(crop(shade, 0), FaceBox(x[0], y[0], x[1], y[1], 0.5, points))
    assert 0 < value <= 1


def test_a_verdict_about_to_change_is_shown_with_the_confidence_it_had():
    told = Evidence(LABELS, 0.6)
    for number in range(20):
        told.add((0.97, 0.02, 0.01), 1.0, number / 30)
    had = told.confidence
    for number in range(20, 26):
        told.add((0.01, 0.98, 0.01), 1.0, number / 30)
    assert told.verdict is Verdict.WITH_MASK
    assert told.confidence < 0.5
    assert told.steady_confidence >= 0.5
    assert told.steady_confidence <= had
