from pathlib import Path

import numpy as np
import pytest

from stream_server.detect.yunet import YuNetDetector
from stream_server.errors import ModelError
from stream_server.frames import Picture
from tests.fakes.yunet_network import write_yunet_network


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no YuNet file at .*gone\.onnx"):
        YuNetDetector(tmp_path / "gone.onnx")


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x07" * 100])
def test_a_file_that_is_no_network_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx is not a YuNet"):
        YuNetDetector(path)


def test_another_network_is_refused(tmp_path: Path) -> None:
    from stream_server.detect.centerface import weights_file

    path = tmp_path / "centerface.onnx"
    path.write_bytes(weights_file().read_bytes())
    with pytest.raises(ModelError, match="is not a YuNet"):
        YuNetDetector(path)


def test_boxes_and_landmarks_in_pixels_of_the_picture(tmp_path: Path) -> None:
    detector = YuNetDetector(write_yunet_network(tmp_path / "yunet.onnx"))
    bgr = np.full((720, 1280, 3), 16, np.uint8)
    bgr[100:300, 400:560] = 240
    (face,) = detector.detect(Picture.from_bgr(bgr))
    # seen at 640x352: half across, 352/720 down
    assert (face.x0, face.y0, face.x1, face.y1) == pytest.approx((400, 100, 560, 300), abs=4)
    centre = np.array([480, 200])
    step = np.array([1280 / 640, 720 / 352])
    for index, point in enumerate(face.landmarks):
        assert point == pytest.approx(centre + index * step, abs=4)
