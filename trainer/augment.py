"""What cameras do to faces: wide crops (see `trainer.data`) in, network-sized crops out.

Every function takes and returns BGR, uint8, and draws its chances from the `rng` it is given.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.crop import Image
from trainer.data import SIZE

Rng = np.random.Generator


def augment(wide: Image, size: int, rng: Rng) -> Image:
    """One random view of a wide crop, size x size x 3."""
    image = move(wide, size, rng)
    if rng.random() < 0.15:
        image = occlude(image, rng)
    if rng.random() < 0.08:
        image = cut(image, rng)
    if rng.random() < 0.8:
        image = recolour(image, rng)
    if rng.random() < 0.2:
        image = light(image, rng)
    # Either: of a face that is both nobody could tell how it wears its mask.
    kind = rng.random()
    if kind < 0.18:
        image = blur(image, rng)
    elif kind < 0.63:
        image = shrink(image, rng)
    if rng.random() < 0.2:
        image = dim(image, rng)
    if rng.random() < 0.3:
        image = compress(image, rng)
    return image


def move(wide: Image, size: int, rng: Rng) -> Image:
    """Mirror, turn, scale and shift, as a loose or tilted face box would; or seen from the side."""
    angle = float(np.clip(rng.normal(0, 8), -25, 25))
    scale = size / SIZE * float(rng.uniform(0.82, 1.18))
    centre = wide.shape[0] / 2
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D((centre, centre), angle, scale)
    matrix[0] *= rng.uniform(0.92, 1.08)
    if rng.random() < 0.25:
        matrix = _from_aside(size, rng) @ matrix
    # The middle of the crop goes near the middle of the view, whatever was done to it.
    middle = matrix @ [centre, centre, 1.0]
    goal = size / 2 + rng.uniform(-0.07, 0.07, 2) * size
    shift = np.eye(3)
    shift[:2, 2] = goal - middle[:2] / middle[2]
    matrix = shift @ matrix
    if rng.random() < 0.5:
        matrix = np.array([[-1.0, 0, size], [0, 1, 0], [0, 0, 1]]) @ matrix
    if size < 0.7 * SIZE:
        wide = np.asarray(cv2.blur(wide, (2, 2)), np.uint8)
    moved = cv2.warpPerspective(
        wide, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, np.uint8)


def _from_aside(size: int, rng: Rng) -> NDArray[np.float64]:
    """A head turned away or a camera above it: foreshortened, one side nearer than the other."""
    across, down = rng.uniform(-0.3, 0.3), rng.uniform(-0.15, 0.15)
    tilt = np.array([[1 - 0.6 * abs(across), 0, 0], [0, 1 - 0.4 * abs(down), 0], [0, 0, 1.0]])
    # Perspective about the middle of the view.
    tilt[2, :2] = np.array([across, down]) / size
    centre = np.eye(3)
    centre[:2, 2] = size / 2
    return np.asarray(centre @ tilt @ np.linalg.inv(centre), np.float64)


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


def cut(image: Image, rng: Rng) -> Image:
    """A face at the picture's border: one side is missing, as the server fills it up."""
    size = image.shape[0]
    out = image.copy()
    # Above and below little goes: a mask on the chin has to stay in sight.
    turns = int(rng.integers(4))
    most = 0.28 if turns % 2 else 0.1
    gone = max(1, round(rng.uniform(0.04, most) * size))
    side = np.rot90(out, turns)
    side[:gone] = side[gone]
    return out


def recolour(image: Image, rng: Rng) -> Image:
    """Brightness, contrast, white balance, saturation; now and then no colour at all."""
    weights = np.array([0.114, 0.587, 0.299])
    saturation = 0.0 if rng.random() < 0.07 else rng.uniform(0.5, 1.4)
    contrast = rng.uniform(0.65, 1.3)
    gains = rng.uniform(0.72, 1.28) * rng.uniform(0.9, 1.1, 3)
    middle = float(weights @ cv2.mean(image)[:3])
    mix = saturation * np.eye(3) + (1 - saturation) * weights
    mix = np.column_stack([contrast * mix, np.full(3, (1 - contrast) * middle)]) * gains[:, None]
    return np.asarray(cv2.transform(image, mix), np.uint8)


def light(image: Image, rng: Rng) -> Image:
    """Light from one side, or a shadow's edge across the face."""
    size = image.shape[0]
    turn = rng.uniform(0, 2 * np.pi)
    along = np.linspace(-1, 1, size, dtype=np.float32)
    place = np.float32(np.cos(turn)) * along + np.float32(np.sin(turn)) * along[:, None]
    if rng.random() < 0.3:
        place = np.tanh(np.float32(rng.uniform(2, 8)) * (place - np.float32(rng.normal(0, 0.4))))
    gain = 1 + np.float32(rng.uniform(0.15, 0.5)) * place
    return np.asarray(np.clip(image * gain[..., None], 0, 255), np.uint8)


def dim(image: Image, rng: Rng) -> Image:
    """Low light with sensor noise, or a light behind the head."""
    if rng.random() < 0.6:
        levels = np.linspace(0, 1, 256) ** rng.uniform(1.0, 1.9) * rng.uniform(0.3, 0.9)
        pixels = levels.astype(np.float32)[image]
    else:
        size = image.shape[0]
        along = np.linspace(-1, 1, size, dtype=np.float32) ** 2
        glow = np.clip(along + along[:, None] - 0.5, 0, 1)[..., None]
        pixels = image * np.float32(rng.uniform(0.42, 0.8) / 255)
        pixels += glow * np.float32(rng.uniform(0.3, 0.8))
    noise = np.float32(rng.uniform(0.005, 0.035))
    pixels += noise * rng.standard_normal(image.shape, np.float32)
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
    small = round(np.exp(rng.uniform(np.log(13), np.log(48))))
    few = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.4:
        few = compress(np.asarray(few, np.uint8), rng)
    up = cv2.INTER_LINEAR if rng.random() < 0.75 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(few, (size, size), interpolation=up), np.uint8)


def compress(image: Image, rng: Rng) -> Image:
    """JPEG artefacts."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))]
    _, coded = cv2.imencode(".jpg", image, quality)
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
