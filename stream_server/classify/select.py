"""Which runtime classifies here, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from models.registry import Weights
from stream_server.classify.openvino import OpenVinoClassifier
from stream_server.classify.replicas import Replicas
from stream_server.classify.samples import sample_crops
from stream_server.errors import ModelError
from stream_server.frames import Pixels
from stream_server.ports import FaceClassifier

log = structlog.get_logger(__name__)

AGREE = 1e-2


@dataclass(frozen=True, slots=True)
class Selected:
    """A classifier ready to use, and what an operator is told of it.

    `replicas` threads may call it at once. `gpus` are torch's names of the GPUs it runs on, one
    for each replica, and `gpu_memory` gives the bytes held there; without a GPU both are empty.
    """

    classifier: FaceClassifier
    name: str
    device: str
    precision: str
    reason: str
    replicas: int = 1
    gpus: tuple[str, ...] = ()
    gpu_memory: Callable[[], float] | None = None


def choose(
    weights: Weights,
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    cache_dir: Path | None = None,
) -> Selected:
    """The classifier for this machine; blocking, seconds.

    `runtime` "auto" takes torch on the CUDA GPUs if they work, else OpenVINO on the CPU; `device`
    is "auto", "cpu", "cuda" (all GPUs) or "cuda:N". torch is not imported unless it is asked for
    or an NVIDIA device is there. Raises ModelError when what was asked for cannot be had.
    """
    on_gpu = device.startswith("cuda")
    if runtime == "openvino" and on_gpu:
        raise ModelError(f"openvino runs on the CPU here, not on {device}: set device to auto")
    if runtime == "torch":
        selected = _torch(weights, _torch_device(device), precision, "the runtime asked for")
    elif runtime == "auto" and on_gpu:
        selected = _torch(weights, device, precision, f"the device asked for is {device}")
    elif runtime == "auto" and device == "auto":
        selected = _fastest(weights, precision, threads, cache_dir)
    else:
        selected = _openvino(
            weights, precision, threads, cache_dir, "the runtime or device asked for"
        )
    log.info(
        "classifier_selected",
        runtime=selected.name,
        device=selected.device,
        precision=selected.precision,
        reason=selected.reason,
    )
    return selected


def nvidia_device(root: Path = Path("/")) -> bool:
    """An NVIDIA GPU's device node is there (or that of WSL). Costs nothing, unlike asking torch."""
    return any((root / "dev").glob("nvidia[0-9]*")) or (root / "dev" / "dxg").exists()


def _torch_device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if nvidia_device() else "cpu"


def _fastest(weights: Weights, precision: str, threads: int, cache_dir: Path | None) -> Selected:
    if not nvidia_device():
        return _openvino(weights, precision, threads, cache_dir, "no NVIDIA GPU here")
    try:
        selected = _torch(weights, "cuda", precision, "a CUDA GPU is here and answers rightly")
        reference = OpenVinoClassifier(weights).classify
        # Replicas take turns.
        for _ in range(selected.replicas):
            _check_answers(selected.classifier, reference)
    except (ImportError, RuntimeError, OSError, ModelError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("gpu_not_usable", error=line)
        # fp16 was meant for the GPU; the CPU finds out for itself.
        return _openvino(weights, "auto", threads, cache_dir, f"the GPU is not usable ({line})")
    return selected


def _check_answers(classifier: FaceClassifier, reference: Callable[[Pixels], np.ndarray]) -> None:
    """Raise ModelError unless both say the same."""
    crops = sample_crops(classifier.input_size, 4)
    difference = float(np.abs(classifier.classify(crops) - reference(crops)).max())
    if not difference <= AGREE:
        raise ModelError(f"its probabilities are off by {difference:.3f}")


def _torch(weights: Weights, device: str, precision: str, reason: str) -> Selected:
    try:
        from stream_server.classify.cuda import gpu_memory, replica_devices
        from stream_server.classify.torch_cuda import TorchClassifier
    except ImportError as error:
        raise ModelError(
            f"runtime torch cannot be loaded ({error}): install torch and torchvision, or set "
            "classifier.runtime to openvino"
        ) from error
    devices = replica_devices(device)
    replicas = [TorchClassifier(weights, device=name, precision=precision) for name in devices]
    names = {name: replica.device for name, replica in zip(devices, replicas, strict=True)}
    gpus = () if device == "cpu" else devices
    first = replicas[0]
    return Selected(
        Replicas(replicas) if len(replicas) > 1 else first,
        first.name,
        ", ".join(names.values()),
        first.precision,
        reason,
        len(replicas),
        gpus,
        partial(gpu_memory, gpus) if gpus else None,
    )


def _openvino(
    weights: Weights, precision: str, threads: int, cache_dir: Path | None, reason: str
) -> Selected:
    classifier = OpenVinoClassifier(
        weights, precision=precision, threads=threads, cache_dir=cache_dir
    )
    return Selected(
        classifier,
        classifier.name,
        classifier.device,
        classifier.precision,
        f"{reason}; {classifier.reason}",
    )
