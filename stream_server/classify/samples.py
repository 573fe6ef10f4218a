"""Crops to compare runtimes and precisions by, where no picture of a face may be shipped."""

import cv2
import numpy as np

from stream_server.frames import Pixels

# Flat colours and ever finer random fields. Noise alone would not do: a network is as sure of one
# noise as of another, so that a constant would pass for the right answer.
FIELDS = (1, 1, 2, 3, 4, 6, 8, 16)


def sample_crops(size: int, each: int) -> Pixels:
    """The same (8 * each, size, size, 3) uint8 crops every time, `each` of a kind."""
    random = np.random.default_rng(0)
    fields = [random.integers(0, 256, (k, k, 3), np.uint8) for k in FIELDS for _ in range(each)]
    crops = [cv2.resize(f, (size, size), interpolation=cv2.INTER_CUBIC) for f in fields]
    return np.stack(crops).astype(np.uint8)
