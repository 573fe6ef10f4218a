"""From a trained network to shipped files: calibrated, exported, measured, described by a card."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from models import LABELS
from models.card import MOST_POINTS_LOST, ModelCard, Variant, save_card
from models.crop import Image
from models.errors import InputError, WeightsError
from models.mobilenet_v3 import build_network, load_network
from models.registry import Weights, resolve, sha256
from trainer.config import TrainConfig, changes, load_config
from trainer.data import MARGIN, Crops, crops_of, join
from trainer.evaluate import (
    choose_threshold,
    figures,
    fit_temperature,
    openvino_predictor,
    predict_torch,
    risk_coverage,
    softmax,
)
from trainer.failures import failure_sheet
from trainer.initial import SERVED, file_state
from trainer.sets import MEAN, STD, Faces, Held
from trainer.variants import BASE, FORMATS, check, round_weights, truth, write

KNOWN_DATA = {
    "face-mask-12k": "Face Mask 12K Images Dataset (Kaggle, ashishjangra27; CC0): Train part for "
    "training, Validation part for calibration, Test part for information only: nothing was "
    "chosen on it.",
    "face-mask-detection": "Face Mask Detection (Kaggle, andrewmvd; CC0): Pascal VOC street "
    "scenes, split by picture; faces of 12 px and wider.",
}
"""By the start of the folder's name, as `maskstream data fetch` calls it."""

LIMITATIONS = (
    "Few real faces in public data wear a mask incorrectly; the class is learnt mostly from "
    "painted ones, and the interval of its recall is wide.",
    "Of the 12K set's Validation and Test parts only the pictures are measured that have no copy "
    "in Train: its file names tell which are copies. The street scenes are the better guide.",
    "Side faces, faces under 24 px, hands, scarves, beards and cups before the mouth are rare in "
    "the data. Temperature and threshold were fitted on the validation faces reported here.",
    "Not fit for identifying people or for decisions about them without a person's review.",
)
STARTS = {
    "scratch": "Trained from random weights, without ImageNet: it has seen nothing but faces.",
    "imagenet": "Its features come from torchvision's ImageNet weights.",
}
CALIBRATION_FACES = 600
CHECKPOINTS = (".pt", ".ckpt")


# --- from a training ------------------------------------------------------------------------------


def export(
    network: nn.Module,
    held: Held,
    config: TrainConfig,
    folder: Path,
    name: str,
    sources: dict[str, int],
    *,
    data: Sequence[Path] = (),
    report_test: bool = False,
) -> ModelCard:
    """Write files, card and its Markdown twin into `folder`; every figure is of these files.

    `sources` counts the training faces by where they came from, `data` are the folders they were
    read from. The Test parts are measured only if `report_test` is true: once, when all is decided.
    """
    folder.mkdir(parents=True, exist_ok=True)
    round_weights(network)
    files = write_all(network, folder, name, config.size, BASE, _no_crops(config.size))
    predict = openvino_predictor(folder / f"{name}.xml")
    chosen = join((held.folder, held.scenes))
    logits = predict(chosen.centres(config.size))
    temperature = round(fit_temperature(logits, chosen.labels), 4)
    curve = risk_coverage(softmax(logits, temperature), chosen.labels)
    card = ModelCard(
        name=name,
        labels=LABELS,
        input_size=config.size,
        mean=MEAN,
        std=STD,
        crop_margin=MARGIN,
        temperature=temperature,
        uncertain_below=choose_threshold(curve),
        files={file.name: sha256(file) for paths in files.values() for file in paths},
        preset=config.preset,
        seed=config.seed,
        commit=commit(),
        command=command(config, name, data),
        data=describe(data, sources),
        limitations=(*origin(config), *LIMITATIONS),
        figures={},
    )
    weights = Weights(card, folder / f"{name}.safetensors", folder / f"{name}.xml")
    measured = measure(weights, held, report_test=report_test)
    measured["risk and coverage by threshold"] = {
        f"{threshold:.2f}": {"coverage": coverage, "risk": risk}
        for threshold, coverage, risk in curve[1::5]
    }
    card = replace(card, figures={**measured, "settings": asdict(portable(config))})
    save_card(card, folder / f"{name}.json")
    return card


def measure(weights: Weights, held: Held, *, report_test: bool) -> dict[str, Any]:
    """All figures of the card, by the OpenVINO files; torch is compared on the same faces."""
    card = weights.card
    predict = openvino_predictor(weights.openvino_path)
    network = load_network(weights)
    sets = {
        "face pictures, validation": held.folder,
        "street scenes, validation, faces of 24 px and wider": held.scenes.where(
            held.scenes.width >= 24
        ),
        "street scenes, validation, all faces": held.scenes,
    }
    if report_test:
        sets["test (for information; nothing was chosen on it)"] = held.test
    found: dict[str, Any] = {}
    gap = 0.0
    for title, crops in sets.items():
        if not len(crops):
            continue
        images = crops.centres(card.input_size)
        logits = predict(images)
        other = softmax(predict_torch(network, images), card.temperature)
        gap = max(gap, float(np.abs(softmax(logits, card.temperature) - other).max()))
        found[title] = figures(crops, logits, card.temperature, card.uncertain_below)
    found["largest difference of a probability, torch against OpenVINO"] = gap
    return found


def describe(data: Sequence[Path], sources: dict[str, int]) -> tuple[str, ...]:
    """The card's lines on its data: what is known of each folder, and the faces by source."""
    lines = []
    for root in data:
        known = [text for start, text in KNOWN_DATA.items() if root.name.startswith(start)]
        lines += known or [f"{root.name}: a data set of the trainer's own; licence not told."]
    if any(name.startswith("painted") for name in sources):
        lines.append(
            "Masks painted by models/mask_painter.py, and masks lent from masked training faces, "
            "on unmasked training faces."
        )
    counts = ", ".join(f"{source} {count}" for source, count in sources.items())
    return (*lines, f"Training faces: {counts}") if counts else tuple(lines)


def command(config: TrainConfig, name: str, data: Sequence[Path] = ()) -> str:
    """The command that makes these weights again; the data's places are left to the reader."""
    words = ["maskstream", "train", *([root.name for root in data] or ["DATA"])]
    words += ["--preset", config.preset, "--name", name, "--out", "OUT"]
    told = changes(portable(config))
    for key, value in _flat(told).items():
        words += ["--set", f"{key}={'null' if value is None else value}"]
    return shlex.join(words)


def portable(config: TrainConfig) -> TrainConfig:
    """The settings with files by their names: their places mean nothing to others."""
    teacher = config.teacher and Path(config.teacher).name
    return replace(config, init=Path(config.init).name, teacher=teacher)


def origin(config: TrainConfig) -> tuple[str, ...]:
    """Where the weights started and what taught them, for the card."""
    start = STARTS.get(config.init, f"Trained from {Path(config.init).name}.")
    if config.teacher is None:
        return (start,)
    return (
        start,
        f"Taught by {Path(config.teacher).name}: EfficientNet-Lite0 with ImageNet's features "
        "(Apache 2.0), fine-tuned on the same training faces.",
    )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Tables in tables as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inside = _flat(value) if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{rest}".rstrip("."): item for rest, item in inside.items()}
    return found


def commit() -> str:
    """The commit of this code, or "unknown" outside a git checkout."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# --- to other formats -----------------------------------------------------------------------------


def open_weights(path: str, held: Held, data: Sequence[Path], folder: Path) -> Weights:
    """The weights of a card, or of a training run's NAME.pt or .ckpt, which get a card in `folder`.

    Raises InputError when they cannot be had.
    """
    file = Path(path)
    if file.suffix not in CHECKPOINTS:
        return _of_card(path)
    config = _settings_of(file)
    network = build_network()
    network.load_state_dict(file_state(file))
    export(network.eval(), held, config, folder, file.stem, {}, data=data)
    return resolve(str(folder / f"{file.stem}.json"))


def _of_card(name_or_path: str) -> Weights:
    try:
        return resolve(name_or_path)
    except WeightsError as error:
        raise InputError(str(error)) from error


def _settings_of(checkpoint: Path) -> TrainConfig:
    """Those of its run. Raises InputError when they are not there, or it is a teacher's."""
    places = [parent / "config.yaml" for parent in (checkpoint.parent, checkpoint.parent.parent)]
    settings = next((place for place in places if place.is_file()), None)
    if settings is None:
        raise InputError(
            f"{checkpoint}: no config.yaml of its run beside it; leave checkpoints in the run's "
            "folder, or give a model card"
        )
    config = load_config(file=settings)
    if config.network != SERVED:
        raise InputError(
            f"{checkpoint} is a teacher ({config.network}), which is not exported: train another "
            f"network by it, with --set teacher={checkpoint}"
        )
    return config


def check_wishes(weights: str, formats: Sequence[str], serve: str | None, folder: Path) -> None:
    """Make `folder`. Raises InputError on what cannot be done, before any work."""
    if Path(weights).suffix in CHECKPOINTS:
        _settings_of(Path(weights))
    else:
        _of_card(weights)
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"--formats: no {name!r}: choose from {', '.join(FORMATS)}")
    loaded = [name for name, each in FORMATS.items() if each.runtime == "openvino"]
    if serve is not None and serve not in loaded:
        raise InputError(f"--serve {serve}: the service loads {' or '.join(loaded)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--to {folder}: {error.strerror}; name another folder") from error


def export_variants(
    weights: Weights,
    held: Held,
    calibration: Crops,
    folder: Path,
    formats: Sequence[str],
    serve: str | None = None,
) -> ModelCard:
    """Write the network in `formats` and those of `BASE`, each checked against torch on `held`.

    int8 is calibrated on `calibration`, training faces. The new card, in `folder`, differs from the
    old one in files and variants. `serve` is the format that the service is to load from now on,
    None for the one that it loads. Raises InputError if that lost too much.
    """
    card, network = weights.card, load_network(weights)
    names = [name for name in FORMATS if name in {*BASE, *formats, *([serve] if serve else [])}]
    faces = join((held.folder, held.scenes))
    expected = truth(network, faces, card.input_size, card.temperature)
    written = write_all(
        network, folder, card.name, card.input_size, names, calibration.centres(card.input_size)
    )
    variants = {name: check(name, files, card, expected) for name, files in written.items()}
    served = serve or served_now(card, written)
    _refuse_if_worse(served, variants[served])
    kept = {*BASE, served}
    card = replace(
        card,
        files={
            file: digest
            for name, variant in variants.items()
            if name in kept
            for file, digest in variant.files.items()
        },
        openvino=written[served][0].name,
        variants=variants,
        pictures=failure_sheet(folder, card, written["openvino"][0]),
    )
    save_card(card, folder / f"{card.name}.json")
    return card


def write_all(
    network: nn.Module,
    folder: Path,
    name: str,
    size: int,
    formats: Sequence[str],
    calibration: Image,
) -> dict[str, tuple[Path, ...]]:
    """Each format's files, the one to load first."""
    return {each: write(each, network, folder, name, size, calibration) for each in formats}


def served_now(card: ModelCard, written: Mapping[str, Sequence[Path]]) -> str:
    """The format that the service loads now; plain OpenVINO if that is not written again."""
    names = [name for name, files in written.items() if files[0].name == card.openvino_file]
    return names[0] if names else "openvino"


def _refuse_if_worse(name: str, variant: Variant) -> None:
    if not variant.may_serve:
        raise InputError(
            f"{name} loses {variant.drop:.2f} points of accuracy, more than {MOST_POINTS_LOST}: "
            "serve openvino, or give more data to calibrate on"
        )


def calibration_faces(faces: Faces, seed: int = 0) -> Crops:
    """Some training faces, drawn by lot, to measure the ranges of values for int8 on.

    Raises InputError when there are none.
    """
    if not faces.train:
        raise InputError("int8 needs training faces to calibrate on: give data with a Train part")
    order = np.random.default_rng(seed).permutation(len(faces.train))[:CALIBRATION_FACES]
    crops, _ = crops_of([faces.train[index] for index in order], min_width=12)
    return crops


def _no_crops(size: int) -> Image:
    return np.empty((0, size, size, 3), np.uint8)
