"""Losses that torch does not bring."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import TrainConfig
from trainer.initial import start_network


class FocalLoss(nn.Module):
    """Multi-class focal loss (Lin et al., 2017): -alpha (1 - p)^gamma log p, mean over the batch.

    p is the probability of the true class. At gamma 0 and alpha 1 it is the cross-entropy. Takes
    logits (N x classes) and labels (N, int64). Raises ValueError on alpha not above 0 or gamma
    under 0.
    """

    def __init__(self, alpha: float = 1.0, gamma: float = 2.0) -> None:
        super().__init__()
        if not alpha > 0 or not gamma >= 0:
            raise ValueError(f"alpha must be above 0 and gamma at least 0, not {alpha}, {gamma}")
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        surprise = functional.cross_entropy(logits, labels, reduction="none")
        # 1 - p without the rounding of 1 - exp(-x) near p = 1, where most faces are.
        # Its root of a gamma under 1 has no slope at 0.
        doubt = -torch.expm1(-surprise).clamp_max(-1e-12)
        return self.alpha * (doubt**self.gamma * surprise).mean()


def build_loss(config: TrainConfig) -> nn.Module:
    """The loss that the configuration asks for."""
    if config.loss == "focal":
        return FocalLoss(config.focal_alpha, config.focal_gamma)
    return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)


class Teacher(nn.Module):
    """How far a network's logits are from the teacher's on the same pictures.

    Distillation (Hinton et al., 2015): the cross-entropy against the teacher's probabilities, both
    softened by the temperature, times its square, so that gradients keep their size. Mean over the
    batch; the teacher itself never learns.
    """

    def __init__(self, network: nn.Module, size: int, temperature: float) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.size, self.temperature = size, temperature

    def forward(self, pixels: Tensor, logits: Tensor) -> Tensor:
        """Normalised pictures (N x 3 x H x W) and the learner's logits (N x classes): a scalar."""
        with torch.no_grad():
            seen = functional.interpolate(pixels, self.size, mode="bilinear", align_corners=False)
            wanted = torch.softmax(self.network(seen) / self.temperature, 1)
        return functional.cross_entropy(logits / self.temperature, wanted) * self.temperature**2


def build_teacher(config: TrainConfig) -> Teacher:
    """The teacher that the configuration names. Raises InputError when its weights do not fit."""
    network = start_network(str(config.teacher), "efficientnet_lite0")
    return Teacher(network, config.teacher_size, config.teacher_temperature)
