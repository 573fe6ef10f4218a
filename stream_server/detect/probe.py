"""The child process that tries a precision: `python -m stream_server.detect.probe PRECISION`.

Prints one line of JSON, or dies of the illegal instruction that its parent was spared.
"""

import json
import sys
import time

import numpy as np
import openvino as ov

from stream_server.detect.centerface import HINTS, Network, read_model
from stream_server.detect.samples import difference, sample_pictures
from stream_server.frames import Pixels

# Sizes of common streams, and the least: other kernels may be picked for each.
SIZES = ((640, 352), (416, 320), (640, 640), (32, 32))
ROUNDS = 9


def main(precision: str) -> None:
    """Compare `precision` with fp32, in scores and sizes and in speed."""
    core = ov.Core()
    model = read_model(core)
    strayed = 0.0
    milliseconds = [0.0, 0.0]
    for width, height in SIZES:
        networks = [
            Network(core, model, width, height, {"INFERENCE_PRECISION_HINT": HINTS[name]})
            for name in ("fp32", precision)
        ]
        for picture in sample_pictures(width, height):
            fp32, other = (network.infer(picture) for network in networks)
            # NaN must not be lost, as the built-in max would.
            strayed = float(np.maximum(strayed, difference(*fp32[:2], *other[:2])))
        if (width, height) == SIZES[0]:
            milliseconds = _medians(networks, picture)
    found = {"difference": strayed, "fp32_ms": milliseconds[0], "other_ms": milliseconds[1]}
    sys.stdout.write(json.dumps(found) + "\n")


def _medians(networks: list[Network], picture: Pixels) -> list[float]:
    """Median ms of a run of each, in turns."""
    seconds = np.empty((ROUNDS, len(networks)))
    for turn in range(ROUNDS):
        for index, network in enumerate(networks):
            started = time.perf_counter()
            network.infer(picture)
            seconds[turn, index] = time.perf_counter() - started
    medians: list[float] = (1e3 * np.median(seconds, axis=0)).round(2).tolist()
    return medians


if __name__ == "__main__":
    main(*sys.argv[1:])
