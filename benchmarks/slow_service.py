"""`maskstream` with models that take several times as long: `python -m benchmarks.slow_service
FACTOR serve …`.

The composition root builds the service from ports; here it is given a detector and a classifier
that wrap its own and wait, as the peers' do (`peers.model.Slowly`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.peers.model import Slowly
from models.card import ModelCard
from stream_server import app, cli
from stream_server.classify.select import Selected
from stream_server.frames import FaceBox, Picture, Pixels
from stream_server.ports import FaceClassifier, FaceDetector
from stream_server.settings import Settings

Loaded = tuple[FaceDetector, str, Selected, ModelCard]


@dataclass(frozen=True, slots=True)
class SlowDetector:
    """`FaceDetector` that takes its time."""

    inner: FaceDetector
    slowly: Slowly

    @property
    def name(self) -> str:
        return self.inner.name

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        """What the inner one finds, late."""
        return self.slowly(scale, lambda: self.inner.detect(picture, scale))


@dataclass(frozen=True, slots=True)
class SlowClassifier:
    """`FaceClassifier` that takes its time."""

    inner: FaceClassifier
    slowly: Slowly

    @property
    def labels(self) -> Sequence[str]:
        return self.inner.labels

    @property
    def input_size(self) -> int:
        return self.inner.input_size

    def classify(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """What the inner one says, late."""
        return self.slowly(len(crops), lambda: self.inner.classify(crops))


def slowed(load: Callable[[Settings], Loaded], factor: float) -> Callable[[Settings], Loaded]:
    """`load` with the models it gives made slow."""

    def load_slow(settings: Settings) -> Loaded:
        detector, reason, selected, card = load(settings)
        classifier = SlowClassifier(selected.classifier, Slowly(factor))
        return (
            SlowDetector(detector, Slowly(factor)),
            reason,
            replace(selected, classifier=classifier),
            card,
        )

    return load_slow


if __name__ == "__main__":
    setattr(app, "load_models", slowed(app.load_models, float(sys.argv[1])))  # noqa: B010
    sys.exit(cli.run(sys.argv[2:]))
