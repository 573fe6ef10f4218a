import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import av
import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13
from skimage.data import astronaut
from torch import Tensor

from stream_server.classify.cuda import CpuLane
from stream_server.detect import torch_cuda
from stream_server.detect.centerface import CenterFaceDetector, Network, read_model
from stream_server.detect.samples import SEEN, drawn_face
from stream_server.detect.select import CHECKED_SIZE, check_answers, prefer_gpu
from stream_server.detect.torch_cuda import BUCKETS, TorchCenterFaceDetector
from stream_server.detect.torch_network import candidates, to_torch
from stream_server.errors import ModelError
from stream_server.frames import FaceBox, Picture, Pixels


def _astronaut() -> Pixels:
    return np.ascontiguousarray(astronaut()[:, :, ::-1])


@pytest.fixture(scope="module")
def openvino() -> CenterFaceDetector:
    return CenterFaceDetector()


@pytest.fixture(scope="module")
def detector() -> TorchCenterFaceDetector:
    return TorchCenterFaceDetector([CpuLane()])


def _corners(faces: list[FaceBox]) -> np.ndarray:
    return np.array([(face.x0, face.y0, face.x1, face.y1) for face in faces])


def _reference(width: int, height: int) -> Network:
    core = ov.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    return Network(core, read_model(core), width, height, config)


# The network


def test_all_maps_are_openvino_s() -> None:
    picture = _astronaut()[:416, :320]
    expected = _reference(320, 416).infer(picture)
    pictures = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))[None]).float()
    with torch.inference_mode():
        logits, *maps = to_torch(read_model(ov.Core())).eval()(pictures)
    found = [logits.sigmoid(), *maps]
    assert expected[0].max() > 0.5
    for theirs, ours in zip(expected, found, strict=True):
        assert np.allclose(ours.numpy(), theirs, atol=1e-4)


def test_candidates_are_the_best_cells_with_their_values() -> None:
    picture = _astronaut()[:416, :416]
    heatmap, *maps = _reference(416, 416).infer(np.ascontiguousarray(picture))
    with torch.inference_mode():
        made = candidates(torch.device("cpu"), torch.float32)(torch.tensor(picture[None].copy()))
    cells = made[0].numpy()
    assert cells.shape == (16, 1000)
    assert cells[0] == pytest.approx(np.sort(heatmap.ravel())[::-1][:1000], abs=1e-4)
    rows, columns = np.divmod(cells[1].astype(int), 104)
    values = np.concatenate([m[0] for m in maps])[:, rows, columns]
    assert np.allclose(cells[2:], values, atol=1e-4)


def test_half_precision_does_as_well() -> None:
    """On the CPU: what a GPU rounds may differ in the last digit, not in what overflows."""
    picture = torch.from_numpy(_astronaut()[:416, :416].copy())[None]
    with torch.inference_mode():
        full, half = (
            candidates(torch.device("cpu"), dtype)(picture)[0].numpy()
            for dtype in (torch.float32, torch.float16)
        )
    faces = int((full[0] > 0.4).sum())
    assert faces > 5
    assert half[0, :faces] == pytest.approx(full[0, :faces], abs=0.01)
    both = {cell: values for cell, *values in half[1:, : 2 * faces].T.tolist()}
    for cell, *values in full[1:, :faces].T.tolist():
        assert both[cell] == pytest.approx(values, abs=0.03)


def test_another_network_is_refused() -> None:
    data = opset13.parameter([1, 3, 32, 32], np.float32)
    model = ov.Model([opset13.tanh(data)], [data], "another")
    with pytest.raises(ModelError, match="holds a Tanh: it is not CenterFace"):
        to_torch(model)


# The detector


@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_boxes_are_openvino_s_within_a_pixel(
    openvino: CenterFaceDetector, detector: TorchCenterFaceDetector, scale: float
) -> None:
    picture = Picture.from_bgr(_astronaut())
    wanted, found = openvino.detect(picture, scale), detector.detect(picture, scale)
    assert wanted
    assert _corners(found) == pytest.approx(_corners(wanted), abs=1)
    assert found[0].score == pytest.approx(wanted[0].score, abs=1e-3)
    assert np.array(found[0].landmarks) == pytest.approx(np.array(wanted[0].landmarks), abs=1)


def test_boxes_are_openvino_s_on_real_clips(
    shared_data: Path, openvino: CenterFaceDetector, detector: TorchCenterFaceDetector
) -> None:
    seen = 0
    for clip in sorted((shared_data / "video").iterdir()):
        with av.open(str(clip)) as container:
            first = next(container.decode(video=0))
        picture = Picture.from_bgr(np.ascontiguousarray(first.to_ndarray(format="bgr24")))
        wanted = openvino.detect(picture)
        assert _corners(detector.detect(picture)) == pytest.approx(_corners(wanted), abs=1)
        seen += len(wanted)
    assert seen >= 5


class RecordingLane:
    """The CPU, with the batch sizes that were prepared and run; no room for more than `room`."""

    device = torch.device("cpu")

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.prepared: list[tuple[int, ...]] = []
        self.ran: list[tuple[int, int]] = []

    def prepare(
        self, network: Callable[[Tensor], Tensor], shape: tuple[int, ...]
    ) -> Callable[[Iterable[Pixels]], np.ndarray]:
        self.prepared.append(shape)
        if shape[0] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")

        def run(pictures: Iterable[Pixels]) -> np.ndarray:
            rows = [int(picture[0, 0, 0]) for picture in pictures]
            self.ran.append((shape[0], len(rows)))
            return np.array([np.full((16, 4), row) for row in rows], np.float32)

        return run


def _numbers(rows: np.ndarray) -> list[int]:
    return [int(row[0, 0]) for row in rows]


def _pictures(*numbers: int) -> list[Pixels]:
    return [np.full((32, 32, 3), number, np.uint8) for number in numbers]


def test_a_run_is_prepared_once_for_each_size_and_bucket() -> None:
    lane = RecordingLane()
    prepared = torch_cuda._Prepared(lane, lambda x: x)
    for count in (1, 3, 4, 3, 1):
        assert _numbers(prepared.run((32, 32), _pictures(*range(count)))) == list(range(count))
    assert lane.prepared == [(1, 32, 32, 3), (4, 32, 32, 3)]
    assert lane.ran == [(1, 1), (4, 3), (4, 4), (4, 3), (1, 1)]
    prepared.run((64, 32), _pictures(1))
    assert lane.prepared[-1] == (1, 32, 64, 3)


def test_the_runs_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cuda, "PREPARED_RUNS", 2)
    lane = RecordingLane()
    prepared = torch_cuda._Prepared(lane, lambda x: x)
    for width in (32, 64, 32, 96, 32, 64):
        prepared.run((width, 32), _pictures(1))
    assert [shape[2] for shape in lane.prepared] == [32, 64, 96, 64]


def test_without_memory_for_a_large_batch_it_runs_in_parts() -> None:
    lane = RecordingLane(room=2)
    prepared = torch_cuda._Prepared(lane, lambda x: x)
    assert _numbers(prepared.run((32, 32), _pictures(*range(7)))) == list(range(7))
    assert lane.ran == [(2, 2), (2, 2), (2, 2), (1, 1)]
    tried = len(lane.prepared)
    prepared.run((32, 32), _pictures(1, 2, 3))
    assert len(lane.prepared) == tried, "what there is no room for is not tried again"


def test_without_memory_for_a_single_picture_it_says_what_to_do() -> None:
    prepared = torch_cuda._Prepared(RecordingLane(room=0), lambda x: x)
    with pytest.raises(ModelError, match="no memory left for the detector"):
        prepared.run((32, 32), _pictures(1))


def test_the_largest_bucket_holds_all_that_may_come_together() -> None:
    assert BUCKETS[-1] == torch_cuda.FRAMES_TOGETHER


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.0}, "threshold"),
        ({"long_side": 8}, "long side"),
        ({"precision": "fp16"}, "cannot run precision 'fp16' on the CPU"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        TorchCenterFaceDetector([CpuLane()], **arguments)  # type: ignore[arg-type]


# Whether it is taken


class Strange:
    """Two lanes, of which the second says something wrong: whenever it is asked the same again."""

    name = "centerface"
    precision = "fp16"
    lanes = 2

    def __init__(self, good: TorchCenterFaceDetector, spoil: Callable[[np.ndarray], None]) -> None:
        self._good, self._spoil = good, spoil
        self._last: Pixels | None = None

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        return self._good.detect(picture, scale)

    def cells(self, bgr: Pixels) -> np.ndarray:
        cells = self._good.cells(bgr)
        if bgr is self._last:
            self._spoil(cells)
        self._last = bgr
        return cells


def _less_sure(cells: np.ndarray) -> None:
    cells[0] *= 0.6


def _larger(cells: np.ndarray) -> None:
    cells[2:4] += 0.2


def _nothing(cells: np.ndarray) -> None:
    cells[0] = np.nan


def _elsewhere(cells: np.ndarray) -> None:
    cells[1] = cells[1][::-1]


def test_the_drawn_face_passes_for_one() -> None:
    heatmap = _reference(*CHECKED_SIZE).infer(drawn_face(*CHECKED_SIZE))[0]
    assert heatmap.max() > 0.35
    # All of them come back from the GPU.
    assert 20 < (heatmap > SEEN).sum() < 1000


def test_a_gpu_that_answers_rightly_is_taken(detector: TorchCenterFaceDetector) -> None:
    found, reason = prefer_gpu(lambda: detector, lambda: pytest.fail("the CPU is not asked"))
    assert found is detector
    assert reason == "fp32 on the GPU, which answers rightly"


@pytest.mark.parametrize("spoil", [_less_sure, _larger, _nothing, _elsewhere])
def test_a_lane_that_answers_wrongly_is_noticed(
    detector: TorchCenterFaceDetector, spoil: Callable[[np.ndarray], None]
) -> None:
    with pytest.raises(ModelError, match="its faces are off by"):
        check_answers(Strange(detector, spoil))


def test_it_falls_back_and_says_why(
    openvino: CenterFaceDetector, detector: TorchCenterFaceDetector
) -> None:
    def broken() -> TorchCenterFaceDetector:
        raise RuntimeError("CUDA error: no kernel image\nCompile with TORCH_USE_CUDA_DSA")

    found, reason = prefer_gpu(broken, lambda: (openvino, "fp32: because"))
    assert found is openvino
    assert reason == "fp32: because; the GPU is not usable (CUDA error: no kernel image)"
    found, reason = prefer_gpu(lambda: Strange(detector, _nothing), lambda: (openvino, "fp32"))
    assert found is openvino
    assert "the GPU is not usable (its faces are off by nan)" in reason


def test_the_service_without_a_gpu_never_imports_torch() -> None:
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from stream_server.app import make_detector\n"
        "from stream_server.settings.schema import Detector\n"
        "detector, reason = make_detector(Detector(precision='fp32'), Path())\n"
        "torch = sorted(m for m in sys.modules if m in ('torch', 'torchvision'))\n"
        "print(json.dumps([detector.name, reason, torch]))\n"
    )
    words = [sys.executable, "-c", code]
    child = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    reason = "input size chosen for each stream; fp32: the precision asked for"
    assert json.loads(child.stdout.splitlines()[-1]) == ["centerface", reason, []]
