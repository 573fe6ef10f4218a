"""From face boxes to the square crops the network sees; no state, no I/O."""

from collections.abc import Iterable
from math import ceil, floor

from models.crop import crop_face, face_square
from stream_server.frames import FaceBox, Picture, Pixels


def crops(picture: Picture, boxes: Iterable[FaceBox], margin: float, size: int) -> list[Pixels]:
    """A crop of (size, size, 3) uint8 BGR for each box, in order.

    The same pixels as `models.crop.crop_face` gives on the whole picture, but only the region
    around each face is converted to BGR. `margin` widens the square as the model card says.
    """
    return [_crop(picture, box, margin, size) for box in boxes]


def _crop(picture: Picture, box: FaceBox, margin: float, size: int) -> Pixels:
    x, y, side = face_square(box.x0, box.y0, box.x1, box.y1, margin)
    # A pixel more on each side than the square, which is rounded later.
    region, left, top = picture.region_bgr(
        floor(x) - 1, floor(y) - 1, ceil(x + side) + 1, ceil(y + side) + 1
    )
    corners = (box.x0 - left, box.y0 - top, box.x1 - left, box.y1 - top)
    return crop_face(region, corners, margin, size)
