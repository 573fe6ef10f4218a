"""From uploaded bytes to a picture: checked by its header before a single pixel is decoded."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stream_server.errors import InvalidPicture
from stream_server.frames import Pixels

# Pillow's own warning would go to the log at a size of its choosing; ours is the limit that holds.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_SIDE = 16_384


def decode(data: bytes, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> Pixels:
    """An upright (height, width, 3) uint8 BGR picture from bytes in one of Pillow's `formats`.

    Blocking. Animations give their first picture, transparency is dropped. Raises
    `InvalidPicture` for anything else, also when it is cut off or larger than `max_pixels`.
    """
    if not data:
        raise InvalidPicture("the picture is empty: send the bytes of a JPEG, PNG, WebP or BMP")
    _check_webp_size(data, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_size(*image.size, max_pixels)
            return _to_bgr(image)
    except InvalidPicture:
        raise
    except UnidentifiedImageError as error:
        raise InvalidPicture(
            "these bytes are not a picture: send a JPEG, PNG, WebP or BMP"
        ) from error
    except Image.DecompressionBombError as error:
        raise InvalidPicture(
            f"the picture has far more than the {max_pixels} pixels allowed: scale it down"
        ) from error
    except Exception as error:
        # Fed with hostile bytes, Pillow's readers raise a dozen types that all mean the same.
        raise InvalidPicture(
            "the picture is broken or cut off: check that the whole file was sent"
        ) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise InvalidPicture(
            f"the picture has {width}x{height} pixels; at most {max_pixels} and {MAX_SIDE} a side "
            "are taken: scale it down"
        )


def _check_webp_size(data: bytes, max_pixels: int) -> None:
    """Pillow makes room for a WebP's whole canvas when it only opens it."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return
    chunk = data[12:16]
    if chunk == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif chunk == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    _check_size(width, height, max_pixels)


def _to_bgr(image: Image.Image) -> Pixels:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or upright.mode == "I":
        deep = np.asarray(upright).astype(np.uint32)
        grey: Pixels = np.minimum(deep >> 8, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    rgb: Pixels = np.asarray(upright.convert("RGB"))
    return np.ascontiguousarray(rgb[:, :, ::-1])
