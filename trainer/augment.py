"""What cameras do to faces: wide crops (see `trainer.data`) in, network-sized crops out.

Every function takes and returns BGR, uint8, and draws its chances from the `rng` it is given.
"""

import cv2
import numpy as np

from models.crop import Image
from trainer.data import SIZE

Rng = np.random.Generator


def augment(wide: Image, size: int, rng: Rng) -> Image:
    """One random view of a wide crop, size x size x 3."""
    image = move(wide, size, rng)
    if rng.random() < 0.15:
        image = occlude(image, rng)
    if rng.random() < 0.8:
        image = recolour(image, rng)
    if rng.random() < 0.2:
        image = blur(image, rng)
    if rng.random() < 0.45:
        image = shrink(image, rng)
    if rng.random() < 0.2:
        image = dim(image, rng)
    if rng.random() < 0.3:
        image = compress(image, rng)
    return image


def move(wide: Image, size: int, rng: Rng) -> Image:
    """Mirror, turn, scale and shift, as a loose or tilted face box would."""
    angle = float(np.clip(rng.normal(0, 8), -25, 25))
    scale = size / SIZE * float(rng.uniform(0.82, 1.18))
    centre = wide.shape[0] / 2
    matrix = np.asarray(cv2.getRotationMatrix2D((centre, centre), angle, scale), np.float64)
    matrix[0] *= rng.uniform(0.92, 1.08)
    shift = rng.uniform(-0.07, 0.07, 2) * size
    matrix[:, 2] = size / 2 - matrix[:, :2] @ [centre, centre] + shift
    if rng.random() < 0.5:
        matrix[0] = [-matrix[0, 0], -matrix[0, 1], size - matrix[0, 2]]
    if size < 0.7 * SIZE:
        wide = np.asarray(cv2.blur(wide, (2, 2)), np.uint8)
    moved = cv2.warpAffine(
        wide, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, np.uint8)


def occlude(image: Image, rng: Rng) -> Image:
    """Cover a small part by an ellipse or a box of one colour: hair, a hand, another head."""
    size = image.shape[0]
    out = image.copy()
    centre = rng.integers(0, size, 2).tolist()
    half = (rng.uniform(0.05, 0.17, 2) * size).astype(int).tolist()
    colour = rng.integers(0, 256, 3).tolist()
    if rng.random() < 0.5:
        cv2.ellipse(out, centre, half, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    else:
        corner = [centre[0] + 2 * half[0], centre[1] + 2 * half[1]]
        cv2.rectangle(out, centre, corner, colour, -1)
    return out


def recolour(image: Image, rng: Rng) -> Image:
    """Brightness, contrast, white balance, saturation; now and then no colour at all."""
    pixels = image.astype(np.float32)
    grey = pixels @ np.array([0.114, 0.587, 0.299], np.float32)
    saturation = 0.0 if rng.random() < 0.07 else rng.uniform(0.5, 1.4)
    pixels = grey[..., None] + np.float32(saturation) * (pixels - grey[..., None])
    middle = grey.mean()
    pixels = (pixels - middle) * np.float32(rng.uniform(0.65, 1.3)) + middle
    gains = rng.uniform(0.72, 1.28) * rng.uniform(0.9, 1.1, 3)
    return np.asarray(np.clip(pixels * gains.astype(np.float32), 0, 255), np.uint8)


def dim(image: Image, rng: Rng) -> Image:
    """Low light with sensor noise, or a light behind the head."""
    pixels = image.astype(np.float32) / 255
    if rng.random() < 0.6:
        pixels = pixels ** np.float32(rng.uniform(1.0, 1.9)) * np.float32(rng.uniform(0.35, 0.9))
    else:
        height, width = image.shape[:2]
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        glow = np.clip(x**2 + y**2 - 0.5, 0, 1)[..., None]
        pixels = pixels * np.float32(rng.uniform(0.45, 0.8)) + glow * np.float32(
            rng.uniform(0.3, 0.8)
        )
    pixels += rng.normal(0, rng.uniform(0.005, 0.03), image.shape).astype(np.float32)
    return np.asarray(np.clip(pixels * 255, 0, 255), np.uint8)


def blur(image: Image, rng: Rng) -> Image:
    """Out of focus, or moved while the shutter was open."""
    if rng.random() < 0.5:
        sigma = rng.uniform(0.4, 2.0) * image.shape[0] / SIZE
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    length = int(rng.integers(3, max(4, image.shape[0] // 12)))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1.0 / length
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5,) * 2, float(rng.uniform(0, 180)), 1.0)
    kernel = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), np.float32)
    return np.asarray(cv2.filter2D(image, -1, kernel / max(float(kernel.sum()), 0.1)), np.uint8)


def shrink(image: Image, rng: Rng) -> Image:
    """A face far away: few pixels, enlarged again as the server enlarges them."""
    size = image.shape[0]
    small = round(np.exp(rng.uniform(np.log(12), np.log(48))))
    few = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.4:
        few = compress(np.asarray(few, np.uint8), rng)
    up = cv2.INTER_LINEAR if rng.random() < 0.75 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(few, (size, size), interpolation=up), np.uint8)


def compress(image: Image, rng: Rng) -> Image:
    """JPEG artefacts."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 80))]
    _, coded = cv2.imencode(".jpg", image, quality)
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
