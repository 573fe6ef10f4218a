"""Whether a GPU finds the faces, and why."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import openvino as ov
import structlog

from stream_server.detect.centerface import HINTS, Network, read_model
from stream_server.detect.geometry import Floats
from stream_server.detect.samples import AGREE, difference, drawn_face, sample_pictures
from stream_server.errors import ModelError
from stream_server.frames import FaceBox, Picture, Pixels
from stream_server.ports import FaceDetector

log = structlog.get_logger(__name__)

# Of a 720p camera: its run is prepared by the way.
CHECKED_SIZE = 640, 352


class GpuDetector(Protocol):
    """A `FaceDetector` whose network can be asked without a picture's way to it and back."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def lanes(self) -> int:
        """Calls one after the other go to so many lanes in turn."""

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]: ...

    def cells(self, bgr: Pixels) -> Floats:
        """Score, index, two logarithms of sides and more (n, cells) of the best cells."""


def prefer_gpu(
    gpu: Callable[[], GpuDetector], cpu: Callable[[], tuple[FaceDetector, str]]
) -> tuple[FaceDetector, str]:
    """The detector that `gpu` builds if it answers as OpenVINO does, else that of `cpu`; and why.

    Blocking, seconds. Raises ModelError when `cpu` does.
    """
    try:
        detector = gpu()
        check_answers(detector)
    except (ImportError, RuntimeError, OSError, ModelError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("gpu_not_usable", error=line, network="detector")
        other, reason = cpu()
        return other, f"{reason}; the GPU is not usable ({line})"
    return detector, f"{detector.precision} on the GPU, which answers rightly"


def check_answers(detector: GpuDetector) -> None:
    """Raise ModelError unless each lane says what OpenVINO says in fp32."""
    core = ov.Core()
    config = {"INFERENCE_PRECISION_HINT": HINTS["fp32"]}
    reference = Network(core, read_model(core), *CHECKED_SIZE, config)
    for picture in [*sample_pictures(*CHECKED_SIZE), drawn_face(*CHECKED_SIZE)]:
        heatmap, scale, *_ = reference.infer(picture)
        for _ in range(detector.lanes):
            strayed = _difference(heatmap, scale, detector.cells(picture))
            # A NaN is no agreement either.
            if not strayed <= AGREE:
                raise ModelError(f"its faces are off by {strayed:.3f}")


def _difference(heatmap: Floats, scale: Floats, cells: Floats) -> float:
    found = np.full((3, heatmap.size), np.nan, np.float32)
    found[:, cells[1].astype(np.intp)] = cells[[0, 2, 3]]
    maps = found.reshape(1, 3, *heatmap.shape[2:])
    return difference(heatmap, scale, maps[:, :1], maps[:, 1:])
