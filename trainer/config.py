"""Every number a training run depends on, in one typed place: presets, a YAML file, flags."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from models.errors import InputError

PRESETS = ("best", "seed", "teacher")

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=32, le=512)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class ConfigError(InputError):
    """A training setting that cannot work; the message names it and what it may be."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class Shares:
    """How often the faces of each source are drawn, relative to each other.

    A source that the data lacks falls away, and the others take its place.
    """

    folder_with: Weight = 0.26
    scene_with: Weight = 0.13
    painted_with: Weight = 0.05
    hard_with: Weight = 0.03
    folder_without: Weight = 0.24
    scene_without: Weight = 0.08
    hard_without: Weight = 0.05
    folder_incorrect: Weight = 0.05
    scene_incorrect: Weight = 0.045
    painted_incorrect: Weight = 0.13

    def __post_init__(self) -> None:
        """Raise ConfigError when nothing would be drawn."""
        if not any(asdict(self).values()):
            raise ConfigError("shares: at least one must be above 0")


@dataclass(frozen=True, slots=True, config=_STRICT)
class TrainConfig:
    """One training run; `trainer/presets/*.yaml` say what each setting is for.

    Sizes are in pixels, `faces_per_epoch` counts augmented views; None means: every training face
    once. Raises pydantic's ValidationError on values out of range; `load_config` words it.
    """

    preset: str = "best"
    network: Literal["mobilenet_v3_large", "efficientnet_lite0"] = "mobilenet_v3_large"
    init: str = "scratch"
    freeze_features: bool = False
    epochs: Count = 30
    patience: Count | None = None
    select: Literal["last", "val_accuracy", "val_macro_f1"] = "last"
    size: Side = 96
    small_size: Side = 64
    small_share: Annotated[float, Field(ge=0, le=1)] = 0.75
    augment: bool = True
    faces_per_epoch: Count | None = 10_000
    painted: Annotated[int, Field(ge=0)] = 12_000
    hard: Annotated[int, Field(ge=0)] = 4_000
    shares: Shares | None = Shares()
    batch: Annotated[int, Field(ge=2)] = 64
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_alpha: Positive = 1.0
    focal_gamma: Weight = 2.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    learning_rate: Positive = 3e-3
    weight_decay: Weight = 0.02
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    clip: Positive | None = 5.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.995
    teacher: str | None = None
    teacher_share: Annotated[float, Field(gt=0, le=1)] = 0.7
    teacher_temperature: Positive = 2.0
    teacher_size: Side = 112
    report_test: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7
    threads: Count | None = None
    workers: Annotated[int, Field(ge=0)] | None = None
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"

    def __post_init__(self) -> None:
        """Raise ConfigError on settings that contradict each other."""
        if (self.shares is None) != (self.faces_per_epoch is None):
            raise ConfigError("shares and faces_per_epoch: give both, or null for both")
        if self.faces_per_epoch is not None and self.faces_per_epoch < self.batch:
            raise ConfigError(f"faces_per_epoch must be at least one batch, {self.batch}")
        if self.loss == "focal" and self.label_smoothing:
            raise ConfigError("label_smoothing goes with the loss cross_entropy only; set it to 0")
        if self.freeze_features and self.init == "scratch":
            raise ConfigError(
                "freeze_features: random features are of no use; give init: imagenet or a path"
            )

    def size_at(self, epoch: int) -> int:
        """The crop's side in pixels in the given epoch, from 0."""
        return self.small_size if epoch < round(self.small_share * self.epochs) else self.size


NAMES = tuple(f.name for f in fields(TrainConfig))


def load_config(
    preset: str | None = None,
    file: Path | None = None,
    settings: Mapping[str, object] | None = None,
) -> TrainConfig:
    """The settings of a preset, with those of a YAML file and then `settings` in their place.

    Dots reach into tables ("shares.scene_with"). Without `preset` it is the file's, else "best".
    Raises ConfigError with a line for each key that is unknown or cannot work.
    """
    given = _read(file) if file is not None else {}
    for key, value in (settings or {}).items():
        _put(given, key, value)
    chosen = str(preset or given.get("preset") or PRESETS[0])
    if chosen not in PRESETS:
        raise ConfigError(f"preset: there is no {chosen!r}, only {' and '.join(PRESETS)}")
    base = yaml.safe_load((files("trainer") / "presets" / f"{chosen}.yaml").read_text())
    return build(_merge(base, {**given, "preset": chosen}))


def build(values: Mapping[str, object]) -> TrainConfig:
    """A configuration from plain values. Raises ConfigError with a line for each mistake."""
    try:
        return TrainConfig(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise ConfigError("\n".join(map(_explain, problems))) from error


def parse_settings(words: list[str]) -> dict[str, object]:
    """`KEY=VALUE` words, values being YAML, as a mapping. Raises ConfigError on other words."""
    found: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            found[key.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {word}: the value is not YAML") from error
        if not (key.strip() and equals):
            raise ConfigError(f"--set {word}: write it as KEY=VALUE")
    return found


def to_yaml(config: TrainConfig) -> str:
    """All settings, to be read again by `load_config`."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def changes(config: TrainConfig) -> dict[str, Any]:
    """The settings that differ from those of the configuration's preset."""
    standard = asdict(load_config(config.preset))
    return {key: value for key, value in asdict(config).items() if value != standard[key]}


def _read(file: Path) -> dict[str, object]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"{file} is not YAML: {line}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold settings as KEY: VALUE lines")
    return values


def _put(values: dict[str, object], key: str, value: object) -> None:
    head, dot, rest = key.partition(".")
    if not dot:
        values[key] = value
        return
    table = values.setdefault(head, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key}: {head} is no table of settings")
    _put(table, rest, value)


def _merge(low: Mapping[str, object], high: Mapping[str, object]) -> dict[str, object]:
    """`high` over `low`, table by table."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _explain(problem: Mapping[str, Any]) -> str:
    path = [str(step) for step in problem["loc"]]
    key = ".".join(step for step in path if step.isidentifier())
    if problem["type"] != "unexpected_keyword_argument":
        return f"{key}: {problem['msg']}, not {problem['input']!r}"
    known = [f.name for f in fields(Shares)] if path[0] == "shares" and path[1:] else NAMES
    close = difflib.get_close_matches(path[-1], known, 1)
    mend = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"{key}: no such setting; {mend}"
