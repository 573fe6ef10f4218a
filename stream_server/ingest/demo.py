"""The built-in `demo:` source: six moving faces that put masks on, wear them wrong, take them off.

The portraits are the sample pictures that scikit-image and matplotlib ship: Eileen Collins (NASA)
and Grace Hopper (US Navy), both in the public domain.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from models.mask_painter import Style, Wearing, paint_mask
from stream_server.errors import SourceUnsupported
from stream_server.frames import FaceBox, Picture, Pixels, Verdict
from stream_server.ingest.reader import Reader, drive
from stream_server.ports import PictureSink

Points = npt.NDArray[np.float64]

COLUMNS, ROWS = 3, 2
SLOT_SECONDS = 5.0
FADE_SECONDS = 0.8
UNCLEAR_BLUR = 5.0  # px of the portrait
SWING, SWING_SECONDS = 0.04, 2.6
# Every verdict is reached by one face before another leaves it, so that all four are always there.
_EARLY, _MIDDLE, _LATE = 0.0, FADE_SECONDS + 0.1, 2 * FADE_SECONDS + 0.2


@dataclass(frozen=True, slots=True)
class Portrait:
    """A sample picture and where its face is (px, measured with CenterFace).

    `centre` and `width` (px) say what fills a tile when it is not zoomed.
    """

    package: str
    file: str
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    centre: tuple[float, float]
    width: float


ASTRONAUT = Portrait(
    "skimage",
    "data/astronaut.png",
    (176.4, 74.1, 272.8, 186.5),
    ((202.5, 103.9), (248.0, 104.4), (224.2, 126.4), (204.5, 145.4), (243.5, 145.6)),
    (226, 128),
    272,
)
HOPPER = Portrait(
    "matplotlib",
    "mpl-data/sample_data/grace_hopper.jpg",
    (176.6, 163.2, 363.7, 352.6),
    ((217.2, 197.4), (307.1, 188.1), (265.7, 235.7), (233.9, 279.6), (308.2, 271.7)),
    (262, 226),
    444,
)


class Look(NamedTuple):
    """One face on the wall: whose, how it is tinted (BGR gains, saturation), what it wears.

    `sheer` is how opaque its mask is in the unclear stage, where neither answer would be right:
    found by trying, it swings by `SWING` so that another model meets its own limit in passing.
    """

    portrait: Portrait
    mirrored: bool
    gains: tuple[float, float, float]
    saturation: float
    style: Style
    seed: int
    first_slot: int
    sheer: float


LOOKS = (
    Look(ASTRONAUT, False, (1.0, 1.0, 1.0), 1.0, "surgical", 3, 0, 0.28),
    Look(HOPPER, False, (1.0, 1.0, 1.0), 1.0, "respirator", 5, 2, 0.47),
    Look(ASTRONAUT, True, (0.86, 0.98, 1.06), 0.9, "dark", 7, 4, 0.28),
    Look(HOPPER, True, (1.05, 1.0, 0.92), 0.75, "surgical", 11, 1, 0.27),
    Look(ASTRONAUT, False, (1.04, 1.0, 0.97), 0.8, "respirator", 13, 3, 0.30),
    Look(HOPPER, False, (0.88, 0.97, 1.05), 0.5, "dark", 17, 5, 0.37),
)


class Stage(NamedTuple):
    """How a face is shown: how its mask is worn (None: none), and whether it is hard to see."""

    verdict: Verdict
    wearing: Wearing | None
    unclear: bool = False


BARE = Stage(Verdict.WITHOUT_MASK, None)
WORN = Stage(Verdict.WITH_MASK, "correct")
WRONG = Stage(Verdict.INCORRECT, "nose_out")
LOW = Stage(Verdict.INCORRECT, "below_mouth")
UNCLEAR = Stage(Verdict.UNCERTAIN, "correct", unclear=True)
STAGES = (BARE, WORN, WRONG, LOW, UNCLEAR)
CYCLE = (BARE, WORN, WRONG, WORN, UNCLEAR, BARE)
# What is seen between two of the cycle, other than a fade.
DETOURS = {(BARE, WORN): (LOW,)}


@dataclass(frozen=True, slots=True)
class Truth:
    """What the demo shows at a place: `box` in px of the picture; `verdict` None in a change."""

    box: FaceBox
    verdict: Verdict | None


class Planes(NamedTuple):
    """Luma and both chroma planes of a picture part, each contiguous."""

    y: Pixels
    u: Pixels
    v: Pixels

    def mixed(self, other: Planes, share: float) -> Planes:
        """A cross-fade with planes of the same size: `share` 0 is self, 1 is the other."""
        y, u, v = (
            np.asarray(cv2.addWeighted(a, 1 - share, b, share, 0), np.uint8)
            for a, b in zip(self, other, strict=True)
        )
        return Planes(y, u, v)


class Moment(NamedTuple):
    """What a tile shows: a mix of two stages, and the stage it has settled on, if any."""

    before: Stage
    after: Stage
    share: float

    @property
    def verdict(self) -> Verdict | None:
        return self.before.verdict if self.share == 0.0 else None


def stage_at(seconds: float) -> Moment:
    """Where a face that began with the cycle at 0 is in it."""
    slot, into = divmod(seconds, SLOT_SECONDS)
    now = CYCLE[int(slot) % len(CYCLE)]
    before = CYCLE[int(slot - 1) % len(CYCLE)]
    path = (before, *DETOURS.get((before, now), ()), now)
    progress = (into - _fade_start(before, now)) / FADE_SECONDS * (len(path) - 1)
    if before == now or progress >= len(path) - 1:
        return Moment(now, now, 0.0)
    if progress <= 0:
        return Moment(before, before, 0.0)
    step = int(progress)
    first, second = tuple(pairwise(path))[step]
    return Moment(first, second, max(progress - step, 1e-3))


def _fade_start(before: Stage, now: Stage) -> float:
    rare = (Verdict.INCORRECT, Verdict.UNCERTAIN)
    if now.verdict in rare:
        return _MIDDLE
    return _LATE if before.verdict in rare else _EARLY


class Tile:
    """One face in its frame: every stage drawn beforehand, moved and zoomed for each picture."""

    def __init__(self, look: Look, corner: tuple[int, int], size: tuple[int, int]) -> None:
        """`corner` and `size` of the frame in px, all even."""
        self.corner, self.size = corner, size
        self._look = look
        self._phase = look.seed * 1.7
        face = _Face.load(look)
        # Room for the widest view and the farthest shift.
        self._scale = 1.1 * size[0] / look.portrait.width
        opacity = look.sheer - SWING
        self._plates = {stage: _plate(face, stage, look, self._scale, opacity) for stage in STAGES}
        self._denser = _plate(face, UNCLEAR, look, self._scale, look.sheer + SWING)
        self._face = face

    def moment(self, t: float) -> Moment:
        """What it shows at time `t` (s)."""
        return stage_at(t + self._look.first_slot * SLOT_SECONDS)

    def draw(self, picture: Picture, t: float) -> None:
        """Draw the frame of time `t` (s) into the picture."""
        moment = self.moment(t)
        plate = self._plate_at(moment.before, t)
        if moment.share:
            plate = plate.mixed(self._plate_at(moment.after, t), moment.share)
        zoom, dx, dy = self._view(t)
        (left, top), (width, height) = self.corner, self.size
        for index, (source, target) in enumerate(
            zip(plate, (picture.y, picture.u, picture.v), strict=True)
        ):
            shrink = 2 if index else 1
            # A chroma sample lies in the middle of its four pixels.
            shift = (0.5 * zoom - 0.5) / 2 if index else 0.0
            matrix = np.array(
                [[zoom, 0, dx / shrink + shift], [0, zoom, dy / shrink + shift]], np.float64
            )
            rows = slice(top // shrink, (top + height) // shrink)
            columns = slice(left // shrink, (left + width) // shrink)
            target[rows, columns] = cv2.warpAffine(
                source,
                matrix,
                (width // shrink, height // shrink),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )

    def _plate_at(self, stage: Stage, t: float) -> Planes:
        plate = self._plates[stage]
        if not stage.unclear:
            return plate
        swing = math.sin(2 * math.pi * t / SWING_SECONDS + self._phase)
        return plate.mixed(self._denser, 0.5 + 0.5 * swing)

    def truth(self, t: float) -> Truth:
        """Where the face is at time `t`, and what is to be said of it."""
        zoom, dx, dy = self._view(t)
        scale = zoom * self._scale
        offset = np.array([dx + self.corner[0], dy + self.corner[1]])
        x0, y0, x1, y1 = (
            (np.array(self._face.box).reshape(2, 2) * scale + offset).reshape(4).tolist()
        )
        landmarks = tuple((float(x), float(y)) for x, y in self._face.landmarks * scale + offset)
        return Truth(FaceBox(x0, y0, x1, y1, 1.0, landmarks), self.moment(t).verdict)

    def _view(self, t: float) -> tuple[float, float, float]:
        """From the plate to the frame: zoom, then shift (px)."""
        phase, (width, height) = self._phase, self.size
        zoom = (1.02 + 0.11 * math.sin(t / 3.1 + phase)) / 1.1
        x = self._face.centre[0] * self._scale + 0.04 * width * math.sin(t / 2.3 + 2 * phase)
        y = self._face.centre[1] * self._scale + 0.03 * height * math.sin(t / 1.9 + 3 * phase)
        return zoom, width / 2 - zoom * x, height / 2 - zoom * y


class _Face(NamedTuple):
    """A portrait as one look shows it: mirrored and tinted, its face's places moved along."""

    bgr: Pixels
    box: tuple[float, float, float, float]
    landmarks: Points
    centre: tuple[float, float]

    @classmethod
    def load(cls, look: Look) -> _Face:
        bgr, portrait = _read(look.portrait), look.portrait
        box, centre = portrait.box, portrait.centre
        landmarks = np.array(portrait.landmarks)
        if look.mirrored:
            last = bgr.shape[1] - 1
            bgr = np.ascontiguousarray(bgr[:, ::-1])
            box = (last - box[2], box[1], last - box[0], box[3])
            centre = (last - centre[0], centre[1])
            # Left stays what the viewer sees on the left.
            landmarks = (landmarks * [-1, 1] + [last, 0])[[1, 0, 2, 4, 3]]
        grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)[..., None].astype(np.float32)
        tinted = (grey + look.saturation * (bgr - grey)) * np.array(look.gains, np.float32)
        return cls(np.clip(tinted, 0, 255).astype(np.uint8), box, landmarks, centre)


def _read(portrait: Portrait) -> Pixels:
    # Found without importing: matplotlib alone would cost half a second.
    spec = find_spec(portrait.package)
    places = spec.submodule_search_locations if spec is not None else None
    bgr = cv2.imread(str(Path(places[0]) / portrait.file)) if places else None
    if bgr is None:
        raise SourceUnsupported(
            f"the demo's portraits come with the package {portrait.package}, which is missing: "
            "pip install 'maskstream[demo]'"
        )
    return np.asarray(bgr, np.uint8)


def _plate(face: _Face, stage: Stage, look: Look, scale: float, sheer: float) -> Planes:
    """The whole portrait at `scale` with this stage's mask, cut to even sides."""
    height, width = face.bgr.shape[:2]
    size = (round(width * scale) & ~1, round(height * scale) & ~1)
    smoothing = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    bgr = np.asarray(cv2.resize(face.bgr, size, interpolation=smoothing), np.uint8)
    if stage.wearing is not None:
        bgr = paint_mask(
            bgr,
            face.landmarks * scale,
            wearing=stage.wearing,
            style=look.style,
            rng=np.random.default_rng(look.seed),
            opacity=sheer if stage.unclear else 1.0,
        )
    if stage.unclear:
        bgr = np.asarray(cv2.GaussianBlur(bgr, (0, 0), UNCLEAR_BLUR * scale), np.uint8)
    picture = Picture.from_bgr(bgr)
    return Planes(picture.y.copy(), picture.u.copy(), picture.v.copy())


class Scene:
    """The wall of faces. Everything that does not depend on time is drawn when it is made."""

    def __init__(self, size: tuple[int, int] = (1280, 720)) -> None:
        """`size` is (width, height) in px, both even. Raises `SourceUnsupported`."""
        width, height = size
        gap = round(height / 45) & ~1
        frame = (
            (width - (COLUMNS + 1) * gap) // COLUMNS & ~1,
            (height - (ROWS + 1) * gap) // ROWS & ~1,
        )
        self._background = _background(width, height)
        self._tiles = [
            Tile(look, (gap + column * (frame[0] + gap), gap + row * (frame[1] + gap)), frame)
            for look, (row, column) in zip(LOOKS, np.ndindex(ROWS, COLUMNS), strict=True)
        ]
        self._places, self._opacity, self._under = self._rounding(radius=gap + 4)

    def render(self, t: float) -> Picture:
        """The picture of time `t` (s): the same for the same time."""
        picture = self._background.copy()
        for tile in self._tiles:
            tile.draw(picture, t)
        flat = picture.i420.reshape(-1)
        flat[self._places] = flat[self._places] * self._opacity + self._under
        return picture

    def truth(self, t: float) -> list[Truth]:
        """Where the faces of `render(t)` are, and which verdict each deserves."""
        return [tile.truth(t) for tile in self._tiles]

    def _rounding(
        self, radius: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Which bytes lie in the frames' rounded corners, how much of the frame shows there, and
        the background's part of them."""
        opacity = np.ones(self._background.i420.shape, np.float32)
        for plane, shrink in zip(_float_planes(opacity), (1, 2, 2), strict=True):
            for tile in self._tiles:
                (left, top), (width, height) = tile.corner, tile.size
                part = np.s_[
                    top // shrink : (top + height) // shrink,
                    left // shrink : (left + width) // shrink,
                ]
                plane[part] = _rounded(width // shrink, height // shrink, radius / shrink)
        flat = opacity.reshape(-1)
        places = np.flatnonzero(flat < 1)
        under = self._background.i420.reshape(-1)[places] * (1 - flat[places])
        return places, flat[places], under


def _float_planes(i420: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
    height, width = i420.shape[0] * 2 // 3, i420.shape[1]
    chroma = i420.reshape(-1)[height * width :].reshape(2, height // 2, width // 2)
    return i420[:height], chroma[0], chroma[1]


def _rounded(width: int, height: int, radius: float) -> npt.NDArray[np.float32]:
    """Opacity of a rectangle with round corners, soft over one pixel."""
    x = np.abs(np.arange(width) - (width - 1) / 2) - (width / 2 - radius)
    y = np.abs(np.arange(height) - (height - 1) / 2) - (height / 2 - radius)
    away = np.hypot(np.maximum(x, 0)[None, :], np.maximum(y, 0)[:, None])
    return np.asarray(np.clip(radius - away + 0.5, 0, 1), np.float32)


def _background(width: int, height: int) -> Picture:
    """A dark, calm gradient, dithered so that it shows no bands."""
    top, bottom = np.array([58.0, 46.0, 38.0]), np.array([30.0, 24.0, 22.0])
    share = np.linspace(0, 1, height)[:, None, None]
    bgr = np.broadcast_to(top * (1 - share) + bottom * share, (height, width, 3))
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (height, width, 1))
    return Picture.from_bgr(np.clip(np.round(bgr + noise), 0, 255).astype(np.uint8))


class DemoSource:
    """Plays the scene in a thread, for ever."""

    def __init__(self, size: tuple[int, int] = (1280, 720), fps: float = 20.0) -> None:
        self._size = size
        self._interval = 1 / fps

    async def run(self, sink: PictureSink) -> None:
        """Deliver pictures until cancelled. Raises `SourceUnsupported` without the portraits."""
        await drive(self._play, sink, key="demo")

    def _play(self, reader: Reader) -> None:
        scene = Scene(self._size)
        start = due = time.monotonic()
        while reader.wait_until(due):
            captured = time.monotonic()
            reader.deliver(scene.render(captured - start), captured, captured - start)
            # After a pause it goes on at the present, it does not hurry through the past.
            due = max(due + self._interval, captured)
