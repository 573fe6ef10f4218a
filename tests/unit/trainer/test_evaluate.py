"""The figures, against cases that can be counted by hand."""

import math

import numpy as np
import pytest

from trainer.data import Crops
from trainer.evaluate import (
    accuracy,
    calibration_error,
    choose_threshold,
    confusion,
    f1_scores,
    figures,
    fit_temperature,
    risk_coverage,
    softmax,
    two_class_accuracy,
    wilson,
)

LABELS = np.array([0, 0, 1, 1, 2, 2])
LOGITS = np.eye(3, dtype=np.float32)[[0, 2, 1, 1, 2, 0]] * 4


def test_accuracies_and_confusion():
    assert accuracy(LOGITS, LABELS) == pytest.approx(4 / 6)
    assert confusion(LOGITS, LABELS).tolist() == [[1, 0, 1], [0, 2, 0], [1, 0, 1]]
    assert confusion(LOGITS[:2], LABELS[:2]).tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    # Asked for two classes, the second face's best of the two is a tie, won by the first.
    assert two_class_accuracy(LOGITS, LABELS) == 1.0
    assert math.isnan(accuracy(LOGITS[:0], LABELS[:0]))


def test_f1_scores():
    assert f1_scores(confusion(LOGITS, LABELS)).tolist() == pytest.approx([0.5, 1.0, 0.5])


def test_wilson_interval_is_the_textbook_one():
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(0, 5)[0] == 0.0
    with pytest.raises(ValueError, match="no observations"):
        wilson(0, 0)


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
    probabilities = np.stack([confidence, 1 - confidence, 0 * confidence], axis=1)
    labels = np.where(confidence > 0.6, 0, 1)
    curve = risk_coverage(probabilities, labels)
    coverages = [coverage for _, coverage, _ in curve]
    assert coverages == sorted(coverages, reverse=True)
    assert curve[-1][2] == 0.0
    assert curve[0][2] > 0.1
    threshold = choose_threshold(curve, 0.9)
    assert (probabilities.max(axis=1) >= threshold).mean() >= 0.9
    assert (probabilities.max(axis=1) >= threshold + 0.02).mean() < 0.9


def test_the_figures_of_a_set_leave_out_what_it_cannot_show():
    images = np.zeros((6, 1, 1, 3), np.uint8)
    crops = Crops(images, LABELS, np.full(6, 30, np.float32))
    found = figures(crops, LOGITS, 1.0, 0.5)
    assert found["recall_incorrect"] == 0.5
    assert found["faces"] == 6
    two = crops.where(LABELS < 2)
    assert "recall_incorrect" not in figures(two, LOGITS[:4], 1.0, 0.5)
