"""Every number a training run depends on, in one typed place."""

from dataclasses import dataclass, fields


class ConfigError(ValueError):
    """A training setting that cannot work; the message names it and what it may be."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How the faces of one epoch are drawn: shares of each source, adding up to 1."""

    folder_with: float = 0.24
    scene_with: float = 0.11
    painted_with: float = 0.05
    folder_without: float = 0.24
    scene_without: float = 0.06
    scene_incorrect: float = 0.045
    painted_incorrect: float = 0.255

    def __post_init__(self) -> None:
        """Raise ConfigError unless the shares are a distribution."""
        values = [getattr(self, f.name) for f in fields(self)]
        if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
            raise ConfigError(f"shares must be 0 or more and add up to 1, not {sum(values)}")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run. `small_size` pixels are used for the first `small_epochs` epochs."""

    preset: str = "best"
    epochs: int = 12
    small_epochs: int = 9
    size: int = 96
    small_size: int = 64
    faces_per_epoch: int = 10_000
    painted: int = 10_000
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    ema_decay: float = 0.995
    seed: int = 7
    threads: int = 2
    workers: int = 1
    shares: Shares = Shares()

    def __post_init__(self) -> None:
        """Raise ConfigError on a number that cannot work."""
        for name in ("epochs", "batch", "threads", "faces_per_epoch", "painted"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("size", "small_size"):
            if not 32 <= getattr(self, name) <= 512:
                raise ConfigError(f"{name} must be within 32..512, not {getattr(self, name)}")
        if not 0 <= self.small_epochs <= self.epochs:
            raise ConfigError(f"small_epochs must be within 0..{self.epochs}")
        if not 0 < self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be between 0 and 1, not {self.ema_decay}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be within 0..1, not {self.label_smoothing}")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.workers < 0 or self.weight_decay < 0:
            raise ConfigError("workers and weight_decay must not be negative")

    def size_at(self, epoch: int) -> int:
        """The crop's side in pixels in the given epoch, from 0."""
        return self.small_size if epoch < self.small_epochs else self.size

    def steps_per_epoch(self) -> int:
        """Whole batches in one epoch."""
        return max(1, self.faces_per_epoch // self.batch)
