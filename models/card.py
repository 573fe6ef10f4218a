"""The model card: everything a program must know to use the weights, and a person to trust them.

A card is a JSON file (for programs) with a Markdown twin (for people). No torch is needed.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from models import LABELS
from models.errors import WeightsError

FORMAT = 1
MOST_POINTS_LOST = 0.3
"""A variant that loses more accuracy against torch than this, in points, must not be served."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Variant:
    """The network in one file format and precision, checked against torch on validation faces.

    `files` maps file names to SHA-256; the first is the one to load. They may lie elsewhere: only
    what a card names in its own `files` has to be beside it. `drop` is in points of accuracy, below
    0 where the variant is right more often than torch. Times are medians for one crop, in ms, alone
    and in a batch of 32.
    """

    files: Mapping[str, str]
    runtime: str
    precision: str
    size: int
    faces: int
    accuracy: float
    drop: float
    largest_difference: float
    ms_alone: float
    ms_in_batch: float
    threads: int

    def __post_init__(self) -> None:
        """Refuse what is not a variant; raises ValueError."""
        if not self.files:
            raise ValueError("a variant needs at least one file")
        _check_files(self.files)

    @property
    def may_serve(self) -> bool:
        """It is as good as torch, within `MOST_POINTS_LOST`."""
        return self.drop <= MOST_POINTS_LOST


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One set of weights: how to feed it, how to read it, where it came from, how good it is.

    `mean` and `std` are for RGB on a 0..1 scale. Probabilities are softmax(logits / temperature);
    a face whose highest probability is under `uncertain_below` has the verdict "uncertain".
    `files` maps the names of the files beside the card to SHA-256. `figures` holds measured values
    only. `openvino` is the .xml that the service loads; NAME.xml where it is empty. `variants` are
    the forms the network was exported to, by name. `pictures` maps picture files beside the card,
    of synthetic faces only, to what they show.
    """

    name: str
    labels: tuple[str, ...]
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_margin: float
    temperature: float
    uncertain_below: float
    files: Mapping[str, str]
    preset: str
    seed: int
    commit: str
    command: str
    data: tuple[str, ...]
    limitations: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    openvino: str = ""
    variants: Mapping[str, Variant] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse what no program could use; raises ValueError."""
        if self.format != FORMAT:
            raise ValueError(f"card format {self.format} is not known, only {FORMAT}")
        if tuple(self.labels) != LABELS:
            raise ValueError(f"labels must be {', '.join(LABELS)}, not {', '.join(self.labels)}")
        if not 16 <= self.input_size <= 1024:
            raise ValueError(f"input_size {self.input_size} is not within 16..1024")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need three values each, std above 0")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        if not 0 <= self.uncertain_below <= 1:
            raise ValueError(f"uncertain_below must be within 0..1, not {self.uncertain_below}")
        if not self.crop_margin > -1:
            raise ValueError(f"crop_margin must be above -1, not {self.crop_margin}")
        _check_files(self.files)
        for file in (self.openvino_file, *self.pictures):
            if Path(file).name != file:
                raise ValueError(f"{file!r} is not a plain file name")

    @property
    def openvino_file(self) -> str:
        """The .xml that the service loads."""
        return self.openvino or f"{self.name}.xml"


def _check_files(files: Mapping[str, str]) -> None:
    for file, digest in files.items():
        if Path(file).name != file or not _SHA256.fullmatch(digest):
            raise ValueError(f"files: {file!r} needs a plain file name and a SHA-256")


def load_card(path: str | Path) -> ModelCard:
    """Read a card from its JSON file. Raises WeightsError naming the file and what is wrong."""
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"cannot read the model card {path}: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON ({error}); fetch the card again") from error
    known = {f.name for f in fields(ModelCard)}
    if not isinstance(raw, dict) or raw.keys() - known:
        extra = ", ".join(sorted(raw.keys() - known)) if isinstance(raw, dict) else "not an object"
        raise WeightsError(f"{path} is not a model card of this version: {extra}")
    try:
        for key in ("labels", "mean", "std", "data", "limitations"):
            raw[key] = tuple(raw[key])
        raw["variants"] = {
            name: Variant(**variant) for name, variant in raw.get("variants", {}).items()
        }
        return ModelCard(**raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a usable model card: {error}") from error


def save_card(card: ModelCard, path: str | Path) -> None:
    """Write `card` as JSON to `path` and as Markdown beside it (suffix .md)."""
    path = Path(path)
    path.write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(card_markdown(card), encoding="utf-8")


def card_markdown(card: ModelCard) -> str:
    """The card for people, in Markdown."""
    lines = [
        f"# {card.name}",
        "",
        f"Labels: {', '.join(card.labels)}.",
        f"Input: {card.input_size} px square, RGB, mean {list(card.mean)}, std {list(card.std)}.",
        f"Crop: a square around the face box, {card.crop_margin:.0%} wider than its longer side.",
        f"Temperature {card.temperature:.3f}; uncertain below {card.uncertain_below:.3f}.",
        "",
        f"Preset `{card.preset}`, seed {card.seed}, commit `{card.commit}`. Made with:",
        "",
        f"    {card.command}",
        "",
        "## Data",
        "",
        *[f"- {line}" for line in card.data],
        "",
        "## Measured",
        "",
        *_figure_lines(card.figures),
        "",
        *_variant_lines(card),
        "## Limitations",
        "",
        *[f"- {line}" for line in card.limitations],
        "",
        *[f"![{caption}]({file})\n\n{caption}\n" for file, caption in card.pictures.items()],
        "## Files",
        "",
        "Compared with their SHA-256 whenever the weights are loaded:",
        "",
        *[f"- `{file}`: `{digest}`" for file, digest in card.files.items()],
    ]
    return "\n".join(lines) + "\n"


def _variant_lines(card: ModelCard) -> list[str]:
    """A table of the variants; nothing where there are none."""
    if not card.variants:
        return []
    first = next(iter(card.variants.values()))
    return [
        "## Variants",
        "",
        f"Accuracy, drop and largest difference of a probability against torch: on {first.faces} "
        f"validation faces. ms a crop: medians with {first.threads} threads. One that drops more "
        f"than {MOST_POINTS_LOST} points may not be served.",
        "",
        "| variant | file | MB | accuracy | drop, points | difference | ms alone | ms in 32 |",
        "|---|---|---|---|---|---|---|---|",
        *[_variant_row(name, variant, card) for name, variant in card.variants.items()],
        "",
        "Those not listed under Files are made by `maskstream export`.",
        "",
    ]


def _variant_row(name: str, variant: Variant, card: ModelCard) -> str:
    file = next(iter(variant.files))
    served = " (served)" if file == card.openvino_file else ""
    cells = (
        f"{name}{served}",
        f"`{file}`",
        f"{variant.size / 1e6:.1f}",
        f"{variant.accuracy:.2%}",
        f"{variant.drop:+.2f}",
        f"{variant.largest_difference:.4f}",
        f"{variant.ms_alone:.2f}",
        f"{variant.ms_in_batch:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _figure_lines(figures: Mapping[str, Any]) -> list[str]:
    """A table for each group of figures, a line for each lone figure."""
    groups = {name: value for name, value in figures.items() if isinstance(value, Mapping)}
    lines = [f"- {name}: {_shown(v)}" for name, v in figures.items() if name not in groups]
    for name, group in groups.items():
        lines += ["", f"### {name}", "", "| figure | value |", "|---|---|"]
        lines += [
            f"| {key} | {_shown(value)}{_interval(group.get(f'{key}_interval'))} |"
            for key, value in group.items()
            if not key.endswith("_interval") and not _is_confusion(value)
        ]
        for key, value in group.items():
            lines += _confusion_lines(key, value) if _is_confusion(value) else []
    return lines


def _interval(bounds: Any) -> str:
    return f" (95 %: {bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""


def _is_confusion(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == len(LABELS)
        and all(isinstance(row, list | tuple) for row in value)
    )


def _confusion_lines(title: str, table: Sequence[Sequence[int]]) -> list[str]:
    lines = ["", f"| {title} | {' | '.join(LABELS)} |", "|---" * (len(LABELS) + 1) + "|"]
    for label, row in zip(LABELS, table, strict=True):
        lines.append(f"| **{label}** | {' | '.join(map(str, row))} |")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
