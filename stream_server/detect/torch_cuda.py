"""CenterFace in torch, batched over streams: CUDA graphs on a GPU, plain fp32 on the CPU.

Importing this module imports torch, which costs seconds and hundreds of MB.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stream_server.detect.centerface import check_options, decode_cells
from stream_server.detect.gather import Gather
from stream_server.detect.geometry import FRAMES_TOGETHER, Floats, face_boxes, input_size, shrink
from stream_server.detect.torch_network import candidates
from stream_server.errors import ModelError
from stream_server.frames import FaceBox, Picture, Pixels

BUCKETS = tuple(b for b in (1, 2, 4, 8, 16) if b <= FRAMES_TOGETHER)
PREPARED_RUNS = 40
"""For each lane: `BUCKETS` of 8 sizes."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Size = tuple[int, int]
Run = Callable[[Iterable[Pixels]], Floats]


class Lane(Protocol):
    """Prepares networks for one batch size each, and runs them; used by one thread at a time."""

    @property
    def device(self) -> torch.device: ...

    def prepare(self, network: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Run:
        """A run of up to n uint8 pictures, `shape` (n, ...), to a float32 row for each.

        Raises torch.OutOfMemoryError when there is no room for it.
        """


class TorchCenterFaceDetector:
    """`FaceDetector` on `lanes`, each a GPU's or the CPU's. Thread-safe.

    Pictures that are looked at in the same size share a run, whatever streams they are of, at
    most `FRAMES_TOGETHER`. `long_side` and `threshold` are as for `CenterFaceDetector`;
    `precision` is "fp32", "fp16", "bf16" or "auto" (fp16 on a GPU; the CPU takes fp32 only).
    Raises ModelError for options out of bounds, or when the network's file is not to be had.
    """

    name = "centerface"

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        long_side: int | None = None,
        threshold: float = 0.4,
        precision: str = "auto",
    ) -> None:
        check_options(long_side, threshold)
        self._long_side = long_side
        self._threshold = threshold
        on_gpu = lanes[0].device.type == "cuda"
        self.precision = ("fp16" if on_gpu else "fp32") if precision == "auto" else precision
        if self.precision not in (DTYPES if on_gpu else ("fp32",)):
            raise ModelError(
                f"the detector in torch cannot run precision {precision!r} on the "
                f"{'GPU' if on_gpu else 'CPU'}: set detector.precision to auto"
            )
        dtype = DTYPES[self.precision]
        self.lanes = len(lanes)
        self._gather = Gather[_Prepared, Size, Pixels, Floats](
            [_Prepared(lane, candidates(lane.device, dtype)) for lane in lanes],
            _Prepared.run,
            largest=FRAMES_TOGETHER,
        )

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        """Faces in pixel coordinates of `picture`, best score first, at most `MAX_FACES`."""
        size = input_size(picture.width, picture.height, self._long_side, scale)
        # Shrunk here, by the caller's core: cameras of all resolutions then share few sizes.
        cells = self.cells(shrink(picture, *size))
        cells = cells[:, cells[0] > self._threshold]
        rows, columns = np.divmod(cells[1].astype(np.intp), size[0] // 4)
        return face_boxes(*decode_cells(rows, columns, cells[0], cells[2:]), picture, size)

    def cells(self, bgr: Pixels) -> Floats:
        """What the network says of a picture (h, w, 3) of its input's size; see `Candidates`."""
        height, width = bgr.shape[:2]
        return self._gather((width, height), bgr)


class _Prepared:
    """A lane with what it has prepared so far; the runs used last are kept."""

    def __init__(self, lane: Lane, network: Callable[[Tensor], Tensor]) -> None:
        self._lane = lane
        self._network = network
        self._buckets = BUCKETS
        self._runs: OrderedDict[tuple[Size, int], Run] = OrderedDict()

    def run(self, size: Size, pictures: list[Pixels]) -> Floats:
        """Rows for pictures of one size; in several runs where memory allows no larger ones."""
        largest = self._buckets[-1]
        if len(pictures) > largest:
            parts = (pictures[at : at + largest] for at in range(0, len(pictures), largest))
            return np.concatenate([self.run(size, part) for part in parts])
        bucket = next(bucket for bucket in self._buckets if bucket >= len(pictures))
        try:
            return self._prepared(size, bucket)(pictures)
        except torch.OutOfMemoryError as error:
            if bucket == 1:
                raise ModelError(
                    "the GPU has no memory left for the detector: free some, or set "
                    "classifier.runtime to openvino"
                ) from error
            self._buckets = self._buckets[: self._buckets.index(bucket)]
        return self.run(size, pictures)

    def _prepared(self, size: Size, bucket: int) -> Run:
        key = size, bucket
        if key not in self._runs:
            width, height = size
            self._runs[key] = self._lane.prepare(self._network, (bucket, height, width, 3))
            if len(self._runs) > PREPARED_RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return self._runs[key]
