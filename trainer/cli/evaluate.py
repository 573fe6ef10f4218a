"""`maskstream evaluate`."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from models import LABELS
from models.errors import InputError, WeightsError
from trainer.cli import need

if TYPE_CHECKING:
    from models.card import ModelCard
    from models.registry import Weights
    from trainer.judge import Answer, Question

LEAST_DETECTED = 16.0
SHOWN_BROKEN = 5


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A data set: Face Mask 12K, class folders, or Pascal VOC scenes.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(metavar="NAME|CARD", help="Weights to judge [default: the shipped ones]."),
    ] = None,
    layout: Annotated[
        str, typer.Option(metavar="LAYOUT", help="auto, 12k, folders or voc.")
    ] = "auto",
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Train, Validation or Test [default: Test, else Validation, else all there is].",
        ),
    ] = None,
    faces: Annotated[
        Literal["boxes", "detect"],
        typer.Option(
            help="Where the faces are: in the labels' boxes, or where the service's detector finds "
            "them, which is then judged too."
        ),
    ] = "boxes",
    min_size: Annotated[
        float | None,
        typer.Option(
            metavar="PX",
            min=0,
            help="Leave out faces narrower than this [default: 0; with --faces detect 16].",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Leave out the faces of a class. May be repeated."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the plots there, as PNG.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A training run, whose curves (metrics.csv) are plotted too."
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write every figure there, as JSON.")
    ] = None,
) -> None:
    """Measure weights on labelled faces: the service's own crops and runtime, on the CPU.

    Where a class is excluded, or the data set has no more than two, the question is which of the
    remaining classes it is: the probabilities of the others are taken out and the rest is scaled
    to 1. The accuracy without this help, over all of the model's labels, is printed beside it, and
    how many faces would be given a label that the data does not have.

    With --faces detect the figures are of the labelled faces that the detector has found (IoU 0.4
    or more); recall, precision and the end-to-end F1 tell of the others. Detections narrower than
    --min-size are left out of the precision.

    \b
    Examples:
      maskstream evaluate data/face-mask-12k --json figures.json --plots plots
      maskstream evaluate scenes --faces detect --min-size 24 --exclude incorrect
    """
    need("torchmetrics", "matplotlib", "tqdm")
    _check_writable(json, plots)
    if run is not None and plots is None:
        raise InputError("--run needs --plots DIR, where its curves go")
    from trainer.data import read_dataset
    from trainer.judge import ask

    least = min_size if min_size is not None else (LEAST_DETECTED if faces == "detect" else 0.0)
    question = ask(read_dataset(data, layout), split, exclude or [], least)
    chosen = _weights(weights)
    if plots is not None and run is not None:
        _draw_curves(run, plots)
    answer = _judge(question, chosen, faces)
    figures = _figures(answer, question, chosen, faces)
    print(_heading(figures, question) + "\n" + table(figures))
    if json is not None:
        json.write_text(json_module.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if plots is not None:
        _draw(answer, question, chosen.card, plots)


def _judge(question: Question, weights: Weights, faces: str) -> Answer:
    from tqdm import tqdm  # type: ignore[import-untyped]

    from stream_server.classify.openvino import OpenVinoClassifier
    from stream_server.detect.centerface import CenterFaceDetector
    from trainer.detection import by_detector
    from trainer.judge import by_labels, by_picture

    pictures = len(by_picture(question.faces, question.without if faces == "detect" else ()))
    with (
        _warnings_only(),
        tqdm(total=pictures, unit=" pictures", disable=not sys.stderr.isatty()) as bar,
    ):
        classifier = OpenVinoClassifier(weights)
        if faces == "detect":
            detector = CenterFaceDetector()
            return by_detector(question, weights.card, classifier, detector, bar.update)
        return by_labels(question, weights.card, classifier, bar.update)


def _figures(answer: Answer, question: Question, weights: Weights, faces: str) -> dict[str, Any]:
    """What the JSON holds."""
    from trainer.detection import Detected, detection_figures, end_to_end_macro_f1
    from trainer.evaluate import scores

    threshold = weights.card.uncertain_below
    figures = {
        "weights": weights.card.name,
        "layout": question.data.layout,
        "split": question.split,
        "faces": faces,
        "min_size": question.min_size,
        **scores(answer.probabilities, answer.labels, question.classes, threshold),
    }
    if isinstance(answer, Detected):
        figures["detection"] = detection_figures(answer.scenes, question)
        figures["end_to_end_macro_f1"] = end_to_end_macro_f1(answer.scenes, question)
    figures["broken"] = [
        {"path": str(problem.path), "reason": problem.reason} for problem in answer.broken
    ]
    return figures


# --- on the terminal ------------------------------------------------------------------------------


def _heading(figures: Mapping[str, Any], question: Question) -> str:
    """What was measured, in a few lines."""
    from trainer.judge import ALL

    others = ", ".join(name for name in question.data.splits if name not in ("", question.split))
    whole = "all of it" if question.split == ALL else f"{question.split} part"
    part = f"{whole} (not {others})" if others else whole
    lines = [
        f"{figures['weights']} on {question.data.root}, layout {figures['layout']}, {part}",
        f"{figures['n']} faces"
        + (f" of at least {question.min_size:g} px" if question.min_size else "")
        + (", where the detector has found them" if figures["faces"] == "detect" else "")
        + f"; is it {' or '.join(figures['classes'])}?",
    ]
    lines += [
        f"left out, broken: {broken['path']}: {broken['reason']}"
        for broken in figures["broken"][:SHOWN_BROKEN]
    ]
    if len(figures["broken"]) > SHOWN_BROKEN:
        lines.append(f"... and {len(figures['broken']) - SHOWN_BROKEN} more")
    return "\n".join(lines) + "\n"


def table(figures: Mapping[str, Any]) -> str:
    """The figures as aligned plain text; "-" where one is not defined."""
    low, high = figures["accuracy_interval"] or (None, None)
    rows = [
        ("accuracy", figures["accuracy"], f"95 % interval {_shown(low)} to {_shown(high)}"),
        ("accuracy, all labels", figures["accuracy_all_classes"], _otherwise(figures)),
        ("macro precision", figures["macro_precision"], ""),
        ("macro recall", figures["macro_recall"], ""),
        ("macro F1", figures["macro_f1"], ""),
        ("ROC-AUC, macro", figures["roc_auc_macro"], "one against the rest"),
        ("calibration error", figures["ece"], ""),
        ("coverage", figures["coverage"], f"answered at threshold {figures['threshold']:.2f}"),
        ("risk", figures["risk"], "wrong among the answered"),
    ]
    detection = figures.get("detection")
    if detection is not None:
        rows += [
            (name.replace("_", " >= ") + " px", detection[name], "detector")
            for name in detection
            if name != "precision"
        ]
        rows += [
            ("detection precision", detection["precision"], "detector"),
            ("end-to-end macro F1", figures["end_to_end_macro_f1"], "missed and false faces count"),
        ]
    lines = [f"{name:<22}{_shown(value):>8}   {note}".rstrip() for name, value, note in rows]
    return "\n".join([*lines, "", *_class_lines(figures), "", *_confusion_lines(figures)])


def _otherwise(figures: Mapping[str, Any]) -> str:
    """What the answers are without the help of taking labels out."""
    others = " or ".join(name for name in LABELS if name not in figures["classes"])
    if not others:
        return "no label taken out"
    count = figures["answered_otherwise"]
    return f"no label taken out: {count} of {figures['n']} would be called {others}"


def _class_lines(figures: Mapping[str, Any]) -> list[str]:
    kinds = ("precision", "recall", "f1", "support")
    lines = [f"{'class':<16}" + "".join(f"{kind:>12}" for kind in kinds)]
    for name, row in figures["per_class"].items():
        lines.append(f"{name:<16}" + "".join(f"{_shown(row[kind]):>12}" for kind in kinds))
    return lines


def _confusion_lines(figures: Mapping[str, Any]) -> list[str]:
    names = figures["classes"]
    lines = [f"{'truth, answer':<16}" + "".join(f"{name:>15}" for name in names)]
    for name, row in zip(names, figures["confusion"], strict=True):
        lines.append(f"{name:<16}" + "".join(f"{count:>15}" for count in row))
    return lines


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


# --- plots ----------------------------------------------------------------------------------------


def _draw(answer: Answer, question: Question, card: ModelCard, folder: Path) -> None:
    """One PNG for each view of the answer."""
    from trainer import plots
    from trainer.evaluate import in_play

    if not answer.faces:
        return
    names = [card.labels[label] for label in question.classes]
    rows, truth = in_play(answer.probabilities, answer.labels, question.classes)
    plots.confusion_matrix(rows, truth, names, folder / "confusion.png")
    plots.roc(rows, truth, names, folder / "roc.png")
    plots.reliability(rows, truth, folder / "reliability.png")
    plots.risk_coverage(rows, truth, card.uncertain_below, folder / "risk_coverage.png")
    worst = plots.mistakes(answer, rows, truth, names, card)
    plots.worst_errors(worst, folder / "worst_errors.png")


def _draw_curves(run: Path, folder: Path) -> None:
    from trainer.plots import curves

    curves(run / "metrics.csv", folder / "curves.png")


# --- checks ---------------------------------------------------------------------------------------


def _weights(name: str | None) -> Weights:
    from models.registry import DEFAULT, resolve

    try:
        return resolve(name or DEFAULT)
    except WeightsError as error:
        raise InputError(f"--weights: {error}") from error


def _check_writable(out: Path | None, plots: Path | None) -> None:
    """Raise InputError before the work unless both can be written; makes their folders."""
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            existed = out.exists()
            out.open("a").close()
            if not existed:
                out.unlink()
        except OSError as error:
            raise InputError(
                f"--json {out}: it cannot be written ({error.strerror}); name another file"
            ) from error
    if plots is not None:
        try:
            plots.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=plots):
                pass
        except OSError as error:
            raise InputError(
                f"--plots {plots}: the folder cannot be written to ({error.strerror}); name another"
            ) from error


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Keep the service's log of what it loads off the terminal."""
    import logging

    import structlog

    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)
