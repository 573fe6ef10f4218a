"""The classifier on the CPU, by OpenVINO: pre-processing, network and softmax in one graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import structlog
from openvino import opset13
from openvino.preprocess import ColorFormat, PrePostProcessor

from models.card import ModelCard
from models.registry import Weights
from stream_server.classify.buckets import batches, check_crops, padded
from stream_server.classify.trial import PrecisionChoice, choose_precision
from stream_server.errors import ModelError
from stream_server.frames import Pixels

log = structlog.get_logger(__name__)

# The network's shape follows the batch. A size seen for the first time costs ten times its later
# price, so only these occur, and all are run once at the start.
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
FEW = 4
"""So many crops run on one thread: a second one would save 0.3 ms of the 1.8 of a single crop, and
cost 1.2 ms of CPU time, most of it spent in waiting for its share of the next layer."""
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoClassifier:
    """`FaceClassifier` on the CPU.

    `precision` is "fp32", "bf16", "fp16" or "auto"; anything but fp32 is first tried in a child
    process (see `trial.py`), whose finding is remembered in `cache_dir` if there is one.
    `threads` are CPU threads, 0 for all. Raises ModelError when the weights cannot be read or an
    asked precision does not work on this machine.
    """

    name = "openvino"

    def __init__(
        self,
        weights: Weights,
        *,
        precision: str = "fp32",
        threads: int = 0,
        cache_dir: Path | None = None,
    ) -> None:
        chosen = PrecisionChoice("fp32", "the precision asked for")
        if precision != "fp32":
            chosen = choose_precision(precision_probe(weights), precision, cache_dir)
        self.precision, self.reason = chosen.precision, chosen.reason
        self._card = weights.card
        core = ov.Core()
        few = compile_network(core, weights, self.precision, 1).create_infer_request()
        many = compile_network(core, weights, self.precision, threads).create_infer_request()
        self._requests = {bucket: few if bucket <= FEW else many for bucket in BUCKETS}
        self.device = f"CPU: {core.get_property('CPU', 'FULL_DEVICE_NAME')}"
        size = weights.card.input_size
        for bucket, request in self._requests.items():
            request.infer([np.zeros((bucket, size, size, 3), np.uint8)])

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
        for start, stop, bucket in batches(len(crops), BUCKETS):
            request = self._requests[bucket]
            request.infer([padded(crops[start:stop], bucket)], share_inputs=True)
            rows[start:stop] = request.get_output_tensor(0).data[: stop - start]
        return rows


@dataclass(frozen=True, slots=True)
class ClassifierProbe:
    """The child process that tries a precision on a classifier; see `trial.Probe`.

    A fifth of the promised 1e-2 must do, because real faces stray further than these crops.
    """

    arguments: tuple[str, ...]
    network: str
    module: str = "stream_server.classify.probe"
    work: str = "8 crops"
    agree: float = 2e-3


def precision_probe(weights: Weights) -> ClassifierProbe:
    """How another precision than fp32 is tried on these weights."""
    card_path = weights.openvino_path.with_name(f"{weights.card.name}.json")
    network = weights.card.files.get(weights.openvino_path.with_suffix(".bin").name, "")
    return ClassifierProbe((str(card_path),), network)


def compile_network(
    core: ov.Core, weights: Weights, precision: str, threads: int
) -> ov.CompiledModel:
    """uint8 BGR crops (n, size, size, 3) in, calibrated probabilities (n, labels) out."""
    try:
        model = _served(core.read_model(weights.openvino_path), weights.card)
        # OpenVINO's default precision kills the process on some machines: it is always named.
        config = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            # The detector's threads are on the same cores.
            "ENABLE_CPU_PINNING": "NO",
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        return core.compile_model(model, "CPU", config)
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise ModelError(
            f"OpenVINO cannot run {weights.openvino_path} ({line}); export the weights again"
        ) from error


def _served(model: ov.Model, card: ModelCard) -> ov.Model:
    """The network between pre-processing and softmax, with any number of crops at once."""
    logits = model.output(0).get_node().input_value(0)
    scaled = opset13.divide(logits, opset13.constant(np.float32(card.temperature)))
    model = ov.Model([opset13.softmax(scaled, 1)], model.get_parameters(), card.name)
    model.reshape([-1, 3, card.input_size, card.input_size])
    steps = PrePostProcessor(model)
    crops = steps.input()
    crops.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    crops.tensor().set_color_format(ColorFormat.BGR)
    crops.model().set_layout(ov.Layout("NCHW"))
    crops.preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB)
    crops.preprocess().mean([255 * v for v in card.mean]).scale([255 * v for v in card.std])
    return steps.build()
