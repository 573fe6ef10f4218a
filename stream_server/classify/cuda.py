"""Where torch runs a network: every CUDA call of the service, and its stand-in on the CPU.

A `Lane` is one CUDA stream with its own buffers and CUDA graphs. A GPU has two of them: while one
computes, the other copies. A lane is used by one thread at a time; lanes share nothing.

Importing this module imports torch, which costs seconds and hundreds of MB.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stream_server.errors import ModelError
from stream_server.frames import Pixels

LANES_PER_GPU = 2
"""One copies while the other computes; a third would only add waiting on the same two engines."""
WARM_UPS = 3
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Floats = npt.NDArray[np.float32]
Run = Callable[[Iterable[Pixels]], Floats]
"""Up to as many uint8 pictures as it was prepared for in, a float32 row for each out."""

# CUDA allows captures side by side; torch's set-up of them (it frees the cache) is not made for it.
_capturing = threading.Lock()


class Lane(Protocol):
    """Prepares networks for one batch size each, and runs them one after the other."""

    @property
    def device(self) -> torch.device: ...

    def prepare(self, network: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Run:
        """A run of `network`, uint8 of `shape` (n, ...) in and rows (n, ...) out.

        The network must lie on the lane's device. Raises torch.OutOfMemoryError.
        """


class CpuLane:
    """Runs networks on the CPU as they are."""

    device = torch.device("cpu")

    def prepare(self, network: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Run:
        """A run of any batch size; `shape` is not needed."""

        def run(pictures: Iterable[Pixels]) -> Floats:
            with torch.inference_mode():
                return network(torch.from_numpy(np.stack(list(pictures)))).float().numpy()

        return run


class CudaLane:
    """One CUDA stream: each run is one copy in, one graph, one copy out.

    The lane's graphs share their memory, which is sound because they never run side by side.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._memory = torch.cuda.graph_pool_handle()
        # Waiting by spinning would take a core from decoding.
        self._finished = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def prepare(self, network: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Run:
        """A run of exactly this batch size; rows that are not filled keep an earlier batch."""
        pinned = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        with torch.inference_mode(), torch.cuda.device(self.device), _capturing:
            staged = pinned.to(self.device)
            # The copy was on another stream.
            torch.cuda.synchronize(self.device)
            graph, rows = self._capture(network, staged)
        answer = torch.empty(rows.shape, dtype=torch.float32, pin_memory=True)
        into: npt.NDArray[Any] = pinned.numpy()
        found: npt.NDArray[Any] = answer.numpy()

        def run(pictures: Iterable[Pixels]) -> Floats:
            count = 0
            for count, picture in enumerate(pictures, 1):
                into[count - 1] = picture
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                staged.copy_(pinned, non_blocking=True)
                graph.replay()
                answer.copy_(rows, non_blocking=True)
                self._finished.record(self._stream)
            self._finished.synchronize()
            return np.array(found[:count], np.float32)

        return run

    def _capture(
        self, network: Callable[[Tensor], Tensor], staged: Tensor
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        with torch.cuda.stream(self._stream):
            # Kernels are chosen and workspaces taken before capture, which forbids both.
            for _ in range(WARM_UPS):
                network(staged)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other lanes go on meanwhile: what their threads do must not spoil this capture.
        with torch.cuda.graph(
            graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"
        ):
            rows = network(staged).float()
        return graph, rows


def lane(device: str) -> Lane:
    """A new lane on "cpu", "cuda" (the first GPU) or "cuda:N".

    Raises ModelError when there is no such device.
    """
    return CpuLane() if device == "cpu" else CudaLane(_gpu(device))


def replica_devices(device: str) -> tuple[str, ...]:
    """The device of each replica on `device`: "cuda" means all GPUs, "cuda:N" and "cpu" that one.

    The first ones are on different GPUs. Raises ModelError when there is no such device.
    """
    if device == "cpu":
        return (device,)
    first = _gpu(device).index
    indices = range(torch.cuda.device_count()) if device == "cuda" else (first,)
    return tuple(f"cuda:{index}" for index in indices) * LANES_PER_GPU


def gpu_memory(devices: Iterable[str]) -> float:
    """Bytes that torch holds for this process on these GPUs, of which some may be named twice."""
    return float(sum(torch.cuda.memory_reserved(device) for device in set(devices)))


def _gpu(name: str) -> torch.device:
    if not torch.cuda.is_available():
        raise ModelError(f"torch finds no CUDA GPU for device {name!r}: set it to auto or cpu")
    device = torch.device(name if ":" in name else "cuda:0")
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"there is no {name}: torch finds {torch.cuda.device_count()} GPU(s)")
    return device
