"""What detectors share: the size to look at, the way down to it, and back to the picture."""

import cv2
import numpy as np
import numpy.typing as npt

from stream_server.frames import FaceBox, Picture, Pixels

Floats = npt.NDArray[np.float32]

STRIDE = 32
SHORTEST, LONGEST = 416, 640
MAX_FACES = 100
FRAMES_TOGETHER = 16
"""Pictures of different streams in one run, on a GPU."""


def input_size(
    width: int, height: int, long_side: int | None = None, scale: float = 1.0
) -> tuple[int, int]:
    """The (width, height) at which to look for faces in a picture of `width` x `height` px.

    Multiples of 32 with about the picture's aspect, never larger than the picture (but at least
    32). The long side is `long_side`, by default half of the picture's own within 416..640, and
    `scale` (0..1) of that.
    """
    longer = max(width, height)
    wanted = long_side if long_side is not None else min(max(longer // 2, SHORTEST), LONGEST)
    share = min(1.0, wanted * scale / longer)
    return _side(width, share), _side(height, share)


def _side(length: int, scale: float) -> int:
    rounded = round(length * scale / STRIDE)
    return max(1, min(rounded, length // STRIDE)) * STRIDE


def shrink(picture: Picture, width: int, height: int) -> Pixels:
    """The picture as (height, width, 3) BGR, shrunk by a whole factor first where there is one.

    Averaging areas is eight times as dear when the factor is not whole, and the last few per
    cent lose nothing by interpolation.
    """
    factor = max(1, min(picture.width // width, picture.height // height))
    whole = picture.width % (2 * factor) == 0 and picture.height % (2 * factor) == 0
    if factor == 1 or not whole:
        return picture.scaled_bgr(width, height)
    step = picture.scaled_bgr(picture.width // factor, picture.height // factor)
    return np.asarray(cv2.resize(step, (width, height)), np.uint8)


def face_boxes(
    boxes: Floats, scores: Floats, landmarks: Floats, picture: Picture, seen: tuple[int, int]
) -> list[FaceBox]:
    """`FaceBox`es in pixels of `picture`, clipped to it, in the given order, at most 100.

    Takes corners (n, 4) as x0, y0, x1, y1, scores (n,) and landmarks (n, 5, 2) in pixels of the
    picture as `seen` by the network (width, height). Boxes that are not finite, or less than a
    pixel wide or high once clipped, are left out.
    """
    ratio = np.array([picture.width / seen[0], picture.height / seen[1]], np.float32)
    limits = np.array([picture.width, picture.height] * 2, np.float32)
    clipped = np.clip(boxes * np.tile(ratio, 2), 0, limits)
    usable = np.isfinite(boxes).all(1) & (clipped[:, 2:] - clipped[:, :2] >= 1).all(1)
    chosen = np.flatnonzero(usable)[:MAX_FACES]
    return [
        FaceBox(x0, y0, x1, y1, score, tuple((x, y) for x, y in points))
        for (x0, y0, x1, y1), score, points in zip(
            clipped[chosen].tolist(),
            scores[chosen].tolist(),
            (landmarks[chosen] * ratio).tolist(),
            strict=True,
        )
    ]
