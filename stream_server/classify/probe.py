"""The child process of `trial.py`: `python -m stream_server.classify.probe CARD PRECISION`.

Prints one line of JSON, or dies of the illegal instruction that its parent was spared.
"""

import json
import sys
import time

import numpy as np
import numpy.typing as npt
import openvino as ov

from models.registry import resolve
from stream_server.classify.openvino import compile_network
from stream_server.classify.samples import sample_crops
from stream_server.frames import Pixels

TIMED = 8
ROUNDS = 15
EACH = 32


def main(card: str, precision: str) -> None:
    """Compare `precision` with fp32, in answers and in speed."""
    weights = resolve(card)
    crops = sample_crops(weights.card.input_size, EACH)
    requests = [
        compile_network(ov.Core(), weights, name, 0).create_infer_request()
        for name in ("fp32", precision)
    ]
    fp32_rows, rows = (_classify(request, crops) for request in requests)
    seconds = [[_seconds(request, crops[:TIMED]) for request in requests] for _ in range(ROUNDS)]
    fp32_ms, other_ms = (1e3 * np.median(seconds, axis=0)).round(2).tolist()
    difference = float(np.abs(rows - fp32_rows).max())
    found = {"difference": difference, "fp32_ms": fp32_ms, "other_ms": other_ms}
    sys.stdout.write(json.dumps(found) + "\n")


def _classify(request: ov.InferRequest, crops: Pixels) -> npt.NDArray[np.float32]:
    rows = []
    for start in range(0, len(crops), EACH):
        request.infer([crops[start : start + EACH]])
        rows.append(request.get_output_tensor(0).data.copy())
    return np.concatenate(rows)


def _seconds(request: ov.InferRequest, crops: Pixels) -> float:
    started = time.perf_counter()
    request.infer([crops])
    return time.perf_counter() - started


if __name__ == "__main__":
    main(*sys.argv[1:])
