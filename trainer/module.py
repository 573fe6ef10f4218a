"""One step of training and of validation, as Lightning wants them; the data it walks through."""

import os
from collections.abc import Mapping
from typing import cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassRecall

from models import LABELS
from trainer.config import TrainConfig
from trainer.data import INCORRECT, Crops
from trainer.losses import build_loss, build_teacher
from trainer.sets import Held, Order, Stills, Views, calm_opencv, normalise

Batch = tuple[Tensor, Tensor]


class MaskModule(LightningModule):
    """Learns from batches of RGB (N x H x W x 3, uint8) and labels (N, int64).

    `sets` names the validation sets, in the order of their loaders, with the classes each has;
    `steps` is the number of batches in an epoch. Logs train_loss, train_accuracy, val_loss,
    val_accuracy, val_macro_f1, val_SET_accuracy and, of sets that have all classes,
    val_SET_macro_f1 and val_SET_recall_incorrect.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, steps: int, sets: Mapping[str, set[int]]
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self._config, self._steps, self._sets = config, steps, tuple(sets)
        self._loss = build_loss(config)
        # In a tuple: no part of what is trained, averaged or saved.
        self._teacher = (build_teacher(config),) if config.teacher else ()
        self._train_accuracy = MulticlassAccuracy(len(LABELS), average="micro")
        self._val_loss = MeanMetric()
        classes = {"all": set[int]().union(*sets.values()), **sets}
        self._val = nn.ModuleDict({name: _metrics(found) for name, found in classes.items()})
        if config.freeze_features:
            network.get_submodule("features").requires_grad_(False)
        else:
            follow_statistics(network)

    def train(self, mode: bool = True) -> "MaskModule":
        """As torch's; frozen features keep their statistics."""
        super().train(mode)
        if self._config.freeze_features:
            self.network.get_submodule("features").eval()
        return self

    def on_fit_start(self) -> None:
        """Bring the teacher to where the network is."""
        for teacher in self._teacher:
            teacher.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout too follows from the seed and the place in the run alone."""
        place = self.global_step * self.trainer.world_size + self.global_rank
        torch.manual_seed((self._config.seed << 32) + place)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        pixels = normalise(images)
        logits = self.network(pixels)
        loss: Tensor = self._loss(logits, labels)
        for teacher in self._teacher:
            share = self._config.teacher_share
            loss = (1 - share) * loss + share * teacher(pixels, logits)
        self._train_accuracy(logits, labels)
        self.log_dict(
            {"train_loss": loss.detach(), "train_accuracy": self._train_accuracy},
            on_step=False,
            on_epoch=True,
            batch_size=len(labels),
        )
        return loss

    def validation_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Count the answers on one batch of held faces."""
        images, labels = batch
        logits = self.network(normalise(images))
        self._val_loss.update(self._loss(logits, labels), weight=len(labels))
        for name in ("all", self._sets[dataloader_idx]):
            cast("MetricCollection", self._val[name]).update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of all held faces, and of each set."""
        figures = {"val_loss": self._val_loss.compute()}
        self._val_loss.reset()
        for name, counted in self._val.items():
            metrics = cast("MetricCollection", counted)
            prefix = "val_" if name == "all" else f"val_{name}_"
            figures |= {prefix + key: value for key, value in metrics.compute().items()}
            metrics.reset()
        self.log_dict(figures)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and the schedule of the configuration."""
        config = self._config
        groups = parameter_groups(self.network, config.weight_decay)
        optimiser = AdamW(groups, lr=config.learning_rate, fused=True)
        schedule = build_schedule(optimiser, config, config.epochs * self._steps)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def build_schedule(optimiser: Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """The learning rate over all `steps` of the run."""
    if config.schedule == "one_cycle":
        return OneCycleLR(optimiser, config.learning_rate, total_steps=steps, pct_start=0.2)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimiser, steps)
    return ConstantLR(optimiser, factor=1.0)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """What is learnt: weights decay, biases and normalisation do not."""
    learnt = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return groups


def follow_statistics(network: nn.Module, momentum: float = 0.1) -> None:
    """Let normalisation follow its batches; torchvision's 0.01 is meant for far longer runs."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


def _metrics(classes: set[int]) -> MetricCollection:
    """Where a class is missing, its F1 and recall would be 0 for want of faces."""
    every = len(LABELS)
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(every, average="micro")
    }
    if len(classes) == every:
        metrics["macro_f1"] = MulticlassF1Score(every, average="macro")
        metrics["recall_incorrect"] = IncorrectRecall(every, average="none")
    return MetricCollection(metrics)


class IncorrectRecall(MulticlassRecall):
    """The share of the faces that wear their mask incorrectly which were found."""

    def compute(self) -> Tensor:
        """One number within 0..1."""
        recalls: Tensor = super().compute()
        return recalls[INCORRECT]


class Average(WeightAveraging):
    """Exponential moving average of weights and statistics; validated and saved in their place.

    The decay rises to its limit over the first steps: the random start would linger for hundreds.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
            if not averaged[0].is_floating_point():
                torch._foreach_copy_(averaged, current)
                return
            seen = int(count)
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + seen) / (10 + seen)))

        super().__init__(multi_avg_fn=average)


class FaceData(LightningDataModule):
    """The loaders of one run: augmented training faces, held faces as the server sees them.

    `steps` is the number of batches in an epoch, `sets` the validation sets and their classes.
    """

    def __init__(self, pools: Mapping[str, Crops], held: Held, config: TrainConfig) -> None:
        super().__init__()
        self._pools, self._config = pools, config
        self._choosing = held.choosing()
        self._sizes = {name: len(crops) for name, crops in pools.items()}
        self.sets = {name: set(crops.labels.tolist()) for name, crops in self._choosing.items()}

    def steps(self, world: int = 1) -> int:
        """Batches in an epoch for each of `world` processes."""
        return len(Order(self._sizes, self._config, world=world))

    def train_dataloader(self) -> DataLoader[Batch]:
        """The training batches; Lightning tells `Order` the epoch."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        workers = self._config.workers
        if workers is None:
            workers = max(1, len(os.sched_getaffinity(0)) // 2)
        return DataLoader(
            Views(self._pools, self._config),
            sampler=Order(self._sizes, self._config, rank, world),
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=calm_opencv,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The held faces, set by set."""
        sets = [Stills(crops, self._config) for crops in self._choosing.values()]
        return [DataLoader(s, sampler=s, batch_size=None) for s in sets]
