"""One training run, from data sets to weights with a card; `maskstream train` calls it.

Its folder holds config.yaml, metrics.csv, tensorboard/, checkpoints/ and, at the end, NAME.pt,
curves.png and the exported files.
"""

import csv
import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from models.card import ModelCard
from models.mobilenet_v3 import build_network
from trainer.config import ConfigError, TrainConfig, load_config, to_yaml
from trainer.data import Crops
from trainer.export import export
from trainer.initial import NETWORKS, SERVED, file_state, start_network
from trainer.module import Average, FaceData, MaskModule
from trainer.plots import curves
from trainer.sets import Held, calm_opencv, read_faces, read_held, read_pools

MACHINE = ("threads", "workers")
"""Settings that may change between a kill and a resume; of threads, the last digits may too."""


def run(
    data: Sequence[Path],
    config: TrainConfig,
    out: Path,
    name: str,
    *,
    resume: bool = False,
    limit: timedelta | None = None,
) -> ModelCard | None:
    """Read, train, calibrate, export, measure; the card is written beside the weights.

    A teacher is only trained and saved: None. Raises InputError when data or settings cannot work.
    """
    faces = read_faces(data)
    MaskModule(start_network(config.init, config.network), config, 1, {})  # fails before reading
    open_run(out, config, resume=resume)
    print("reading faces and painting masks takes minutes", flush=True)
    held = read_held(faces)
    pools = read_pools(faces, held, config)
    sources = {source: len(crops) for source, crops in pools.items()}
    shown = ", ".join(f"{source} {count}" for source, count in sources.items())
    print(f"training faces: {shown}", flush=True)
    finished = out / f"{name}.pt"
    if not finished.exists():
        torch.save(fit(pools, held, config, out, limit=limit).state_dict(), finished)
    if config.network != SERVED:
        print(f"wrote {finished}: a teacher, for --set teacher={finished}")
        return None
    network = build_network()
    network.load_state_dict(file_state(finished))
    card = export(
        network.eval(), held, config, out, name, sources, data=data, report_test=config.report_test
    )
    curves(out / "metrics.csv", out / "curves.png")
    print_report(card, out)
    return card


def fit(
    pools: Mapping[str, Crops],
    held: Held,
    config: TrainConfig,
    out: Path,
    *,
    limit: timedelta | None = None,
) -> nn.Module:
    """The trained network, in eval mode, on the CPU; goes on where `out` has a checkpoint."""
    prepare(config)
    faces = FaceData(pools, held, config)
    trainer = build_trainer(config, out, limit)
    network = start_network(config.init, config.network)
    module = MaskModule(network, config, faces.steps(trainer.world_size), faces.sets)
    last, best = out / "checkpoints" / "last.ckpt", out / "checkpoints" / "best.ckpt"
    trainer.fit(module, faces, ckpt_path=last if last.exists() else None)
    kept = NETWORKS[config.network]()
    # From the file: there the averaged weights stand, also when nothing was left to train.
    kept.load_state_dict(file_state(last if config.select == "last" else best))
    return kept.eval()


def prepare(config: TrainConfig) -> None:
    """Seed and threads of this process; silence about what is meant to be as it is."""
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    calm_opencv()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for words in ("many workers", "LeafSpec", "is not empty", "logging interval", "save_dir"):
        warnings.filterwarnings("ignore", f".*{words}")


def build_trainer(config: TrainConfig, out: Path, limit: timedelta | None) -> Trainer:
    """Lightning's Trainer with all that watches, stops and saves this run."""
    gpu = torch.cuda.is_available()
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"
    return Trainer(
        accelerator="auto",
        devices="auto" if gpu else 1,
        precision=precision,
        max_epochs=config.epochs,
        max_time=limit,
        gradient_clip_val=config.clip,
        # No kernel on the CPU varies; the mode costs time there.
        deterministic="warn" if gpu else False,
        callbacks=build_callbacks(config, out),
        logger=TensorBoardLogger(out, name="tensorboard", version=""),
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=100,
        use_distributed_sampler=False,
    )


def build_callbacks(config: TrainConfig, out: Path) -> list[Callback]:
    """What happens beside the steps; checkpoints come last, so that they hold the others' state."""
    saved: dict[str, Any] = {
        "dirpath": out / "checkpoints",
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
    }
    monitor = "val_accuracy" if config.select == "last" else config.select
    found: list[Callback] = [History(out / "metrics.csv", config)]
    if config.ema_decay is not None:
        found.append(Average(config.ema_decay))
    if config.patience is not None:
        found.append(EarlyStopping("val_accuracy", mode="max", patience=config.patience))
    if sys.stderr.isatty():
        found.append(TQDMProgressBar(refresh_rate=10))
    return [
        *found,
        LearningRateMonitor("epoch"),
        ModelCheckpoint(filename="best", monitor=monitor, mode="max", **saved),
        ModelCheckpoint(filename="last", **saved),
    ]


class History(Callback):
    """One line an epoch, on standard output and in a CSV file; a restart rewinds the file."""

    def __init__(self, path: Path, config: TrainConfig) -> None:
        self._path, self._config = path, config
        self._rows: list[dict[str, float]] = []
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """All lines so far."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The lines up to the checkpoint."""
        self._rows = list(state_dict["rows"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: the rate is that of training alone."""
        seconds = time.monotonic() - self._started
        faces = trainer.num_training_batches * self._config.batch * trainer.world_size
        self._rate = faces / seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was measured."""
        metrics = {key: float(value) for key, value in sorted(trainer.callback_metrics.items())}
        place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self._rows.append({**place, **metrics, "faces_per_second": self._rate})
        if not trainer.is_global_zero:
            return
        figures = {key: value for key, value in metrics.items() if not key.startswith("lr-")}
        shown = " ".join(f"{key} {value:.4f}" for key, value in figures.items())
        size = self._config.size_at(trainer.current_epoch)
        print(
            f"epoch {trainer.current_epoch + 1}/{self._config.epochs} {size} px {shown} "
            f"{self._rate:.0f} faces/s",
            flush=True,
        )
        with self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self._rows[0]))
            writer.writeheader()
            writer.writerows(self._rows)


def open_run(out: Path, config: TrainConfig, *, resume: bool) -> None:
    """Make the run's folder and write its settings there.

    Raises ConfigError where a run stands there already and is not to be resumed, where there is
    none to resume, or where its settings are others.
    """
    if not resume:
        if (out / "checkpoints").exists():
            raise ConfigError(f"{out} holds a run: go on with --resume, or give another --out")
        make_folder(out)
        (out / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        return
    before, now = asdict(read_run(out)), asdict(config)
    other = [key for key in now if key not in MACHINE and before[key] != now[key]]
    if other:
        key = other[0]
        raise ConfigError(
            f"{key} is {before[key]} in the run at {out} and {now[key]} now: leave it out, or "
            "start another run by another --out"
        )


def read_run(out: Path) -> TrainConfig:
    """The settings of the run in `out`. Raises ConfigError when there is none."""
    kept = out / "config.yaml"
    if not kept.is_file():
        raise ConfigError(f"{out} holds no run to resume: leave --resume out to start one")
    return load_config(file=kept)


def make_folder(out: Path) -> None:
    """Raises ConfigError when nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from error
    if not os.access(out, os.W_OK):
        raise ConfigError(f"--out {out}: nothing can be written there")


def print_report(card: ModelCard, out: Path) -> None:
    """The card's figures, set by set."""
    wanted = ("faces", "accuracy", "two_class_accuracy", "macro_f1", "recall_incorrect", "ece")
    for title, figures in card.figures.items():
        if isinstance(figures, Mapping) and "accuracy" in figures:
            found = {key: figures[key] for key in wanted if figures.get(key) is not None}
            shown = ", ".join(
                f"{key.replace('_', ' ')} {value:.4f}"
                if isinstance(value, float)
                else f"{key} {value}"
                for key, value in found.items()
            )
            print(f"{title}: {shown}")
    print(f"wrote {out / card.name}.json")
