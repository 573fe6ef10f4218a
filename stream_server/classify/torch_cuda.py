"""The classifier in torch: CUDA graphs by batch size on a GPU, plain fp32 on the CPU.

Importing this module imports torch, which costs seconds and hundreds of MB: only `select` does,
and only when torch is asked for or a GPU is there.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.card import ModelCard
from models.errors import WeightsError
from models.mobilenet_v3 import load_network
from models.registry import Weights
from stream_server.classify.buckets import batches, check_crops
from stream_server.classify.cuda import DTYPES, Run, lane
from stream_server.errors import ModelError
from stream_server.frames import Pixels

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Served(nn.Module):
    """uint8 BGR crops (n, size, size, 3) in, calibrated probabilities (n, labels), float32, out."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: ModelCard, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.temperature = card.temperature
        self.dtype = dtype
        for name, values in (("mean", card.mean), ("std", card.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, crops: Tensor) -> Tensor:
        # A permuted NHWC tensor is channels-last already.
        rgb = crops.permute(0, 3, 1, 2).flip(1).float()
        normalised = ((rgb - self.mean) / self.std).to(self.dtype)
        logits: Tensor = self.network(normalised.contiguous(memory_format=torch.channels_last))
        return torch.softmax(logits.float() / self.temperature, 1)


class TorchClassifier:
    """`FaceClassifier` in torch.

    `device` is "cpu", "cuda" or "cuda:N"; `precision` "fp32", "fp16", "bf16" or "auto" (fp16 on
    CUDA; the CPU takes fp32 only). Raises ModelError when the weights do not fit, the device or
    the precision is not to be had, or the GPU has no room for a single crop.
    """

    name = "torch"

    def __init__(self, weights: Weights, *, device: str = "cuda", precision: str = "auto") -> None:
        self._card = weights.card
        self._lane = lane(device)
        on_gpu = self._lane.device.type == "cuda"
        self.precision = ("fp16" if on_gpu else "fp32") if precision == "auto" else precision
        if self.precision not in (DTYPES if on_gpu else ("fp32",)):
            raise ModelError(
                f"torch on {device} cannot run precision {precision!r}: set it to auto or fp32"
            )
        self._served = served(weights, self._lane.device, DTYPES[self.precision])
        self._runs = prepare(self._prepared, BUCKETS)
        self._buckets = tuple(self._runs)
        self.device = torch.cuda.get_device_name(self._lane.device) if on_gpu else "CPU"

    @property
    def labels(self) -> Sequence[str]:
        return self._card.labels

    @property
    def input_size(self) -> int:
        return self._card.input_size

    def classify(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Calibrated probabilities (n, labels) for BGR uint8 crops (n, size, size, 3)."""
        check_crops(crops, self.input_size)
        rows = np.empty((len(crops), len(self.labels)), np.float32)
        for start, stop, bucket in batches(len(crops), self._buckets):
            rows[start:stop] = self._runs[bucket](crops[start:stop])
        return rows

    def _prepared(self, bucket: int) -> Run:
        return self._lane.prepare(self._served, (bucket, self.input_size, self.input_size, 3))


def served(weights: Weights, device: torch.device, dtype: torch.dtype) -> Served:
    """The network between pre-processing and softmax. Raises ModelError for broken weights."""
    try:
        network = load_network(weights)
    except WeightsError as error:
        raise ModelError(str(error)) from error
    network = network.to(device, dtype).to(memory_format=torch.channels_last)
    return Served(network, weights.card, dtype).to(device).eval()


def prepare(prepared: Callable[[int], Run], buckets: Sequence[int]) -> dict[int, Run]:
    """Runs by bucket, as many as the GPU's memory takes, smallest first.

    Raises ModelError when not even the smallest fits.
    """
    runs: dict[int, Run] = {}
    for bucket in buckets:
        try:
            runs[bucket] = prepared(bucket)
        except torch.OutOfMemoryError as error:
            if not runs:
                raise ModelError(
                    "the GPU has no memory left for the classifier: free some, or set "
                    "classifier.runtime to openvino"
                ) from error
            break
    return runs
