"""From a trained network to shipped files: calibrated, exported, measured, described by a card."""

import shlex
import subprocess
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from safetensors.torch import save
from torch import nn

from models import LABELS
from models.card import ModelCard, save_card
from models.mobilenet_v3 import load_network
from models.registry import Weights, sha256
from trainer.config import TrainConfig
from trainer.data import MARGIN, Crops, join
from trainer.evaluate import (
    choose_threshold,
    figures,
    fit_temperature,
    openvino_predictor,
    predict_torch,
    risk_coverage,
    softmax,
)
from trainer.sets import MEAN, STD, Held

DATA = (
    "Face Mask 12K Images Dataset (Kaggle, ashishjangra27; CC0): Train part for training, "
    "Validation part for calibration, Test part for information only: nothing was chosen on it.",
    "Face Mask Detection (Kaggle, andrewmvd; CC0): Pascal VOC street scenes, split by picture; "
    "faces of 12 px and wider.",
    "Masks painted by models/mask_painter.py, and masks lent from masked training faces, on "
    "unmasked training faces of both sets.",
)


def write_files(network: nn.Module, folder: Path, name: str, size: int) -> dict[str, str]:
    """Write NAME.safetensors (fp16), NAME.xml and NAME.bin; return their SHA-256 by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {
        key: value.detach().half().contiguous() if value.is_floating_point() else value.clone()
        for key, value in network.state_dict().items()
    }
    (folder / f"{name}.safetensors").write_bytes(save(half))
    # The IR is made of the rounded weights, so that both files hold the same network.
    network.load_state_dict({key: value.float() for key, value in half.items()})
    example = torch.zeros(2, 3, size, size)
    model = ov.convert_model(network.eval(), example_input=example, input=[-1, 3, size, size])
    ov.save_model(model, folder / f"{name}.xml", compress_to_fp16=True)
    written = (f"{name}.safetensors", f"{name}.xml", f"{name}.bin")
    return {file: sha256(folder / file) for file in written}


LIMITATIONS = (
    "A first version: trained from scratch (no ImageNet weights were reachable) on 120 thousand "
    "views by two shared CPU cores; its loss was still falling when the run ended.",
    "Few real faces wear a mask incorrectly (66 in the data); the class is learnt mostly from "
    "painted ones, its recall is the weakest figure, and its interval is wide.",
    "Near-identical pictures were removed from training, but the 12K set holds copies augmented "
    "beforehand that no hash finds: its figures flatter. The street scenes are the better guide.",
    "Side faces, faces under 24 px, hands, scarves, beards and cups before the mouth are hardly "
    "represented. Temperature and threshold were fitted on the validation faces reported here.",
    "Not fit for identifying people or for decisions about them without a person's review.",
)


def export(
    network: nn.Module,
    held: Held,
    config: TrainConfig,
    folder: Path,
    name: str,
    sources: dict[str, int],
    *,
    report_test: bool = False,
) -> ModelCard:
    """Write files, card and its Markdown twin into `folder`; every figure is of these files.

    The 12K Test part is measured only if `report_test` is true: once, when all is decided.
    """
    files = write_files(network, folder, name, config.size)
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
        files=files,
        preset=config.preset,
        seed=config.seed,
        commit=commit(),
        command=command(config, name, report_test=report_test),
        data=(*DATA, "Training faces: " + ", ".join(f"{k} {v}" for k, v in sources.items())),
        limitations=LIMITATIONS,
        figures={"settings": asdict(config)},
    )
    weights = Weights(card, folder / f"{name}.safetensors", folder / f"{name}.xml")
    measured = measure(weights, held, report_test=report_test)
    measured["risk and coverage by threshold"] = {
        f"{threshold:.2f}": {"coverage": coverage, "risk": risk}
        for threshold, coverage, risk in curve[1::5]
    }
    card = replace(card, figures={**measured, "settings": asdict(config)})
    save_card(card, folder / f"{name}.json")
    return card


def measure(weights: Weights, held: Held, *, report_test: bool) -> dict[str, Any]:
    """All figures of the card, by the OpenVINO files; torch is compared on the validation faces."""
    card = weights.card
    predict = openvino_predictor(weights.openvino_path)
    network = load_network(weights)
    large = held.scenes.where(held.scenes.width >= 24)
    sets: dict[str, Crops] = {
        "12K Validation": held.folder,
        "street scenes, validation, faces of 24 px and wider": large,
        "street scenes, validation, all faces": held.scenes,
    }
    if report_test:
        sets["12K Test (for information; nothing was chosen on it)"] = held.test
    found: dict[str, Any] = {}
    gap = 0.0
    for title, crops in sets.items():
        images = crops.centres(card.input_size)
        logits = predict(images)
        other = softmax(predict_torch(network, images), card.temperature)
        gap = max(gap, float(np.abs(softmax(logits, card.temperature) - other).max()))
        found[title] = figures(crops, logits, card.temperature, card.uncertain_below)
    found["largest difference of a probability, torch against OpenVINO"] = gap
    return found


def command(config: TrainConfig, name: str, *, report_test: bool = False) -> str:
    """The command that makes these weights again; the data's places are left to the reader."""
    words = ["python", "-m", "trainer.train", "--faces12k", "FACES12K", "--voc", "VOC"]
    words += ["--out", "OUT", "--name", name]
    standard = TrainConfig()
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, int | float) and value != getattr(standard, entry.name):
            words += ["--" + entry.name.replace("_", "-"), str(value)]
    words += ["--report-test"] if report_test else []
    return shlex.join(words)


def commit() -> str:
    """The commit of this code, or "unknown" outside a git checkout."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
