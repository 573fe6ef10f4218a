"""Figures to look at, each a PNG."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torchmetrics.functional.classification import binary_roc

from models import LABELS
from models.card import ModelCard
from models.crop import Image
from models.errors import InputError
from trainer.data.pictures import read_picture
from trainer.evaluate import (
    ECE_BINS,
    Labels,
    Probabilities,
    calibration_error,
    confusion,
    roc_auc,
    wilson,
)
from trainer.judge import Answer, cut

COLOURS = dict(zip(LABELS, ("#1b7f5c", "#c8443a", "#c98a00"), strict=True))
LINE, GREY = "#2b5d9b", "#777777"
DPI = 150
SHEET_COLUMNS, SHEET_CROPS, SHEET_CROP = 6, 24, 160


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """A wrongly judged face: crop (H x W x 3, BGR), true and answered class, and the latter's p."""

    crop: Image
    truth: str
    answer: str
    confidence: float
    name: str


def confusion_matrix(
    probabilities: Probabilities, labels: Labels, names: Sequence[str], out: Path
) -> None:
    """True by answered class: the number of faces, and their share of the true class."""
    table = confusion(probabilities, labels)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(1.6 * len(names) + 2.4, 1.4 * len(names) + 1.6)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{count}\n{share[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), _spoken(names))
    axes.set_yticks(range(len(names)), _spoken(names))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="answer", ylabel="truth", title=f"Confusion, {len(labels)} faces")
    _save(figure, out)


def roc(probabilities: Probabilities, labels: Labels, names: Sequence[str], out: Path) -> None:
    """ROC curve of each class against the rest, false alarms on a logarithmic axis."""
    figure, axes = _figure(6.4, 4.8)
    # A curve starts at the least share that can be told from none.
    least = 0.5 / max(len(labels), 1)
    lowest = 1.0
    for column, area in enumerate(roc_auc(probabilities, labels)):
        if area is None:
            continue
        score = torch.from_numpy(np.ascontiguousarray(probabilities[:, column]))
        alarms, found, _ = binary_roc(score, torch.from_numpy(labels == column).long())
        label = f"{_spoken(names)[column]}: area {area:.4f}"
        places = np.maximum(alarms.numpy(), least)
        axes.plot(
            places, found.numpy(), color=COLOURS[names[column]], label=label, drawstyle="steps-post"
        )
        lowest = min(lowest, float(found[alarms == 0].max()))
    axes.set(xscale="log", xlim=(least, 1), ylim=_up_to_one(lowest))
    axes.xaxis.set_major_formatter(_percent)
    axes.yaxis.set_major_formatter(_percent)
    axes.set(
        xlabel="false alarms among the others", ylabel="found", title="ROC, one against the rest"
    )
    _finish(axes)
    _save(figure, out)


def reliability(probabilities: Probabilities, labels: Labels, out: Path) -> None:
    """Accuracy by confidence in the bins of the calibration error, and how many faces are there."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, ECE_BINS - 1)
    used = np.unique(bins)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color=GREY, linestyle="--", label="as sure as right")
    shares = np.array([right[bins == index].mean() for index in used])
    limits = [wilson(int(right[bins == index].sum()), int((bins == index).sum())) for index in used]
    upper.errorbar(
        [confidence[bins == index].mean() for index in used],
        shares,
        yerr=np.abs(np.transpose(limits) - shares),
        color=LINE,
        marker="o",
        capsize=3,
        label="measured, with its 95 % interval",
    )
    error = calibration_error(probabilities, labels)
    upper.set(
        ylabel="accuracy", ylim=(0, 1.02), title=f"Reliability, calibration error {error:.4f}"
    )
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    _finish(upper)
    lower.bar(
        edges[:-1], np.bincount(bins, minlength=ECE_BINS), 1 / ECE_BINS, align="edge", color=LINE
    )
    lower.set(xlabel="confidence", ylabel="faces", yscale="log", xlim=(0, 1.0))
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    _finish(lower)
    _save(figure, out)


def risk_coverage(
    probabilities: Probabilities, labels: Labels, threshold: float, out: Path
) -> None:
    """Share of wrong answers among the answered faces, by the share of these; the card's point."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    confidence = probabilities.max(axis=1)[order]
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    # Equal confidences are answered together.
    last = np.append(confidence[1:] != confidence[:-1], True)
    answered = np.arange(1, len(order) + 1)
    figure, axes = _figure(6.4, 4.8)
    axes.plot(
        (answered / len(order))[last],
        (np.cumsum(wrong) / answered)[last],
        color=LINE,
        drawstyle="steps-post",
        label="faces in the order of their confidence",
    )
    sure = int((confidence >= threshold).sum())
    if sure:
        label = f"threshold {threshold:.2f}: {sure / len(order):.1%} answered, "
        label += f"{wrong[:sure].mean():.2%} of them wrong"
        axes.plot(sure / len(order), wrong[:sure].mean(), "o", color="black", label=label)
    # Up to the first mistake there is nothing to see.
    before = min(int(wrong.argmax()), sure) / len(order) if wrong.any() else 0.0
    axes.set(xlabel="answered (coverage)", ylabel="wrong among these (risk)")
    axes.set(xlim=_up_to_one(before))
    axes.set(ylim=(0, None), title="What answering less buys")
    axes.xaxis.set_major_formatter(_percent)
    axes.yaxis.set_major_formatter(_percent)
    _finish(axes)
    _save(figure, out)


def mistakes(
    answer: Answer,
    probabilities: Probabilities,
    labels: Labels,
    names: Sequence[str],
    card: ModelCard,
) -> list[Mistake]:
    """The surest wrong answers first, their crops cut anew at a size to look at.

    `probabilities` (N x classes) and `labels` are those of the classes asked about, whose names
    are `names`, for the N faces of `answer`.
    """
    confidence, given = probabilities.max(axis=1), probabilities.argmax(axis=1)
    wrong = np.flatnonzero(given != labels)
    found = []
    for index in wrong[np.argsort(-confidence[wrong], kind="stable")][:SHEET_CROPS]:
        face = answer.faces[index]
        found.append(
            Mistake(
                cut(read_picture(face.path), face.box, card, SHEET_CROP),
                LABELS[face.label],
                names[given[index]],
                float(confidence[index]),
                face.path.name,
            )
        )
    return found


def worst_errors(mistakes: Sequence[Mistake], out: Path) -> None:
    """A sheet of wrongly judged faces with truth, answer, its confidence and the file's name."""
    columns = min(SHEET_COLUMNS, max(len(mistakes), 2))
    rows = max(math.ceil(len(mistakes) / columns), 1)
    figure = Figure(figsize=(2 * columns, 2.75 * rows + 0.5), layout="constrained")
    figure.suptitle("The surest mistakes" if mistakes else "No mistakes")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places:
        axes.axis("off")
    for axes, mistake in zip(places, mistakes, strict=False):
        axes.imshow(mistake.crop[:, :, ::-1])
        truth, answer = _spoken((mistake.truth, mistake.answer))
        name = mistake.name if len(mistake.name) <= 26 else "…" + mistake.name[-25:]
        axes.set_title(f"{truth}\njudged {answer} {mistake.confidence:.0%}\n", fontsize=9)
        axes.text(0.5, 1.02, name, transform=axes.transAxes, ha="center", fontsize=6.5, color=GREY)
    _save(figure, out)


def curves(source: Path, out: Path) -> None:
    """Loss and accuracy by epoch, from the metrics.csv of Lightning's CSVLogger.

    Columns named after a loss go to the left, those after an accuracy or F1 to the right. Raises
    InputError when the file cannot be read or has neither.
    """
    series = read_metrics(source)
    losses = {name: line for name, line in series.items() if "loss" in name}
    shares = {name: line for name, line in series.items() if _is_share(name)}
    panels = [(t, lines) for t, lines in (("loss", losses), ("accuracy", shares)) if lines]
    if not panels:
        raise InputError(f"{source} has no loss and no accuracy: give a training run's metrics.csv")
    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(row, panels, strict=True):
        for name, (epochs, values) in lines.items():
            axes.plot(epochs, values, marker=".", label=name.replace("_", " "))
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(axes)
    _save(figure, out)


def read_metrics(source: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Epochs and values of each column of a metrics.csv, the mean where an epoch has several.

    Raises InputError when it cannot be read.
    """
    gathered: dict[str, dict[int, list[float]]] = {}
    try:
        with source.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                _gather(row, gathered)
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read the training run's {source}: {reason}") from error
    return {
        name: (sorted(epochs), [float(np.mean(epochs[epoch])) for epoch in sorted(epochs)])
        for name, epochs in gathered.items()
    }


def _gather(row: Mapping[str, str | None], gathered: dict[str, dict[int, list[float]]]) -> None:
    if not row.get("epoch"):
        return
    epoch = int(float(row["epoch"] or 0))
    for name, text in row.items():
        if text and name not in ("epoch", "step"):
            gathered.setdefault(name, {}).setdefault(epoch, []).append(float(text))


def _is_share(name: str) -> bool:
    return any(word in name.lower() for word in ("acc", "f1", "recall"))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    # A Figure without pyplot: nothing to close, and no window system is asked for.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _up_to_one(lowest: float) -> tuple[float, float]:
    """Limits of an axis of shares that shows what lies between `lowest` and 1."""
    span = 1.3 * max(1 - lowest, 0.01)
    return max(0.0, 1 - span), 1 + 0.02 * span


def _percent(share: float, _: float) -> str:
    return f"{100 * share:.3g}%"


def _spoken(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def _save(figure: Figure, out: Path) -> None:
    figure.savefig(out, dpi=DPI, format="png")
