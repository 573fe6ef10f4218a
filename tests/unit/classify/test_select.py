import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.registry import Weights, resolve
from stream_server.classify import select
from stream_server.classify.openvino import OpenVinoClassifier
from stream_server.classify.select import Selected, choose, nvidia_device
from stream_server.classify.torch_cuda import TorchClassifier, prepare
from stream_server.errors import ModelError
from stream_server.frames import Pixels


@pytest.fixture(scope="module")
def weights() -> Weights:
    return resolve()


class _Guesser:
    """Runs, but answers wrongly: a broken driver."""

    labels = ("with_mask", "without_mask", "incorrect")
    input_size = 32

    def classify(self, crops: Pixels) -> np.ndarray:
        return np.full((len(crops), 3), [1.0, 0.0, 0.0], np.float32)


def test_without_a_gpu_auto_is_openvino_and_says_why(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "nvidia_device", lambda: False)
    selected = choose(weights, precision="fp32")
    assert (selected.name, selected.precision) == ("openvino", "fp32")
    assert selected.reason == "no NVIDIA GPU here; the precision asked for"
    assert selected.device.startswith("CPU: ")
    assert selected.gpu_memory is None
    assert isinstance(selected.classifier, OpenVinoClassifier)


def test_serving_on_the_cpu_never_imports_torch() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from models.registry import resolve\n"
        "from stream_server.classify import select\n"
        "select.nvidia_device = lambda: False\n"
        "select.choose(resolve(), precision='fp32')\n"
        "print(sorted(m for m in sys.modules if m in ('torch', 'torchvision')))\n"
    )
    words = [sys.executable, "-c", code]
    child = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert child.stdout.splitlines()[-1] == "[]"


def test_torch_on_the_cpu_when_asked_for(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "nvidia_device", lambda: False)
    selected = choose(weights, runtime="torch")
    assert (selected.name, selected.device, selected.precision) == ("torch", "CPU", "fp32")
    assert selected.gpu_memory is None


def test_a_gpu_that_torch_cannot_use_falls_back(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "nvidia_device", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    selected = choose(weights)
    assert selected.name == "openvino"
    assert "the GPU is not usable (torch finds no CUDA GPU" in selected.reason


def test_a_gpu_that_answers_wrongly_falls_back(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = weights.card.input_size
    guesser = _Guesser()
    guesser.input_size = size
    monkeypatch.setattr(select, "nvidia_device", lambda: True)
    monkeypatch.setattr(
        select, "_torch", lambda *_: Selected(guesser, "torch", "GPU", "fp16", "because")
    )
    selected = choose(weights)
    assert selected.name == "openvino"
    assert "probabilities are off by" in selected.reason


def test_a_gpu_that_answers_rightly_is_taken(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Selected(TorchClassifier(weights, device="cpu"), "torch", "GPU", "fp16", "it works")
    monkeypatch.setattr(select, "nvidia_device", lambda: True)
    monkeypatch.setattr(select, "_torch", lambda *_: good)
    assert choose(weights) is good


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"runtime": "openvino", "device": "cuda"}, "openvino runs on the CPU"),
        ({"runtime": "torch", "device": "cuda"}, "no CUDA GPU for device 'cuda'"),
        ({"runtime": "auto", "device": "cuda:3"}, "no CUDA GPU for device 'cuda:3'"),
        ({"runtime": "torch", "device": "cpu", "precision": "fp16"}, "precision 'fp16'"),
    ],
)
def test_what_cannot_be_had_is_an_error(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=message):
        choose(weights, **asked)


def test_nvidia_devices_are_seen_without_torch(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    assert not nvidia_device(tmp_path)
    (tmp_path / "dev" / "nvidiactl").touch()
    assert not nvidia_device(tmp_path)
    (tmp_path / "dev" / "nvidia0").touch()
    assert nvidia_device(tmp_path)


def test_weights_that_do_not_fit_are_named(weights: Weights, tmp_path: Path) -> None:
    broken_xml = tmp_path / "broken.xml"
    broken_xml.write_text("<net/>")
    broken_torch = tmp_path / "broken.safetensors"
    broken_torch.write_bytes(b"no tensors")
    broken = replace(weights, openvino_path=broken_xml, torch_path=broken_torch)
    with pytest.raises(ModelError, match=r"broken\.xml"):
        OpenVinoClassifier(broken)
    with pytest.raises(ModelError, match=r"broken\.safetensors"):
        TorchClassifier(broken, device="cpu")


@pytest.mark.parametrize(("room", "kept"), [(64, [1, 2, 4, 8]), (5, [1, 2, 4]), (1, [1])])
def test_buckets_that_the_gpu_has_no_memory_for_are_left_out(room: int, kept: list[int]) -> None:
    tried: list[int] = []

    def capture(bucket: int) -> Callable[[Pixels], np.ndarray]:
        tried.append(bucket)
        if bucket > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda crops: np.zeros((len(crops), 3), np.float32)

    assert list(prepare(capture, (1, 2, 4, 8))) == kept
    assert len(tried) <= len(kept) + 1


def test_no_room_for_a_single_crop_says_what_to_do() -> None:
    def capture(bucket: int) -> Callable[[Pixels], np.ndarray]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ModelError, match="no memory left for the classifier"):
        prepare(capture, (1, 2))


def test_several_gpus_are_replicas_and_each_is_checked(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class OnTheCpu(TorchClassifier):
        def __init__(self, weights: Weights, *, device: str, precision: str) -> None:
            super().__init__(weights, device="cpu")
            self.device = f"GPU {device}"
            self._own = device

        def classify(self, crops: Pixels) -> np.ndarray:
            asked.append(self._own)
            return super().classify(crops)

    devices = ("cuda:0", "cuda:1", "cuda:0", "cuda:1")
    monkeypatch.setattr(select, "nvidia_device", lambda: True)
    monkeypatch.setattr("stream_server.classify.cuda.replica_devices", lambda _: devices)
    monkeypatch.setattr("stream_server.classify.torch_cuda.TorchClassifier", OnTheCpu)
    selected = choose(weights)
    assert selected.name == "torch"
    assert (selected.replicas, selected.gpus) == (4, devices)
    assert selected.device == "GPU cuda:0, GPU cuda:1"
    assert selected.gpu_memory is not None
    assert sorted(asked) == sorted(devices)
