"""YuNet through OpenCV's own wrapper, for those who bring its file."""

import threading
from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from stream_server.detect.geometry import face_boxes, input_size, shrink
from stream_server.errors import ModelError
from stream_server.frames import FaceBox, Picture

NMS_IOU = 0.3
CANDIDATES = 1000


class YuNetDetector:
    """`FaceDetector` by `cv2.FaceDetectorYN`. Thread-safe: one inference at a time.

    `path` is an ONNX file such as face_detection_yunet_2023mar.onnx of OpenCV's model zoo;
    `long_side` and `threshold` are as for `CenterFaceDetector`. Raises ModelError when the file
    is missing or is not a YuNet.
    """

    name = "yunet"

    def __init__(
        self, path: str | PathLike[str], *, long_side: int | None = None, threshold: float = 0.6
    ) -> None:
        if not Path(path).is_file():
            raise ModelError(
                f"no YuNet file at {path}; give the path of face_detection_yunet*.onnx"
            )
        self._long_side = long_side
        self._lock = threading.Lock()
        try:
            self._network = cv2.FaceDetectorYN.create(
                str(path), "", (320, 320), threshold, NMS_IOU, CANDIDATES
            )
            self._network.detect(np.zeros((320, 320, 3), np.uint8))
        except (cv2.error, SystemError) as error:
            raise ModelError(
                f"{path} is not a YuNet that OpenCV {cv2.__version__} can run; "
                "download face_detection_yunet*.onnx again"
            ) from error

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        """Faces in pixel coordinates of `picture`, best score first, at most `MAX_FACES`."""
        seen = input_size(picture.width, picture.height, self._long_side, scale)
        small = shrink(picture, *seen)
        with self._lock:
            self._network.setInputSize(seen)
            _, found = self._network.detect(small)
        rows = np.empty((0, 15), np.float32) if found is None else np.asarray(found, np.float32)
        rows = rows[np.argsort(-rows[:, 14], kind="stable")]
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1)
        return face_boxes(corners, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2), picture, seen)
