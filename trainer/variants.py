"""The network in each format that is served or asked for: written, checked against torch, timed."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from models.card import ModelCard, Variant
from models.crop import Image
from models.mobilenet_v3 import load_network
from models.registry import Weights, sha256
from stream_server.classify.openvino import compile_network
from trainer.data import Crops
from trainer.evaluate import Logits, Predict, accuracy, openvino_predictor, predict_torch, softmax
from trainer.sets import normalise


@dataclass(frozen=True, slots=True)
class Format:
    """What runs a format, and what it computes with."""

    runtime: str
    precision: str


FORMATS = {
    "safetensors": Format("torch", "fp32, weights kept in fp16"),
    "openvino": Format("openvino", "fp32, weights kept in fp16"),
    "openvino-int8": Format("openvino", "int8"),
    "onnx": Format("onnxruntime", "fp32"),
    "onnx-int8": Format("onnxruntime", "int8"),
}
BASE = ("safetensors", "openvino")
"""What a card is of no use without: torch loads the one, OpenVINO the other."""
BATCH = 32
THREADS = 2
WARM_UP = 3
ROUNDS = {1: 101, BATCH: 21}
LEAST_ROUNDS = 5
MOST_SECONDS = 4.0
"""A busy machine gets fewer rounds, not minutes."""


# --- writing --------------------------------------------------------------------------------------


def write(
    name: str, network: nn.Module, folder: Path, stem: str, size: int, calibration: Image
) -> tuple[Path, ...]:
    """Write `network` in the format `name` of FORMATS; returns the files, the one to load first.

    Files are called after `stem`. `size` is the crop's side in pixels; `calibration` are training
    crops (N x size x size x 3, uint8, BGR) for int8, on which the ranges of values are measured.
    openvino-int8 is made of the files of openvino, which must be there.
    """
    if name == "safetensors":
        return (write_safetensors(network, folder / f"{stem}.safetensors"),)
    if name == "openvino":
        return write_openvino(to_openvino(network, size), folder / f"{stem}.xml")
    if name == "openvino-int8":
        # From the file: what is not quantised is fp16 there already, and stays so.
        plain = ov.Core().read_model(folder / f"{stem}.xml")
        return write_openvino(quantised_openvino(plain, calibration), folder / f"{stem}-int8.xml")
    if name == "onnx":
        return (write_onnx(network, folder / f"{stem}.onnx", size),)
    return (write_quantised_onnx(network, folder / f"{stem}-int8.onnx", size, calibration),)


def write_safetensors(network: nn.Module, file: Path) -> Path:
    """Write the weights in fp16."""
    half = {
        key: value.detach().half().contiguous() if value.is_floating_point() else value.clone()
        for key, value in network.state_dict().items()
    }
    file.write_bytes(save(half))
    return file


def round_weights(network: nn.Module) -> None:
    """Round the weights to fp16 in place, so that all formats hold the same network."""
    state = network.state_dict()
    network.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    )


def to_openvino(network: nn.Module, size: int) -> ov.Model:
    """`network` for OpenVINO: float N x 3 x size x size to logits."""
    # By ONNX, because ov.convert_model forks children that report its use over the network.
    with TemporaryDirectory() as folder:
        return ov.Core().read_model(write_onnx(network, Path(folder) / "plain.onnx", size))


def write_openvino(model: ov.Model, xml: Path) -> tuple[Path, Path]:
    """Write XML and .bin, what is not int8 in fp16."""
    ov.save_model(model, xml, compress_to_fp16=True)
    return xml, xml.with_suffix(".bin")


def quantised_openvino(model: ov.Model, calibration: Image) -> ov.Model:
    """`model` in int8. NNCF leaves squeeze-and-excitation in floating point by itself."""
    # Imported by NNCF, it looks for a compiler and complains of a missing GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # It reports its use over the network unless it believes to be in its own makers' CI.
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    nncf.set_log_level(logging.ERROR)
    crops = nncf.Dataset(list(calibration), lambda crop: blob(crop[None]))
    return nncf.quantize(model, crops, subset_size=len(calibration))


def write_onnx(network: nn.Module, file: Path, size: int) -> Path:
    """Write ONNX in fp32, for any number of crops: `images` N x 3 x size x size to `logits`."""
    with warnings.catch_warnings():
        # Tracing is called deprecated, but the newer exporter needs one more library and writes the
        # same graph.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 3, size, size),),
            str(file),
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "crops"}, "logits": {0: "crops"}},
            opset_version=17,
            dynamo=False,
        )
    return file


class _Crops:
    """`calibration` crop by crop, as ONNX Runtime's quantisation wants to read them."""

    def __init__(self, calibration: Image) -> None:
        self._crops = iter(calibration)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        crop = next(self._crops, None)
        return None if crop is None else {"images": blob(crop[None])}


def write_quantised_onnx(network: nn.Module, file: Path, size: int, calibration: Image) -> Path:
    """Write ONNX in int8, as ONNX Runtime is fast with it."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder:
        plain = write_onnx(network, Path(folder) / "plain.onnx", size)
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(plain), str(ready))
        quantize_static(
            str(ready),
            str(file),
            _Crops(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # The plain minimum and maximum, moved by single odd crops, cost half a point.
            extra_options={"CalibMovingAverage": True},
        )
    return file


# --- checking -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What variants are compared with: torch's `logits` (N x classes) on crops of known `labels`.

    `crops` is N x size x size x 3, uint8, BGR.
    """

    crops: Image
    labels: NDArray[np.int64]
    logits: Logits
    temperature: float


def truth(network: nn.Module, faces: Crops, size: int, temperature: float) -> Truth:
    """The answers of `network` on `faces`."""
    crops = faces.centres(size)
    return Truth(crops, faces.labels, predict_torch(network, crops), temperature)


def check(name: str, files: Sequence[Path], card: ModelCard, expected: Truth) -> Variant:
    """The variant `name` in `files`: its accuracy, its distance from torch, its size and speed."""
    logits = predictor(name, files[0], card)(expected.crops)
    found, wanted = (accuracy(rows, expected.labels) for rows in (logits, expected.logits))
    gap = softmax(logits, expected.temperature) - softmax(expected.logits, expected.temperature)
    alone, in_batch = timed(name, files[0], card, expected.crops)
    return Variant(
        files={file.name: sha256(file) for file in files},
        runtime=FORMATS[name].runtime,
        precision=FORMATS[name].precision,
        size=sum(file.stat().st_size for file in files),
        faces=len(expected.labels),
        accuracy=found,
        drop=round(100 * (wanted - found), 4),
        largest_difference=float(np.abs(gap).max()),
        ms_alone=alone,
        ms_in_batch=in_batch,
        threads=THREADS,
    )


def predictor(name: str, file: Path, card: ModelCard) -> Predict:
    """A function from crops (N x size x size x 3, uint8, BGR) to logits, by the variant's file."""
    if FORMATS[name].runtime == "openvino":
        return openvino_predictor(file)
    if FORMATS[name].runtime == "onnxruntime":
        return onnx_predictor(file)
    network = load_network(Weights(card, file, file))
    return lambda crops: predict_torch(network, crops)


def onnx_predictor(file: Path) -> Predict:
    """A function from crops (N x size x size x 3, uint8, BGR) to logits, by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])

    def predict(crops: Image) -> Logits:
        starts = range(0, len(crops), BATCH)
        parts = [session.run(None, {"images": blob(crops[i : i + BATCH])})[0] for i in starts]
        return np.concatenate(parts)

    return predict


def blob(crops: Image) -> NDArray[np.float32]:
    """Crops (N x size x size x 3, uint8, BGR) as the network takes them: N x 3 x size x size."""
    rgb = np.ascontiguousarray(crops[:, :, :, ::-1])
    return np.asarray(normalise(torch.from_numpy(rgb)).contiguous().numpy())


# --- timing ---------------------------------------------------------------------------------------


def timed(name: str, file: Path, card: ModelCard, crops: Image) -> tuple[float, float]:
    """ms for one crop alone and in a batch of 32, from uint8 crops to answers: medians."""
    run: Callable[[Image], object]
    if FORMATS[name].runtime == "openvino":
        weights = Weights(card, file, file)
        request = compile_network(ov.Core(), weights, "fp32", THREADS).create_infer_request()
        run = lambda batch: request.infer([batch], share_inputs=True)  # noqa: E731
    else:
        run = predictor(name, file, card)
    many = np.ascontiguousarray(np.resize(crops, (BATCH, *crops.shape[1:])))
    with _torch_threads(THREADS):
        alone, batch = (_median_ms(run, many[:count], ROUNDS[count]) for count in (1, BATCH))
    return round(alone, 3), round(batch / BATCH, 3)


def _median_ms(run: Callable[[Image], object], crops: Image, rounds: int) -> float:
    for _ in range(WARM_UP):
        run(crops)
    seconds: list[float] = []
    while len(seconds) < LEAST_ROUNDS or (len(seconds) < rounds and sum(seconds) < MOST_SECONDS):
        started = time.perf_counter()
        run(crops)
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
