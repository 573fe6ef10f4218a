"""Draws face masks on a BGR face: for synthetic training faces and for the `demo:` source.

The mask is drawn flat in face coordinates (u to the right, v down, the middle of the eyes at the
origin, one unit between the eyes) and then warped onto the face that the landmarks describe.
"""

from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Wearing = Literal[
    "correct",
    "nose_tip_out",
    "nose_out",
    "below_mouth",
    "chin",
    "mouth_out",
    "half_off",
    "one_ear",
]
Style = Literal["surgical", "cloth", "dark", "respirator", "patterned"]
WEARINGS: tuple[Wearing, ...] = get_args(Wearing)
STYLES: tuple[Style, ...] = get_args(Style)

# Where a frontal face has its landmarks, in face coordinates (proportions of a mean face).
TEMPLATE: Floats = np.array(
    [[-0.5, 0.0], [0.5, 0.0], [0.0, 0.57], [-0.42, 1.16], [0.42, 1.16]], np.float32
)
# The part of the face plane on which a mask is drawn: u and v ranges.
_U0, _U1, _V0, _V1 = -1.5, 1.5, -0.2, 3.0

Range = tuple[float, float]


class Fit(NamedTuple):
    """How a mask sits, as ranges of v: its edges in the middle, and what its upper edge drops
    from the middle to the sides (negative: the sides are higher, as of a mask pulled down)."""

    top: Range
    bottom: Range
    drop: Range


# The nose tip is at 0.57, the nostrils at 0.68, the mouth at 1.16, the chin at about 1.85.
_FITS: dict[Wearing, Fit] = {
    "correct": Fit((0.06, 0.38), (1.82, 2.12), (0.08, 0.38)),
    "nose_tip_out": Fit((0.72, 0.80), (1.90, 2.15), (-0.22, 0.08)),
    "nose_out": Fit((0.78, 0.98), (1.92, 2.25), (-0.40, 0.08)),
    "below_mouth": Fit((1.34, 1.48), (2.02, 2.36), (-0.55, -0.05)),
    "chin": Fit((1.45, 1.66), (2.12, 2.60), (-0.70, -0.10)),
    "mouth_out": Fit((0.05, 0.30), (0.90, 1.00), (-0.05, 0.20)),
    "half_off": Fit((0.22, 0.40), (1.70, 2.00), (0.05, 0.30)),
    "one_ear": Fit((0.22, 0.40), (1.70, 2.00), (0.05, 0.30)),
}
_EAR: Floats = np.array([1.0, 0.6], np.float32)
"""Where a mask that has come off one ear still holds: it has turned about this point."""


class Outline(NamedTuple):
    """A mask's border in face coordinates.

    `middle` and `side` are the v of the upper and lower edge there before the mask was turned;
    `half` is its half width; `pose` (2 x 3) turns it to where it hangs; `held` is 1 or -1 where
    only the right or left ear holds it, else 0; `corners` are right upper, right lower, left
    lower, left upper.
    """

    points: Floats
    corners: Floats
    middle: Range
    side: Range
    half: float
    pose: Floats
    held: int

    def cloth(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Where on the cloth the face coordinates lie: across (u), and 0..1 from top to bottom."""
        inverse = np.linalg.inv(self.pose[:, :2])
        du, dv = u - self.pose[0, 2], v - self.pose[1, 2]
        across = inverse[0, 0] * du + inverse[0, 1] * dv
        down = inverse[1, 0] * du + inverse[1, 1] * dv
        bend = np.minimum(np.abs(across) / self.half, 1.0) ** 1.5
        top = self.middle[0] + (self.side[0] - self.middle[0]) * bend
        bottom = self.middle[1] + (self.side[1] - self.middle[1]) * bend
        return across, (down - top) / np.maximum(bottom - top, 0.1)


class FaceFrame(NamedTuple):
    """Face coordinates to pixels: an affine part and a shift that grows towards the nose."""

    matrix: NDArray[np.float64]
    bulge: NDArray[np.float64]
    scale: float


def paint_mask(
    bgr: Image,
    landmarks: NDArray[np.floating],
    *,
    wearing: Wearing,
    style: Style,
    rng: np.random.Generator,
    opacity: float = 1.0,
) -> Image:
    """Return a copy of `bgr` (H x W x 3, uint8) with a mask drawn on the face.

    `landmarks` is 5 x 2, in pixels: left eye, right eye, nose tip, left and right mouth corner
    (left as the viewer sees it). The same `rng` state gives the same picture. Raises ValueError
    on an unknown wearing or style, a wrong shape, or landmarks that lie on one spot.
    """
    if style not in STYLES:
        raise ValueError(f"unknown mask style {style!r}; one of {', '.join(STYLES)}")
    frame = face_frame(landmarks)
    outline = mask_outline(wearing, rng)
    pixels_per_unit = sheet_scale(frame)
    alpha = coverage(outline, pixels_per_unit)
    colour = _fabric(style, outline, alpha, pixels_per_unit, rng)
    strap_colour, straps = _straps(style, outline, pixels_per_unit, rng)
    colour = np.where(alpha[..., None] > 0.02, colour, strap_colour)
    sheet = np.dstack([colour, np.maximum(alpha, straps)])
    return blend_sheet(bgr, sheet.astype(np.float32), frame, rng=rng, opacity=opacity)


def face_frame(landmarks: NDArray[np.floating]) -> FaceFrame:
    """Fit face coordinates to five landmarks (5 x 2, pixels). Raises ValueError if degenerate."""
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(f"expected 5 x 2 finite landmarks, got shape {points.shape}")
    ones = np.ones((5, 1))
    # The nose is left to the bulge: it moves sideways with the head, the other four do not.
    rows = np.hstack([TEMPLATE, ones])[[0, 1, 3, 4]]
    solution, *_ = np.linalg.lstsq(rows, points[[0, 1, 3, 4]], rcond=None)
    matrix = solution.T
    area = abs(np.linalg.det(matrix[:, :2]))
    if area < 1.0:
        raise ValueError("the landmarks lie on one line or on one spot")
    nose = matrix @ np.append(TEMPLATE[2], 1.0)
    return FaceFrame(matrix, points[2] - nose, float(np.sqrt(area)))


def sheet_scale(frame: FaceFrame) -> float:
    """Pixels of the sheet per unit of face coordinates that suit a face of this size."""
    return float(np.clip(1.6 * frame.scale, 24, 160))


def mask_outline(wearing: Wearing, rng: np.random.Generator) -> Outline:
    """A smooth closed border for a mask that is worn in the given way, with a little chance."""
    if wearing not in _FITS:
        raise ValueError(f"unknown way of wearing {wearing!r}; one of {', '.join(WEARINGS)}")
    top, bottom, drop = (float(rng.uniform(*span)) for span in _FITS[wearing])
    side_top = top + drop
    side_bottom = side_top + (bottom - side_top) * rng.uniform(0.5, 0.75)
    half = rng.uniform(0.88, 1.06) * (1.0 if side_top < 1.2 else 0.94)
    jaw = max(1.0 - 0.3 * max(0.0, side_bottom - 1.0), 0.6)
    lower = half * jaw * rng.uniform(0.86, 1.06)
    # A wire presses the edge to the nose; without it the edge hangs like a bowl.
    near, far = (0.12, 0.72) if drop > 0 else (0.1, 0.5)
    right = np.array([
        (0.0, top),
        (0.22, top + near * drop),
        (0.58, top + far * drop),
        (half, side_top),
        (0.5 * (half + lower) + 0.02, 0.5 * (side_top + side_bottom)),
        (lower, side_bottom),
        (0.52 * lower + 0.06, bottom - 0.2 * (bottom - side_bottom)),
        (0.0, bottom),
    ])  # fmt: skip
    ring = np.vstack([right, right[1:-1][::-1] * [-1.0, 1.0]])
    ring[:, 1] += rng.normal(0.0, 0.03 if wearing == "correct" else 0.06) * ring[:, 0]
    ring += rng.normal(0.0, 0.012 if wearing == "correct" else 0.022, ring.shape)
    pose, held = _pose(wearing, rng)
    ring = ring @ pose[:, :2].T + pose[:, 2]
    corners = ring[[3, 5, len(right) + 1, len(right) + 3]].astype(np.float32)
    edges = (top, bottom), (side_top, side_bottom)
    return Outline(_smooth(ring).astype(np.float32), corners, *edges, half, pose, held)


def _pose(wearing: Wearing, rng: np.random.Generator) -> tuple[Floats, int]:
    """How a mask that one ear lost has turned about the other (2 x 3), and which ear holds it."""
    if wearing not in ("half_off", "one_ear"):
        return np.eye(2, 3, dtype=np.float32), 0
    held = int(rng.choice([-1, 1]))
    hangs = wearing == "one_ear"
    turn = np.deg2rad(rng.uniform(65, 88) if hangs else rng.uniform(28, 45))
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    # What hangs from one ear is seen from its side, on the cheek.
    narrow = rng.uniform(0.3, 0.55) if hangs else 1.0
    matrix = np.array([[cos, held * sin], [-held * sin, cos]]) * [rng.uniform(0.8, 1.0), narrow]
    ear = _EAR * [held, 1]
    inward = rng.uniform(0.15, 0.45) if hangs else 0.0
    shift = ear - matrix @ ear - [held * inward, 0.0]
    return np.column_stack([matrix, shift]).astype(np.float32), held


def coverage(outline: Outline, pixels_per_unit: float) -> Floats:
    """The mask's opacity on its sheet, 0 to 1, with soft edges."""
    canvas = np.zeros(_sheet_shape(pixels_per_unit), np.uint8)
    points = np.round(_to_sheet(outline.points, pixels_per_unit) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255, lineType=cv2.LINE_AA, shift=4)
    soft = cv2.GaussianBlur(canvas, (0, 0), max(0.6, 0.012 * pixels_per_unit))
    return np.asarray(soft, np.float32) / 255.0


def sheet_pixels(pixels_per_unit: float) -> tuple[Floats, Floats]:
    """The face coordinates (u, v) of every pixel of a sheet, each h x w."""
    height, width = _sheet_shape(pixels_per_unit)
    u = np.linspace(_U0, _U1, width, dtype=np.float32)
    v = np.linspace(_V0, _V1, height, dtype=np.float32)
    across, down = np.meshgrid(u, v)
    return across, down


def sheet_map(
    frame: FaceFrame, pixels_per_unit: float, region: tuple[int, int, int, int]
) -> tuple[Floats, Floats]:
    """For every pixel of region (x0, y0, x1, y1) the place on the sheet that it shows."""
    x0, y0, x1, y1 = region
    xs, ys = np.meshgrid(np.arange(x0, x1), np.arange(y0, y1))
    inverse = np.linalg.inv(frame.matrix[:, :2])
    dx, dy = xs - frame.matrix[0, 2], ys - frame.matrix[1, 2]
    u = inverse[0, 0] * dx + inverse[0, 1] * dy
    v = inverse[1, 0] * dx + inverse[1, 1] * dy
    shift_u, shift_v = inverse @ frame.bulge
    shift_u, shift_v = np.clip(shift_u, -0.45, 0.45), np.clip(shift_v, -0.2, 0.2)
    # The bulge depends on the place itself; one correction is exact enough for a drawing.
    weight = _bulge_weight(u - shift_u * _bulge_weight(u, v), v)
    map_x = (u - shift_u * weight - _U0) * pixels_per_unit
    map_y = (v - shift_v * weight - _V0) * pixels_per_unit
    return map_x.astype(np.float32), map_y.astype(np.float32)


def blend_sheet(
    bgr: Image,
    sheet: Floats,
    frame: FaceFrame,
    *,
    rng: np.random.Generator,
    opacity: float,
    relight: float = 1.0,
) -> Image:
    """Warp a drawn sheet (h x w x 4: BGR 0..255 and opacity 0..1) onto the face and blend it.

    `relight` is how far the mask takes on the light of the face: 0 not at all, 1 wholly.
    """
    pixels_per_unit = sheet.shape[1] / (_U1 - _U0)
    region = _region(frame, bgr.shape)
    x0, y0, x1, y1 = region
    out = bgr.copy()
    if x1 <= x0 or y1 <= y0:
        return out
    map_x, map_y = sheet_map(frame, pixels_per_unit, region)
    warped = cv2.remap(sheet, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    alpha = np.clip(warped[..., 3] * opacity, 0.0, 1.0)
    face = bgr[y0:y1, x0:x1].astype(np.float32)
    mask = warped[..., :3] * (_light(face, alpha) ** np.float32(relight))[..., None]
    mask += 2.0 * rng.standard_normal(alpha.shape, np.float32)[..., None]
    shadow = cv2.GaussianBlur(alpha, (0, 0), max(0.7, rng.uniform(0.03, 0.07) * frame.scale))
    face *= np.float32(1.0) - np.float32(rng.uniform(0.15, 0.4)) * shadow[..., None]
    mixed = face + alpha[..., None] * (mask - face)
    touched = (shadow > 0.01)[..., None]
    out[y0:y1, x0:x1] = np.where(touched, np.clip(mixed, 0, 255), out[y0:y1, x0:x1])
    return out


def _bulge_weight(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    across = np.clip(1.0 - (u / 1.05) ** 2, 0.0, 1.0)
    down = np.clip(1.0 - ((v - 0.6) / 1.6) ** 2, 0.0, 1.0)
    return across * down


def _region(frame: FaceFrame, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The pixels that the sheet can reach, cut to the picture."""
    corners = np.array([[_U0, _V0, 1], [_U1, _V0, 1], [_U0, _V1, 1], [_U1, _V1, 1]])
    places = corners @ frame.matrix.T
    low = np.floor(places.min(axis=0)).astype(int)
    high = np.ceil(places.max(axis=0)).astype(int) + 1
    x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
    return x0, y0, min(shape[1], int(high[0])), min(shape[0], int(high[1]))


def _light(face: Floats, alpha: Floats) -> Floats:
    """How bright the mask is to be: the light on the face below, smoothed."""
    luma = face @ np.array([0.114, 0.587, 0.299], np.float32)
    inside = alpha > 0.5
    if not inside.any():
        return np.ones_like(luma)
    mean = float(luma[inside].mean())
    sigma = max(1.0, 0.12 * max(luma.shape))
    smooth = cv2.GaussianBlur(luma, (0, 0), sigma)
    local = np.clip(smooth / max(mean, 1.0), 0.55, 1.45) ** 0.6
    return np.asarray(local * np.clip((mean / 140.0) ** 0.55, 0.3, 1.15), np.float32)


def _sheet_shape(pixels_per_unit: float) -> tuple[int, int]:
    return round((_V1 - _V0) * pixels_per_unit), round((_U1 - _U0) * pixels_per_unit)


def _to_sheet(points: Floats, pixels_per_unit: float) -> Floats:
    return (points - np.array([_U0, _V0], np.float32)) * np.float32(pixels_per_unit)


def _smooth(ring: NDArray[np.floating], steps: int = 8) -> NDArray[np.float64]:
    """A closed Catmull-Rom curve through the points."""
    p0, p1, p2, p3 = (np.roll(ring, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return np.asarray(curve.reshape(-1, 2))


_PALETTES: dict[Style, tuple[tuple[int, int, int], ...]] = {  # BGR
    "surgical": ((225, 190, 140), (235, 215, 175), (205, 215, 165), (240, 240, 238),
                 (246, 244, 240), (228, 205, 170), (200, 185, 230), (175, 190, 130)),
    "cloth": ((90, 90, 200), (140, 110, 60), (80, 140, 90), (170, 170, 175), (60, 150, 210),
              (150, 90, 140), (215, 225, 235), (120, 140, 165), (150, 175, 215), (90, 120, 165)),
    "dark": ((28, 26, 26), (45, 40, 36), (60, 38, 28), (38, 34, 52)),
    "respirator": ((240, 242, 242), (228, 230, 228), (205, 205, 205), (70, 70, 72)),
    "patterned": ((90, 60, 190), (200, 160, 90), (80, 150, 120), (225, 225, 225), (60, 60, 60),
                  (60, 170, 220)),
}  # fmt: skip


def _fabric(
    style: Style, outline: Outline, alpha: Floats, ppu: float, rng: np.random.Generator
) -> Floats:
    """The mask's colours on the sheet, h x w x 3, BGR 0..255, as if worn in even light."""
    u, depth = outline.cloth(*sheet_pixels(ppu))
    palette = _PALETTES[style]
    base = np.array(palette[rng.integers(len(palette))], np.float32) + rng.normal(0, 12, 3)
    colour = np.broadcast_to(base.astype(np.float32), (*u.shape, 3)).copy()
    if style == "patterned":
        _print_pattern(colour, u, depth * 1.7, rng)
    shade = 1.06 - 0.26 * np.abs(u) ** 2.2 - 0.2 * np.clip(depth - 0.45, 0, 1) ** 1.5
    shade += 0.07 * np.exp(-((u / 0.25) ** 2)) * np.exp(-(((depth - 0.3) / 0.3) ** 2))
    shade += rng.normal(0, 0.08) * u + folds(u, depth, rng)
    if style == "surgical":
        shade += _pleats(u, depth, rng)
    elif style == "respirator":
        shade += _respirator_relief(u, depth, rng)
    elif style == "cloth" and rng.random() < 0.6:
        shade -= 0.12 * np.exp(-((u / 0.02) ** 2))
    shade += _hem(alpha, ppu, rng)
    weave = 0.02 if style in ("cloth", "patterned") else 0.008
    shade += weave * rng.standard_normal(u.shape, np.float32)
    return np.asarray(np.clip(colour * shade[..., None], 0, 255), np.float32)


def folds(u: Floats, depth: Floats, rng: np.random.Generator) -> Floats:
    """Brightness that creases add to cloth, at its coordinates `u` and `depth` (h x w each)."""
    coarse = rng.normal(0.0, 0.05, (8, 5)).astype(np.float32)
    relief = cv2.resize(coarse, u.shape[::-1], interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 4)):
        # A crease: bright on one flank, dark on the other, fading to its ends.
        place, slope, bend = rng.uniform(0.1, 0.9), rng.normal(0, 0.25), rng.normal(0, 0.15)
        across = (depth - place - slope * u - bend * u**2) / rng.uniform(0.04, 0.1)
        length = np.exp(-(((u - rng.uniform(-0.8, 0.8)) / 0.5) ** 2))
        relief -= rng.uniform(0.1, 0.3) * across * np.exp(-(across**2)) * length
    return np.asarray(relief, np.float32)


def _hem(alpha: Floats, ppu: float, rng: np.random.Generator) -> Floats:
    """The cloth turns away and is sewn double along its border."""
    inside = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 3) / ppu
    seam = rng.uniform(0.0, 0.12)
    rim = -0.16 * np.exp(-inside / 0.07) + seam * np.exp(-(((inside - 0.03) / 0.02) ** 2))
    return np.asarray(rim - seam * np.exp(-(((inside - 0.08) / 0.015) ** 2)), np.float32)


def _pleats(u: Floats, depth: Floats, rng: np.random.Generator) -> Floats:
    """Three pleats that sag in the middle: a dark line with a light one below."""
    relief = np.zeros_like(depth)
    for place in (0.3, 0.5, 0.7):
        line = depth - place - rng.normal(0, 0.015) - 0.05 * (1 - u**2)
        relief -= rng.uniform(0.06, 0.18) * np.exp(-((line / 0.018) ** 2))
        relief += 0.07 * np.exp(-(((line - 0.035) / 0.02) ** 2))
    return relief


def _respirator_relief(u: Floats, depth: Floats, rng: np.random.Generator) -> Floats:
    """A folded ridge (upright or level), and now and then a valve."""
    ridge = u if rng.random() < 0.6 else (depth - 0.5) + 0.08 * u**2
    relief = -0.16 * np.exp(-((ridge / 0.02) ** 2)) + 0.10 * np.exp(-(((ridge + 0.06) / 0.05) ** 2))
    relief -= rng.uniform(0, 0.2) * np.clip(ridge, 0, 0.4)
    if rng.random() < 0.25:
        side = rng.choice([-0.4, 0.0, 0.4])
        distance = np.sqrt((u - side) ** 2 + ((depth - 0.45) * 1.6) ** 2)
        relief = relief - 0.2 * (distance < 0.2) + 0.12 * (np.abs(distance - 0.12) < 0.02)
    return np.asarray(relief, np.float32)


def _print_pattern(colour: Floats, u: Floats, v: Floats, rng: np.random.Generator) -> None:
    """Print stripes, dots, checks or blotches in a second colour, in place."""
    ink = rng.uniform(10, 245, 3).astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.12, 0.34)
    a = (u * np.cos(angle) + v * np.sin(angle)) * (2 * np.pi / period)
    b = (v * np.cos(angle) - u * np.sin(angle)) * (2 * np.pi / period)
    kind = rng.integers(4)
    if kind == 0:
        where = np.sin(a) > rng.uniform(-0.3, 0.5)
    elif kind == 1:
        where = np.sin(a) + np.sin(b) > rng.uniform(0.6, 1.2)
    elif kind == 2:
        where = (np.sin(a) > 0) ^ (np.sin(b) > 0)
    else:
        coarse = rng.normal(0, 1, (14, 14)).astype(np.float32)
        height, width = colour.shape[:2]
        where = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) > 0.2
    colour[where] = ink


def _straps(
    style: Style, outline: Outline, ppu: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """The straps' colour (BGR) and their opacity on the sheet."""
    canvas = np.zeros(_sheet_shape(ppu), np.uint8)
    thick = max(1, round((0.045 if style == "respirator" else 0.028) * ppu))
    ear = np.array([rng.uniform(1.1, 1.3), rng.uniform(0.2, 0.5)], np.float32)
    for side, (upper, lower) in ((1, (0, 1)), (-1, (3, 2))):
        ends = outline.corners[[upper, lower]]
        if outline.held == -side:
            # Off the ear: one loop that dangles from the cloth.
            away = rng.uniform(0.5, 1.0) * (ends.mean(axis=0) - outline.points.mean(axis=0))
            curves = [np.stack([ends[0], ends.mean(axis=0) + away + [0, 0.3], ends[1]])]
        else:
            slack = [side * rng.uniform(0, 0.12), rng.uniform(0, 0.2)]
            hold = ear * [side, 1]
            curves = [np.stack([end, (end + hold) / 2 + slack, hold]) for end in ends]
        for curve in curves:
            places = np.round(_to_sheet(_arc(curve), ppu) * 16).astype(np.int32)
            cv2.polylines(canvas, [places], isClosed=False, color=255, thickness=thick,
                          lineType=cv2.LINE_AA, shift=4)  # fmt: skip
    dark = style == "dark" or rng.random() < 0.15
    colour = np.full(3, 45.0 if dark else 205.0, np.float32) + rng.normal(0, 12, 3)
    # Hair, ears and the turn of the head hide them more often than not.
    opacity = 0.0 if rng.random() < 0.3 else rng.uniform(0.3, 0.9)
    return colour.astype(np.float32), canvas.astype(np.float32) * np.float32(opacity / 255.0)


def _arc(curve: NDArray[np.floating], steps: int = 10) -> Floats:
    """A quadratic Bezier curve through its control points (3 x 2)."""
    t = np.linspace(0, 1, steps)[:, None]
    arc = (1 - t) ** 2 * curve[0] + 2 * t * (1 - t) * curve[1] + t**2 * curve[2]
    return np.asarray(arc, np.float32)
