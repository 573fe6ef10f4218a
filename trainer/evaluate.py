"""Figures that tell the truth about a set of weights, measured on the shipped files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import nn

from models import LABELS
from models.crop import Image
from trainer.data import INCORRECT, Crops
from trainer.sets import MEAN, STD, normalise

Logits = NDArray[np.float32]
Predict = Callable[[Image], Logits]


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


def softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities, N x classes."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def accuracy(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Share of right answers; nan for no faces."""
    return float((logits.argmax(axis=1) == labels).mean()) if len(labels) else math.nan


def two_class_accuracy(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Share of right answers among faces that are not incorrect, "incorrect" being no answer."""
    plain = labels != INCORRECT
    return accuracy(logits[plain][:, :INCORRECT], labels[plain])


def confusion(logits: Logits, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts, true class by answered class."""
    table = np.zeros((len(LABELS), len(LABELS)), np.int64)
    np.add.at(table, (labels, logits.argmax(axis=1)), 1)
    return table


def f1_scores(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class from a confusion table; 0 where a class is neither there nor answered."""
    right = np.diag(table).astype(np.float64)
    return np.asarray(2 * right / np.maximum(table.sum(axis=0) + table.sum(axis=1), 1))


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share. Raises ValueError when total is not above 0."""
    if total <= 0:
        raise ValueError("no interval for no observations")
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Expected calibration error over 15 bins of confidence."""
    confidence, answers = probabilities.max(axis=1), probabilities.argmax(axis=1)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [
        abs((answers[bins == b] == labels[bins == b]).mean() - confidence[bins == b].mean())
        * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def fit_temperature(logits: Logits, labels: NDArray[np.int64]) -> float:
    """The temperature with the least negative log-likelihood on these faces, within 0.2..5."""
    candidates = np.exp(np.linspace(math.log(0.2), math.log(5), 241))
    rows = np.arange(len(labels))
    losses = [-np.log(softmax(logits, t)[rows, labels] + 1e-12).mean() for t in candidates]
    return float(candidates[int(np.argmin(losses))])


def risk_coverage(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> list[tuple[float, float, float]]:
    """(threshold, coverage, risk) for thresholds from 0.34 to 0.98: what answering less buys."""
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
    """The highest threshold that still answers `least_coverage` of the faces."""
    allowed = [threshold for threshold, coverage, _ in curve if coverage >= least_coverage]
    return max(allowed, default=curve[0][0])


def figures(crops: Crops, logits: Logits, temperature: float, threshold: float) -> dict[str, Any]:
    """Every figure of one set, as it goes into the card."""
    labels = crops.labels
    table = confusion(logits, labels)
    probabilities = softmax(logits, temperature)
    sure = probabilities.max(axis=1) >= threshold
    right = logits.argmax(axis=1) == labels
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
    if (labels == INCORRECT).any():
        hits, total = int(table[INCORRECT, INCORRECT]), int(table[INCORRECT].sum())
        found["macro_f1"] = float(f1_scores(table).mean())
        found["recall_incorrect"] = hits / total
        found["recall_incorrect_interval"] = wilson(hits, total)
    return found
