"""Several classifiers as one: each batch goes to a replica that is free."""

from collections.abc import Sequence
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from stream_server.frames import Pixels
from stream_server.ports import FaceClassifier


class Replicas:
    """`FaceClassifier` that as many threads may call at once as there are replicas.

    More threads wait. Each replica is called by one at a time, whichever has rested longest.
    All must have the same labels and input size.
    """

    def __init__(self, replicas: Sequence[FaceClassifier]) -> None:
        self.labels = replicas[0].labels
        self.input_size = replicas[0].input_size
        self._idle: SimpleQueue[FaceClassifier] = SimpleQueue()
        for replica in replicas:
            self._idle.put(replica)

    def classify(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Calibrated probabilities (n, labels) for BGR uint8 crops (n, size, size, 3)."""
        replica = self._idle.get()
        try:
            return replica.classify(crops)
        finally:
            self._idle.put(replica)
