"""The model card: everything a program must know to use the weights, and a person to trust them.

A card is a JSON file (for programs) with a Markdown twin (for people). No torch is needed.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from models import LABELS
from models.errors import WeightsError

FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One set of weights: how to feed it, how to read it, where it came from, how good it is.

    `mean` and `std` are for RGB on a 0..1 scale. Probabilities are softmax(logits / temperature);
    a face whose highest probability is under `uncertain_below` has the verdict "uncertain".
    `files` maps file names (beside the card) to SHA-256. `figures` holds measured values only.
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
        for file, digest in self.files.items():
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
        return ModelCard(**raw)
    except (KeyError, TypeError, ValueError) as error:
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
        "## Measured on the shipped files",
        "",
        *_figure_lines(card.figures),
        "",
        "## Limitations",
        "",
        *[f"- {line}" for line in card.limitations],
        "",
        "## Files",
        "",
        *[f"- `{file}`: SHA-256 `{digest}`" for file, digest in card.files.items()],
    ]
    return "\n".join(lines) + "\n"


def _figure_lines(figures: Mapping[str, Any]) -> list[str]:
    """A table for each group of figures, a line for each lone figure."""
    lines: list[str] = []
    for name, value in figures.items():
        if not isinstance(value, Mapping):
            lines += [f"- {name}: {_shown(value)}"]
            continue
        lines += ["", f"### {name}", "", "| figure | value |", "|---|---|"]
        lines += [f"| {key} | {_shown(item)} |" for key, item in value.items()]
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
