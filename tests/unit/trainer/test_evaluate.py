"""The figures, against cases that can be counted by hand and against a recomputation by loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models import LABELS as NAMES
from trainer.data import Crops
from trainer.evaluate import (
    accuracy,
    among,
    calibration_error,
    choose_threshold,
    confusion,
    figures,
    fit_temperature,
    per_class,
    risk_coverage,
    roc_auc,
    scores,
    softmax,
    two_class_accuracy,
    wilson,
)

LABELS = np.array([0, 0, 1, 1, 2, 2])
LOGITS = np.eye(3, dtype=np.float32)[[0, 2, 1, 1, 2, 0]] * 4


@st.composite
def judged(draw, classes=3):
    """Probabilities (N x 3) and labels (N) among the first `classes` classes."""
    count = draw(st.integers(1, 40))
    logits = draw(arrays.arrays(np.float64, (count, 3), elements=st.floats(-5, 5, width=32)))
    labels = draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    return softmax(logits), labels


# --- by hand --------------------------------------------------------------------------------------


def test_accuracies_and_confusion():
    assert accuracy(LOGITS, LABELS) == pytest.approx(4 / 6)
    assert confusion(LOGITS, LABELS).tolist() == [[1, 0, 1], [0, 2, 0], [1, 0, 1]]
    assert confusion(LOGITS[:2], LABELS[:2]).tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    # Asked for two classes, the second face's best of the two is a tie, won by the first.
    assert two_class_accuracy(LOGITS, LABELS) == 1.0
    assert math.isnan(accuracy(LOGITS[:0], LABELS[:0]))


def test_precision_recall_and_f1_of_each_class():
    # Truth 0 0 0 1, answers 0 0 1 1: class 2 is not there.
    rows = np.eye(3)[[0, 0, 1, 1]]
    assert per_class(rows, np.array([0, 0, 0, 1])) == [
        pytest.approx({"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}),
        pytest.approx({"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}),
        {"precision": None, "recall": None, "f1": None, "support": 0},
    ]


def test_a_class_that_is_there_and_never_answered_counts_as_nought():
    found = scores(np.eye(3)[[0, 0, 0]], np.array([0, 0, 1]), (0, 1, 2), 0.5)
    assert found["per_class"]["without_mask"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 1,
    }
    # The mean leaves out the class that is not there: (0.8 + 0) / 2.
    assert found["macro_f1"] == pytest.approx(0.4)


def test_roc_area_counts_the_pairs_in_order_and_a_tie_by_half():
    score = np.array([0.9, 0.6, 0.6, 0.2])
    rows = np.stack([score, 1 - score], axis=1)
    # Of four pairs of a first with a second class three are in order, one is a tie.
    assert roc_auc(rows, np.array([0, 0, 1, 1])) == pytest.approx([3.5 / 4, 3.5 / 4])
    assert roc_auc(rows, np.zeros(4, np.int64)) == [None, None]


def test_calibration_error_by_hand():
    # Two faces at 0.9, one right: a gap of 0.4. Two at 0.6, both right: again 0.4.
    rows = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(rows, np.array([0, 1, 0, 0])) == pytest.approx(0.4, abs=1e-6)
    assert calibration_error(np.eye(2)[[0, 1]], np.array([0, 1])) == pytest.approx(0, abs=1e-6)


def test_coverage_and_risk_at_the_threshold():
    rows = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.8, 0.2, 0], [0.5, 0.3, 0.2]])
    found = scores(rows, np.array([0, 0, 1, 1]), (0, 1, 2), 0.6)
    assert found["coverage"] == 0.75
    assert found["risk"] == pytest.approx(1 / 3)
    assert found["threshold"] == 0.6
    assert scores(rows, np.array([0, 0, 1, 1]), (0, 1, 2), 0.95)["risk"] is None


def test_wilson_interval_is_the_textbook_one():
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(0, 5)[0] == 0.0
    with pytest.raises(ValueError, match="no observations"):
        wilson(0, 0)


# --- a question among fewer classes ---------------------------------------------------------------


def test_a_two_class_question_takes_the_third_label_out():
    rows = np.array([[0.3, 0.1, 0.6], [0.2, 0.7, 0.1]])
    assert among(rows, (0, 1)) == pytest.approx(np.array([[0.75, 0.25], [2 / 9, 7 / 9]]))
    found = scores(rows, np.array([0, 1]), (0, 1), 0.7)
    assert found["classes"] == ["with_mask", "without_mask"]
    assert found["accuracy"] == 1.0
    assert found["accuracy_all_classes"] == 0.5
    assert found["answered_otherwise"] == 1
    assert found["confusion"] == [[1, 0], [0, 1]]
    assert found["coverage"] == 1.0


def test_classes_need_not_be_the_first_ones():
    rows = np.array([[0.1, 0.6, 0.3], [0.5, 0.4, 0.1]])
    found = scores(rows, np.array([2, 0]), (0, 2), 0.5)
    assert found["accuracy"] == 1.0
    assert list(found["per_class"]) == ["with_mask", "incorrect"]
    assert among(rows, (0, 2)) == pytest.approx(np.array([[0.25, 0.75], [5 / 6, 1 / 6]]))


def test_probabilities_that_are_all_elsewhere_become_an_even_guess():
    assert among(np.array([[0.0, 0.0, 1.0]]), (0, 1)).tolist() == [[0.5, 0.5]]


def test_equal_probabilities_stay_equal_where_no_class_is_taken_out():
    # The second row does not quite add up to 1, as the service's 32 bits do not.
    rows = np.array([[0.4, 0.3, 0.3], [0.4, 0.3, 0.30000004]])
    assert len(np.unique(among(rows, (0, 1, 2))[:, 1])) == 1


# --- extremes -------------------------------------------------------------------------------------


def test_a_perfect_model_has_all_ones():
    found = scores(np.eye(3)[LABELS], LABELS, (0, 1, 2), 0.9)
    for key in ("accuracy", "macro_f1", "macro_precision", "macro_recall", "roc_auc_macro"):
        assert found[key] == 1.0
    assert found["risk"] == 0.0
    assert found["ece"] == pytest.approx(0)


def test_an_always_wrong_model_has_all_noughts():
    found = scores(np.eye(3)[(LABELS + 1) % 3], LABELS, (0, 1, 2), 0.9)
    for key in ("accuracy", "macro_f1", "macro_precision", "macro_recall"):
        assert found[key] == 0.0
    assert found["risk"] == 1.0
    assert found["ece"] == pytest.approx(1)


def test_what_no_face_can_tell_is_none():
    found = scores(np.empty((0, 3)), np.empty(0, np.int64), (0, 1, 2), 0.5)
    defined = {"n": 0, "classes": list(NAMES), "threshold": 0.5, "confusion": [[0] * 3] * 3}
    defined["answered_otherwise"] = 0
    for key, value in found.items():
        if key == "per_class":
            assert {row["support"] for row in value.values()} == {0}
            assert {row["f1"] for row in value.values()} == {None}
        else:
            assert value == defined.get(key)


# --- invariants -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(judged())
def test_the_figures_are_those_of_plain_loops(case):
    rows, labels = case
    found = scores(rows, labels, (0, 1, 2), 0.6)
    answers = rows.argmax(axis=1)
    f1s, areas = [], []
    for label, name in enumerate(NAMES):
        hits = sum(a == t == label for a, t in zip(answers, labels, strict=True))
        claimed, there = (answers == label).sum(), (labels == label).sum()
        row = found["per_class"][name]
        assert row["support"] == there
        if there:
            assert row["precision"] == pytest.approx(hits / claimed if claimed else 0)
            assert row["recall"] == pytest.approx(hits / there)
            assert row["f1"] == pytest.approx(2 * hits / (claimed + there))
            f1s.append(2 * hits / (claimed + there))
        if 0 < there < len(labels):
            pairs = [
                (mine > other) + 0.5 * (mine == other)
                for mine in rows[labels == label, label]
                for other in rows[labels != label, label]
            ]
            areas.append(np.mean(pairs))
    assert found["macro_f1"] == pytest.approx(np.mean(f1s))
    # torchmetrics counts in 32 bits.
    expected = pytest.approx(np.mean(areas), abs=1e-6) if areas else None
    assert found["roc_auc_macro"] == expected
    assert np.trace(found["confusion"]) / len(labels) == pytest.approx(found["accuracy"])


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_that_of_plain_loops(seed):
    rng = np.random.default_rng(seed)
    rows = softmax(rng.normal(0, 1.5, (80, 3)))
    # Calibrated but for chance: were it too sure in every bin, their number would not matter.
    labels = (rows.cumsum(axis=1) < rng.random((80, 1))).sum(axis=1)
    confidence, right = rows.max(axis=1), rows.argmax(axis=1) == labels
    bins = np.floor(confidence * 15).astype(int)
    expected = sum(
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )
    assert calibration_error(rows, labels) == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=50)
@given(judged(), st.randoms(use_true_random=False))
def test_the_order_of_the_faces_does_not_matter(case, random):
    rows, labels = case
    order = random.sample(range(len(labels)), len(labels))
    straight = scores(rows, labels, (0, 1, 2), 0.6)
    shuffled = scores(rows[order], labels[order], (0, 1, 2), 0.6)
    assert flat(shuffled) == pytest.approx(flat(straight), abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(judged(classes=2))
def test_probabilities_among_some_classes_are_probabilities_in_the_same_order(case):
    rows, labels = case
    kept = among(rows, (0, 1))
    assert kept.sum(axis=1) == pytest.approx(np.ones(len(rows)))
    assert (kept >= 0).all()
    assert kept[:, 0] / kept[:, 1] == pytest.approx(rows[:, 0] / rows[:, 1])
    # The help can only make more of these answers right.
    found = scores(rows, labels, (0, 1), 0.6)
    assert found["accuracy"] >= found["accuracy_all_classes"]


@settings(deadline=None, max_examples=50)
@given(judged())
def test_every_figure_is_a_share_or_none(case):
    for value in flat(scores(*case, (0, 1, 2), 0.6)):
        assert value is None or value >= 0
        assert value is None or not math.isnan(value)


def flat(found):
    """All numbers of the figures."""
    if isinstance(found, dict):
        return [number for value in found.values() for number in flat(value)]
    if isinstance(found, list | tuple):
        return [number for value in found for number in flat(value)]
    return [] if isinstance(found, str) else [found]


# --- calibration and threshold --------------------------------------------------------------------


def test_temperature_undoes_a_scaling_and_lowers_the_calibration_error():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3)).astype(np.float32)
    draws = rng.random(4000)[:, None]
    labels = (softmax(logits).cumsum(axis=1) < draws).sum(axis=1)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.1)
    over = calibration_error(softmax(logits * 3), labels)
    assert calibration_error(softmax(logits * 3, 3.0), labels) < 0.03 < over


def test_answering_less_costs_coverage_and_buys_risk():
    confidence = np.linspace(0.4, 0.99, 60)
    rows = np.stack([confidence, 1 - confidence, 0 * confidence], axis=1)
    labels = np.where(confidence > 0.6, 0, 1)
    curve = risk_coverage(rows, labels)
    coverages = [coverage for _, coverage, _ in curve]
    assert coverages == sorted(coverages, reverse=True)
    assert curve[-1][2] == 0.0
    assert curve[0][2] > 0.1
    threshold = choose_threshold(curve, 0.9)
    assert (rows.max(axis=1) >= threshold).mean() >= 0.9
    assert (rows.max(axis=1) >= threshold + 0.02).mean() < 0.9


def test_the_threshold_gives_up_answers_only_as_long_as_that_avoids_mistakes():
    # From 0.5 to 0.6 a tenth of the faces is lost, half of them mistakes; beyond, right ones only.
    curve = [(0.5, 1.0, 0.06), (0.6, 0.9, 0.01 / 0.9), (0.7, 0.89, 0.01 / 0.89), (0.8, 0.5, 0.01)]
    assert choose_threshold(curve, 0.4) == 0.6
    assert choose_threshold(curve, 0.95) == 0.5


def test_where_nothing_is_lost_the_threshold_is_the_most_careful_one():
    curve = [(0.5, 1.0, 0.0), (0.6, 1.0, 0.0), (0.7, 1.0, 0.0), (0.8, 0.99, 0.0)]
    assert choose_threshold(curve) == 0.7


def test_a_model_that_is_never_sure_still_gets_a_threshold():
    assert choose_threshold([(0.34, 0.0, 0.0), (0.35, 0.0, 0.0)]) == 0.34


# --- the card's figures ---------------------------------------------------------------------------


def test_the_figures_of_a_set_leave_out_what_it_cannot_show():
    images = np.zeros((6, 1, 1, 3), np.uint8)
    crops = Crops(images, LABELS, np.full(6, 30, np.float32))
    found = figures(crops, LOGITS, 1.0, 0.5)
    assert found["recall_incorrect"] == 0.5
    assert found["faces"] == 6
    # (0.5 + 1 + 0.5) / 3
    assert found["macro_f1"] == pytest.approx(2 / 3)
    two = figures(crops.where(LABELS < 2), LOGITS[:4], 1.0, 0.5)
    assert "recall_incorrect" not in two
    # p(with_mask) is high for one masked face and tied with the bare ones for the other: 0.75;
    # p(without_mask) is high for both bare faces: 1.
    assert two["roc_auc_macro"] == pytest.approx((0.75 + 1) / 2)
    assert "roc_auc_macro" not in figures(crops.where(LABELS < 1), LOGITS[:2], 1.0, 0.5)
