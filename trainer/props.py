"""What stands before or around a face: hands, cups, beards, scarves, glasses, hats, hoods.

All are drawn in face coordinates (see `models.mask_painter`: u to the right, v down, the middle of
the eyes at the origin, one unit between the eyes) and take on the colour of the light on the face.
Every function takes and returns BGR, uint8, H x W x 3.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from models.crop import Image
from models.mask_painter import FaceFrame

Rng = np.random.Generator
Prop = Callable[[Image, FaceFrame, Rng], Image]
Floats = NDArray[np.float32]

_FABRICS = np.array(
    [(30, 28, 28), (60, 40, 30), (120, 90, 60), (40, 40, 130), (90, 110, 90), (150, 150, 155),
     (225, 228, 230), (245, 245, 245), (190, 160, 120), (110, 140, 190)],
    np.float32,
)  # fmt: skip


def hand(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """A hand with three or four fingers before the mouth, in the colour of the face's skin."""
    side = float(rng.choice([-1, 1]))
    skin = _skin(bgr, frame) * rng.uniform(0.85, 1.1)
    wrist = np.array([side * rng.uniform(0.6, 1.3), rng.uniform(2.3, 2.8)])
    aim = np.array([rng.uniform(-0.3, 0.3), rng.uniform(0.85, 1.25)])
    along = aim - wrist
    knuckles = wrist + 0.5 * along
    across = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    width = rng.uniform(0.2, 0.27)
    out = _cover(bgr, frame, _stroke(bgr, frame, [wrist, knuckles], 3.6 * width), skin, rng)
    count = int(rng.integers(3, 5))
    for finger in rng.permutation(count):
        start = knuckles + across * width * (finger - (count - 1) / 2)
        reach = rng.uniform(0.85, 1.15) - 0.1 * abs(finger - (count - 1) / 2)
        tip = start + 0.6 * along * reach + across * 0.12 * (finger - (count - 1) / 2)
        out = _cover(out, frame, _stroke(bgr, frame, [start, tip], width), skin, rng)
    return out


def cup(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """A cup or a bottle at the lips."""
    x, top = rng.uniform(-0.2, 0.2), rng.uniform(0.85, 1.15)
    mouth, foot = rng.uniform(0.2, 0.55), rng.uniform(0.25, 0.45)
    body = [(x - mouth, top), (x + mouth, top), (x + foot, top + 1.5), (x - foot, top + 1.5)]
    colour = _FABRICS[rng.integers(len(_FABRICS))] if rng.random() < 0.6 else rng.uniform(0, 255, 3)
    out = _cover(bgr, frame, _filled(bgr, frame, body), colour, rng)
    lip = [(x - mouth, top), (x + mouth, top)]
    return _cover(out, frame, _stroke(bgr, frame, lip, 0.09), np.asarray(colour) * 0.7 + 60, rng)


def phone(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """A telephone or a card, held before the mouth."""
    x, y = rng.uniform(-0.4, 0.4), rng.uniform(1.15, 1.6)
    half = np.array([rng.uniform(0.35, 0.5), rng.uniform(0.6, 0.9)])
    turn = rng.uniform(-1.2, 1.2)
    rotate = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half @ rotate
    # The nose stays free, or one could take it for a mask.
    corners += [x, max(y, 0.85 - corners[:, 1].min())]
    dark = rng.random() < 0.7
    colour = rng.uniform(10, 60, 3) if dark else rng.uniform(120, 240, 3)
    return _cover(bgr, frame, _filled(bgr, frame, corners), colour, rng)


def microphone(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """A microphone at the mouth: a grille on a handle."""
    x, y = rng.uniform(-0.4, 0.4), rng.uniform(1.15, 1.45)
    foot = (x + rng.uniform(-0.8, 0.8), y + 1.6)
    grey = np.full(3, rng.uniform(20, 70))
    out = _cover(bgr, frame, _stroke(bgr, frame, [(x, y), foot], 0.22), grey, rng)
    ball = _stroke(bgr, frame, [(x, y), (x + 0.01, y + 0.01)], rng.uniform(0.45, 0.65))
    return _cover(out, frame, ball, grey * rng.uniform(0.9, 2.2), rng, grain=18)


def beard(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """A dark or grey full beard that leaves the lips free."""
    low = rng.uniform(1.95, 2.5)
    jaw = [(-0.98, 0.5), (-0.86, 0.95), (-0.5, 0.98), (-0.2, 0.86), (0.2, 0.86), (0.5, 0.98),
           (0.86, 0.95), (0.98, 0.5), (0.9, 1.35), (0.55, low - 0.2), (0, low), (-0.55, low - 0.2),
           (-0.9, 1.35)]  # fmt: skip
    alpha = _filled(bgr, frame, jaw) - _stroke(bgr, frame, [(-0.22, 1.18), (0.22, 1.18)], 0.2)
    soft = cv2.GaussianBlur(np.clip(alpha, 0, 1), (0, 0), max(0.8, 0.06 * frame.scale))
    hair = cv2.resize(rng.uniform(0.55, 1.0, (48, 48)).astype(np.float32), bgr.shape[1::-1])
    tone = np.array([30, 38, 50]) * rng.uniform(0.5, 1.6) if rng.random() < 0.8 else [150, 155, 160]
    return _cover(bgr, frame, soft * hair * rng.uniform(0.7, 0.95), tone, rng, grain=10)


def scarf(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """A scarf or a high collar, at most up to the chin: the mouth stays free."""
    top, dip = rng.uniform(1.6, 2.1), rng.uniform(-0.1, 0.5)
    border = [(-1.6, top - 0.1 - dip / 2), (-0.8, top), (-0.3, top + dip / 2), (0, top + dip / 2),
              (0.3, top + dip / 2), (0.8, top), (1.6, top - 0.1 - dip / 2), (2.4, 4),
              (-2.4, 4)]  # fmt: skip
    colour = _FABRICS[rng.integers(len(_FABRICS))] + rng.normal(0, 15, 3)
    cloth = np.broadcast_to(np.asarray(colour, np.float32), bgr.shape).copy()
    if rng.random() < 0.4:
        height, width = bgr.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        turn, period = rng.uniform(0, np.pi), rng.uniform(0.15, 0.5) * frame.scale
        wave = np.sin((x * np.cos(turn) + y * np.sin(turn)) * 2 * np.pi / period)
        cloth[wave > rng.uniform(-0.3, 0.6)] = rng.uniform(10, 245, 3)
    creases = rng.normal(1.0, 0.14, (9, 7)).astype(np.float32)
    cloth *= cv2.resize(creases, bgr.shape[1::-1], interpolation=cv2.INTER_CUBIC)[..., None]
    return _cover(bgr, frame, _filled(bgr, frame, border), cloth, rng)


def dark_clothes(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """Black clothes up to the chin, of the darkness of a black mask."""
    top = rng.uniform(1.75, 2.1)
    border = [(-3, top - 0.2), (-0.9, top), (0, top + 0.1), (0.9, top), (3, top - 0.2), (3, 5),
              (-3, 5)]  # fmt: skip
    return _cover(bgr, frame, _filled(bgr, frame, border), rng.uniform(15, 50, 3), rng)


def glasses(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """Spectacles or sunglasses."""
    height, width = rng.uniform(0.18, 0.3), rng.uniform(0.3, 0.4)
    shape = rng.uniform(2.0, 4.0)
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    bow = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    ring = np.sign(bow) * np.abs(bow) ** (2 / shape) * [width, height]
    colour = rng.uniform(10, 70, 3) if rng.random() < 0.8 else rng.uniform(100, 220, 3)
    lenses = [ring + np.array([x, 0.05]) for x in (-0.5, 0.5)]
    tint = rng.uniform(0.75, 0.97) if rng.random() < 0.4 else rng.uniform(0.0, 0.2)
    out, thick = bgr, rng.uniform(0.025, 0.055)
    frames = np.zeros(bgr.shape[:2], np.float32)
    for lens in lenses:
        out = _cover(out, frame, tint * _filled(bgr, frame, lens), rng.uniform(10, 50, 3), rng)
        frames = np.maximum(frames, _stroke(bgr, frame, [*lens, lens[0]], thick))
    for start, end in (
        ((-0.12, 0), (0.12, 0)),
        ((-0.9, 0), (-1.25, 0.05)),
        ((0.9, 0), (1.25, 0.05)),
    ):
        frames = np.maximum(frames, _stroke(bgr, frame, [start, end], thick))
    return _cover(out, frame, frames, colour, rng)


def hat(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """A cap or a woollen hat down to the brow."""
    brow, peak = rng.uniform(-0.75, -0.4), rng.uniform(0.0, 0.3)
    rim = brow + peak / 2
    border = [(-1.25, brow + 0.05), (-0.6, rim), (0, rim), (0.6, rim), (1.25, brow + 0.05),
              (1.3, -2.8), (-1.3, -2.8)]  # fmt: skip
    colour = _FABRICS[rng.integers(len(_FABRICS))] + rng.normal(0, 15, 3)
    return _cover(bgr, frame, _filled(bgr, frame, border), colour, rng)


def hood(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """A hood or a headscarf around the face."""
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    round_ = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    face = _filled(bgr, frame, round_ * [rng.uniform(1.08, 1.25), 1.55] + [0, 0.6])
    outer = _filled(bgr, frame, round_ * [rng.uniform(1.6, 2.2), 2.6] + [0, 0.8])
    colour = _FABRICS[rng.integers(len(_FABRICS))] + rng.normal(0, 15, 3)
    return _cover(bgr, frame, np.clip(outer - face, 0, 1), colour, rng)


def turned(bgr: Image, frame: FaceFrame, rng: Rng) -> Image:
    """The face as if seen from the side: foreshortened, one half more than the other."""
    height, width = bgr.shape[:2]
    middle = frame.matrix @ [0.0, 0.7, 1.0]
    near, far = rng.uniform(0.95, 1.15), rng.uniform(0.55, 0.8)
    left, right = (near, far) if rng.random() < 0.5 else (far, near)
    x = np.arange(width, dtype=np.float32) - np.float32(middle[0])
    source = np.where(x < 0, x / np.float32(left), x / np.float32(right)) + np.float32(middle[0])
    map_x = np.broadcast_to(source, (height, width)).astype(np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    map_y = np.ascontiguousarray(np.broadcast_to(rows, (height, width)))
    warped = cv2.remap(bgr, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def _skin(bgr: Image, frame: FaceFrame) -> Floats:
    """The middle colour of nose bridge and cheeks, BGR."""
    spots = np.array([(u, v, 1.0) for u in (-0.45, -0.2, 0.0, 0.2, 0.45) for v in (0.3, 0.5)])
    places = np.round(spots @ frame.matrix.T).astype(int)
    x = np.clip(places[:, 0], 0, bgr.shape[1] - 1)
    y = np.clip(places[:, 1], 0, bgr.shape[0] - 1)
    return np.asarray(np.median(bgr[y, x], axis=0), np.float32)


def _pixels(frame: FaceFrame, points: object) -> NDArray[np.int32]:
    """Face coordinates (N x 2) to pixels in sixteenths, as OpenCV draws them with shift=4."""
    flat = np.asarray(points, np.float64)
    places = flat @ frame.matrix[:, :2].T + frame.matrix[:, 2]
    return np.round(np.clip(places, -2000, 2000) * 16).astype(np.int32)


def _filled(bgr: Image, frame: FaceFrame, points: object) -> Floats:
    canvas = np.zeros(bgr.shape[:2], np.uint8)
    cv2.fillPoly(canvas, [_pixels(frame, points)], 255, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255)


def _stroke(bgr: Image, frame: FaceFrame, points: object, thick: float) -> Floats:
    """A line with round ends, `thick` in face coordinates."""
    canvas = np.zeros(bgr.shape[:2], np.uint8)
    pixels = max(1, round(thick * frame.scale))
    cv2.polylines(canvas, [_pixels(frame, points)], False, 255, pixels, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255)


def _cover(
    bgr: Image, frame: FaceFrame, alpha: Floats, colour: object, rng: Rng, grain: float = 3.0
) -> Image:
    """`colour` (3, or H x W x 3) laid on by `alpha` (H x W): lit from one side, round, shadowed."""
    if not alpha.any():
        return bgr
    soft = cv2.GaussianBlur(alpha, (0, 0), max(0.8, 0.1 * frame.scale))
    # Its border turns away from the viewer; one side is nearer to the light.
    shade = 0.55 + 0.5 * soft + np.linspace(-0.15, 0.15, bgr.shape[1]) * rng.uniform(-1, 1)
    light = np.clip((float(bgr.mean()) / 120) ** 0.5, 0.4, 1.15)
    layer = np.asarray(colour, np.float32) * (shade * light)[..., None].astype(np.float32)
    layer += np.float32(grain) * rng.standard_normal(alpha.shape, np.float32)[..., None]
    under = bgr * (1 - np.float32(0.25) * soft[..., None])
    mixed = under + alpha[..., None] * (layer - under)
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


BEFORE_MOUTH: tuple[Prop, ...] = (hand, cup, phone, microphone, beard, scarf)
"""Over a bare face: it still wears no mask."""
AROUND: tuple[Prop, ...] = (glasses, hat, hood)
"""Over any face: it says nothing about the mask."""
