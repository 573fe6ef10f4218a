"""Figures that tell the truth about a set of weights."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import nn
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from models import LABELS
from models.crop import Image
from trainer.data import INCORRECT, Crops
from trainer.sets import MEAN, STD, normalise

Logits = NDArray[np.float32]
Probabilities = NDArray[np.float64]
Labels = NDArray[np.int64]
Predict = Callable[[Image], Logits]

ECE_BINS = 15
WRONG_COSTS = 5.0
"""A wrong verdict does as much harm as so many faces called uncertain."""


def predict_torch(network: nn.Module, bgr: Image, batch: int = 64) -> Logits:
    """Logits (N x classes) of crops (N x H x W x 3, uint8, BGR)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(bgr), batch):
            rgb = np.ascontiguousarray(bgr[start : start + batch, :, :, ::-1])
            parts.append(network(normalise(torch.from_numpy(rgb))).numpy())
    return np.concatenate(parts)


def openvino_predictor(xml: Path, batch: int = 64) -> Predict:
    """A function from crops (N x H x W x 3, uint8, BGR) to logits, by the OpenVINO files."""
    # OpenVINO's own choice of precision (bf16) kills the process on some machines.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(str(xml), "CPU", settings)

    def predict(bgr: Image) -> Logits:
        parts = []
        for start in range(0, len(bgr), batch):
            rgb = bgr[start : start + batch, :, :, ::-1].astype(np.float32) / 255
            blob = ((rgb - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).transpose(
                0, 3, 1, 2
            )
            parts.append(np.asarray(compiled([np.ascontiguousarray(blob)])[0]))
        return np.concatenate(parts)

    return predict


def softmax(logits: Logits, temperature: float = 1.0) -> Probabilities:
    """Probabilities, N x classes."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def among(probabilities: NDArray[np.floating[Any]], classes: Sequence[int]) -> Probabilities:
    """The probabilities of `classes` alone, renormalised: N x labels to N x len(classes)."""
    kept = probabilities[:, list(classes)].astype(np.float64)
    if len(classes) == probabilities.shape[1]:
        # Scaling would tear equal probabilities apart by an error of arithmetic.
        return kept
    total = kept.sum(axis=1, keepdims=True)
    lost = total <= 0
    return np.where(lost, 1 / len(classes), kept / np.where(lost, 1, total))


def in_play(
    probabilities: NDArray[np.floating[Any]], labels: Labels, classes: Sequence[int]
) -> tuple[Probabilities, Labels]:
    """`among`, and the labels as places in `classes` (in rising order, with all of the labels)."""
    return among(probabilities, classes), np.searchsorted(np.asarray(classes), labels)


def accuracy(scores: NDArray[np.floating[Any]], labels: Labels) -> float:
    """Share of right answers by logits or probabilities (N x classes); nan for no faces."""
    return float((scores.argmax(axis=1) == labels).mean()) if len(labels) else math.nan


def two_class_accuracy(logits: Logits, labels: Labels) -> float:
    """Share of right answers among faces that are not incorrect, "incorrect" being no answer."""
    plain = labels != INCORRECT
    return accuracy(logits[plain][:, :INCORRECT], labels[plain])


def confusion(scores: NDArray[np.floating[Any]], labels: Labels) -> Labels:
    """Counts, true class by answered class, from logits or probabilities (N x classes)."""
    answers = torch.from_numpy(scores.argmax(axis=1))
    table = multiclass_confusion_matrix(answers, torch.from_numpy(labels), scores.shape[1])
    return np.asarray(table.numpy(), np.int64)


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share. Raises ValueError when total is not above 0."""
    if total <= 0:
        raise ValueError("no interval for no observations")
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Expected calibration error over 15 equal bins of confidence."""
    rows, truth = torch.from_numpy(probabilities), torch.from_numpy(labels)
    return float(multiclass_calibration_error(rows, truth, rows.shape[1], n_bins=ECE_BINS))


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature with the least negative log-likelihood on these faces, within 0.2..5."""
    candidates = np.exp(np.linspace(math.log(0.2), math.log(5), 241))
    rows = np.arange(len(labels))
    losses = [-np.log(softmax(logits, t)[rows, labels] + 1e-12).mean() for t in candidates]
    return float(candidates[int(np.argmin(losses))])


def risk_coverage(probabilities: Probabilities, labels: Labels) -> list[tuple[float, float, float]]:
    """(threshold, coverage, risk) for thresholds from 0.34 to 0.98: what answering less buys.

    Risk is the share of wrong answers among the covered faces, 0 where none is covered.
    """
    confidence = probabilities.max(axis=1)
    wrong = probabilities.argmax(axis=1) != labels
    curve = []
    for threshold in np.round(np.arange(0.34, 0.99, 0.01), 2):
        sure = confidence >= threshold
        risk = float(wrong[sure].mean()) if sure.any() else 0.0
        curve.append((float(threshold), float(sure.mean()), risk))
    return curve


def choose_threshold(
    curve: list[tuple[float, float, float]], least_coverage: float = 0.965
) -> float:
    """The threshold with the least harm among those that answer `least_coverage` of the faces.

    A face called uncertain does a harm of 1, a wrong verdict one of `WRONG_COSTS`. Of several with
    the same harm it is the highest: faces unlike these are answered with the same care.
    """
    allowed = [point for point in curve if point[1] >= least_coverage] or curve[:1]
    return min(allowed, key=lambda point: (_harm(*point[1:]), -point[0]))[0]


def _harm(coverage: float, risk: float) -> float:
    # Rounded, because equal harms must not differ by an error of arithmetic.
    return round(WRONG_COSTS * coverage * risk + (1 - coverage), 9)


def figures(crops: Crops, logits: Logits, temperature: float, threshold: float) -> dict[str, Any]:
    """Every figure of one set, as it goes into the card."""
    labels = crops.labels
    table = confusion(logits, labels)
    probabilities = softmax(logits, temperature)
    sure = probabilities.max(axis=1) >= threshold
    right = logits.argmax(axis=1) == labels
    present = np.unique(labels)
    found: dict[str, Any] = {
        "faces": len(labels),
        "accuracy": accuracy(logits, labels),
        "accuracy_interval": wilson(int(right.sum()), len(labels)),
        "two_class_accuracy": two_class_accuracy(logits, labels),
        "ece": calibration_error(probabilities, labels),
        "coverage": float(sure.mean()),
        "accuracy_when_sure": accuracy(logits[sure], labels[sure]),
        "confusion (rows: true)": table.tolist(),
    }
    if len(present) > 1:
        found["roc_auc_macro"] = _mean(roc_auc(probabilities, labels))
    if (labels == INCORRECT).any():
        hits, total = int(table[INCORRECT, INCORRECT]), int(table[INCORRECT].sum())
        found["macro_f1"] = _mean([row["f1"] for row in per_class(probabilities, labels)])
        found["recall_incorrect"] = hits / total
        found["recall_incorrect_interval"] = wilson(hits, total)
    return found


def scores(
    probabilities: NDArray[np.floating[Any]],
    labels: Labels,
    classes: Sequence[int],
    threshold: float,
) -> dict[str, Any]:
    """Every figure of the question "which of `classes` is it?"; None where one is not defined.

    Takes the model's probabilities (N x labels of the model), the true labels (N, all of them in
    `classes`) and `classes` in rising order. The probabilities of other labels are taken out; only
    `accuracy_all_classes` is without this help, and `answered_otherwise` counts the faces for which
    one of these labels would have been the answer. Precision, recall and F1 are 0 for a class that
    is there and never answered, and None for one that is not, which the macro means leave out.
    """
    rows, truth = in_play(probabilities, labels, classes)
    answers = probabilities.argmax(axis=1)
    right = rows.argmax(axis=1) == truth
    sure = rows.max(axis=1) >= threshold
    each = per_class(rows, truth)
    return {
        "n": len(labels),
        "classes": [LABELS[label] for label in classes],
        "accuracy": _share(right),
        "accuracy_interval": wilson(int(right.sum()), len(right)) if len(right) else None,
        "accuracy_all_classes": _share(answers == labels),
        "answered_otherwise": int((~np.isin(answers, classes)).sum()),
        "macro_f1": _mean([row["f1"] for row in each]),
        "macro_precision": _mean([row["precision"] for row in each]),
        "macro_recall": _mean([row["recall"] for row in each]),
        "roc_auc_macro": _mean(roc_auc(rows, truth)),
        "ece": calibration_error(rows, truth) if len(truth) else None,
        "threshold": threshold,
        "coverage": _share(sure),
        "risk": _share(~right[sure]),
        "per_class": {LABELS[label]: row for label, row in zip(classes, each, strict=True)},
        "confusion": confusion(rows, truth).tolist(),
    }


def per_class(probabilities: Probabilities, labels: Labels) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each class; None where no such face is there."""
    count = probabilities.shape[1]
    if not len(labels):
        return [{"precision": None, "recall": None, "f1": None, "support": 0}] * count
    answers, truth = torch.from_numpy(probabilities.argmax(axis=1)), torch.from_numpy(labels)
    kinds = {
        "precision": multiclass_precision(answers, truth, count, average="none"),
        "recall": multiclass_recall(answers, truth, count, average="none"),
        "f1": multiclass_f1_score(answers, truth, count, average="none"),
    }
    support = np.bincount(labels, minlength=count)
    return [
        {kind: float(values[c]) if support[c] else None for kind, values in kinds.items()}
        | {"support": int(support[c])}
        for c in range(count)
    ]


def roc_auc(probabilities: Probabilities, labels: Labels) -> list[float | None]:
    """Area under the ROC curve of each class against the rest; None where a side is empty."""
    areas: list[float | None] = []
    for column in range(probabilities.shape[1]):
        truth = labels == column
        defined = truth.any() and not truth.all()
        score = torch.from_numpy(np.ascontiguousarray(probabilities[:, column]))
        areas.append(
            float(binary_auroc(score, torch.from_numpy(truth).long())) if defined else None
        )
    return areas


def _share(hits: NDArray[np.bool_]) -> float | None:
    """The share of hits; None of none."""
    return float(hits.mean()) if len(hits) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
