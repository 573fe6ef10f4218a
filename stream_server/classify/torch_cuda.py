"""The classifier in torch: CUDA graphs by batch size on a GPU, plain fp32 on the CPU.

Importing this module imports torch, which costs seconds and hundreds of MB: only `select` does,
and only when torch is asked for or a GPU is there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.card import ModelCard
from models.errors import WeightsError
from models.mobilenet_v3 import load_network
from models.registry import Weights
from stream_server.classify.buckets import batches, check_crops
from stream_server.errors import ModelError
from stream_server.frames import Pixels

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Probabilities = npt.NDArray[np.float32]
Run = Callable[[Pixels], Probabilities]


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
        self._device = _device(device)
        on_gpu = self._device.type == "cuda"
        self.precision = ("fp16" if on_gpu else "fp32") if precision == "auto" else precision
        if self.precision not in (DTYPES if on_gpu else ("fp32",)):
            raise ModelError(
                f"torch on {device} cannot run precision {precision!r}: set it to auto or fp32"
            )
        try:
            network = load_network(weights)
        except WeightsError as error:
            raise ModelError(str(error)) from error
        dtype = DTYPES[self.precision]
        network = network.to(self._device, dtype).to(memory_format=torch.channels_last)
        self._served = Served(network, weights.card, dtype).to(self._device).eval()
        self._runs = (
            prepare(self._capture, BUCKETS) if on_gpu else dict.fromkeys(BUCKETS, self._plain)
        )
        self._buckets = tuple(self._runs)
        self.device = torch.cuda.get_device_name(self._device) if on_gpu else "CPU"

    @property
    def labels(self) -> Sequence[str]:
        return self._card.labels

    @property
    def input_size(self) -> int:
        return self._card.input_size

    def gpu_memory(self) -> float:
        """Bytes of GPU memory that torch holds for this process; 0 on the CPU."""
        if self._device.type != "cuda":
            return 0.0
        return float(torch.cuda.memory_reserved(self._device))

    def classify(self, crops: Pixels) -> Probabilities:
        """Calibrated probabilities (n, labels) for BGR uint8 crops (n, size, size, 3)."""
        check_crops(crops, self.input_size)
        rows = np.empty((len(crops), len(self.labels)), np.float32)
        for start, stop, bucket in batches(len(crops), self._buckets):
            rows[start:stop] = self._runs[bucket](crops[start:stop])
        return rows

    def _plain(self, crops: Pixels) -> Probabilities:
        with torch.inference_mode():
            # A copy: torch warns of arrays that must not be written to.
            return np.asarray(self._served(torch.tensor(crops)).numpy(), np.float32)

    def _capture(self, bucket: int) -> Run:
        return _graph(self._served, self._device, bucket, self.input_size)


def prepare(capture: Callable[[int], Run], buckets: Sequence[int]) -> dict[int, Run]:
    """Captured runs by bucket, as many as the GPU's memory takes, smallest first.

    Raises ModelError when not even the smallest fits.
    """
    runs: dict[int, Run] = {}
    for bucket in buckets:
        try:
            runs[bucket] = capture(bucket)
        except torch.OutOfMemoryError as error:
            if not runs:
                raise ModelError(
                    "the GPU has no memory left for the classifier: free some, or set "
                    "classifier.runtime to openvino"
                ) from error
            break
    return runs


def _device(name: str) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelError(f"torch finds no CUDA GPU for device {name!r}: set it to auto or cpu")
    device = torch.device(name if ":" in name else "cuda:0")
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"there is no {name}: torch finds {torch.cuda.device_count()} GPU(s)")
    return device


def _graph(served: Served, device: torch.device, bucket: int, size: int) -> Run:
    """One CUDA graph for `bucket` crops on a stream of its own: copy in, run, copy out."""
    pinned = torch.zeros((bucket, size, size, 3), dtype=torch.uint8, pin_memory=True)
    staged = pinned.to(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.inference_mode(), torch.cuda.device(device):
        with torch.cuda.stream(stream):
            # Kernels are chosen and workspaces taken before capture, which forbids both.
            for _ in range(3):
                probabilities = served(staged)
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            probabilities = served(staged)
    answer = torch.empty(probabilities.shape, dtype=torch.float32, pin_memory=True)
    into: npt.NDArray[Any] = pinned.numpy()

    def run(crops: Pixels) -> Probabilities:
        # Rows after the last crop keep what an earlier batch left; nobody reads their answers.
        into[: len(crops)] = crops
        with torch.cuda.stream(stream):
            staged.copy_(pinned, non_blocking=True)
            graph.replay()
            answer.copy_(probabilities, non_blocking=True)
        stream.synchronize()
        return np.asarray(answer.numpy()[: len(crops)]).copy()

    return run
