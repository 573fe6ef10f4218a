"""The clips of `benchmarks.flicker`, and what is true in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np

from stream_server.frames import FaceBox, Picture, Pixels, Verdict
from stream_server.ingest.demo import ASTRONAUT, HOPPER, Portrait, Scene

Timed = tuple[float, Picture]


@dataclass(frozen=True, slots=True)
class Change:
    """From `begins` to `ends` (s) somebody puts a mask on, moves it or takes it off; what is
    true from then on."""

    begins: float
    ends: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who stays within `region` (x0, y0, x1, y1, shares of the picture), and their
    changes in the order of time."""

    region: tuple[float, float, float, float]
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Clip:
    """`pictures()` gives (seconds, picture) in turn; `people` is everybody in it."""

    name: str
    pictures: Callable[[], Iterator[Timed]]
    people: tuple[Person, ...]


WHOLE = (0.0, 0.0, 1.0, 1.0)
SHARED = {
    "one_person_masked_at_desk.mp4": (),
    "one_person_no_mask_720p.mp4": (),
    # By hand: in frame 11 a mask comes before the chin, from frame 20 on it covers the nose.
    "one_person_puts_mask_on.mp4": (Change(0.44, 0.80, Verdict.WITH_MASK),),
    "signing_man_480p.mkv": (),
    "signing_woman_480p.mkv": (),
}
"""One person each; when their masks change."""


def clips_of(paths: list[Path]) -> list[Clip]:
    """Clips of one person each; only those in `SHARED` may have true changes."""
    return [
        Clip(path.name, partial(_decoded, path), (Person(WHOLE, SHARED.get(path.name, ())),))
        for path in paths
    ]


def _decoded(path: Path) -> Iterator[Timed]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield (
                float(frame.time or 0.0),
                Picture.from_bgr(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)),
            )


def painted(seconds: float = 30.0, fps: int = 25, start: float = 0.0) -> Clip:
    """The demonstration's six faces: a mask is put on, slips, goes, and one is hard to see."""
    scene = Scene()
    times = [start + number / fps for number in range(round(seconds * fps))]
    seen = [scene.truth(t) for t in times]
    first = seen[0]
    people = []
    for index in range(len(first)):
        x = [row[index].box for row in seen]
        region = (
            min(b.x0 for b in x) / 1280,
            min(b.y0 for b in x) / 720,
            max(b.x1 for b in x) / 1280,
            max(b.y1 for b in x) / 720,
        )
        people.append(Person(region, _changes(times, [row[index].verdict for row in seen])))
    return Clip("painted masks", lambda: ((t, scene.render(t)) for t in times), tuple(people))


def _changes(times: list[float], verdicts: list[Verdict | None]) -> tuple[Change, ...]:
    """The scene says None while it fades from one state to the next."""
    changes, begins, known = [], 0.0, verdicts[0]
    if known is Verdict.UNCERTAIN:
        changes.append(Change(times[0], times[0], known))
    for (_, before), (t, now) in pairwise(zip(times, verdicts, strict=True)):
        if before is not None and now is not before:
            known, begins = before, t
        if now is not None and before is None and now is not known:
            changes.append(Change(begins, t, now))
    return tuple(changes)


# --- walkers --------------------------------------------------------------------------------------

WIDTH, HEIGHT, RATE = 1280, 720, 25
PILLAR = (600, 700)
"""Columns of the picture that hide whoever walks behind."""


@dataclass(frozen=True, slots=True)
class Walker:
    """A head that walks to and fro: face width in px (the widest is nearest), speed in px/s."""

    head: Pixels
    opacity: np.ndarray
    face: tuple[float, float, float, float]
    start: float
    speed: float
    level: float

    def left(self, t: float) -> float:
        """Left edge of the head at `t`: between 60 px outside on either side."""
        room = WIDTH + 120 - int(self.head.shape[1])
        way = (self.start + self.speed * t) % (2 * room)
        return -60 + (way if way < room else 2 * room - way)

    def top(self, t: float) -> float:
        """Upper edge: heads bob while walking."""
        return self.level + 8 * float(np.sin(11 * t + self.start))


class Walkers:
    """Heads that cross each other, pass behind a pillar, and leave the picture in part."""

    def __init__(self, seed: int, count: int = 4) -> None:
        rng = np.random.default_rng(seed)
        widths = np.sort(rng.uniform(60, 150, count))
        noise = rng.integers(60, 200, (HEIGHT // 24, WIDTH // 24, 3)).astype(np.uint8)
        self._wall = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        self._walkers = [
            _walker(ASTRONAUT if rng.random() < 0.5 else HOPPER, float(width), rng)
            for width in widths
        ]

    def picture(self, t: float) -> Picture:
        """The picture of time `t` (s); the pillar stands before the farther half of the heads."""
        canvas = self._wall.astype(np.float32)
        for index, walker in enumerate(self._walkers):
            if index == len(self._walkers) // 2:
                canvas[:, PILLAR[0] : PILLAR[1]] = (70, 90, 110)
            _paste(canvas, walker, walker.left(t), walker.top(t))
        return Picture.from_bgr(np.clip(canvas, 0, 255).astype(np.uint8))

    def visible(self, t: float) -> dict[int, FaceBox]:
        """The faces of which at least 60 % can be seen, by walker."""
        boxes = [_face(walker, t) for walker in self._walkers]
        found = {}
        for index, box in enumerate(boxes):
            hidden = np.zeros((HEIGHT, WIDTH), np.bool_)
            for nearer in boxes[index + 1 :]:
                hidden[_cells(nearer)] = True
            if index < len(boxes) // 2:
                hidden[:, PILLAR[0] : PILLAR[1]] = True
            seen = ~hidden[_cells(box)]
            if seen.sum() >= 0.6 * (box.x1 - box.x0) * (box.y1 - box.y0):
                found[index] = box
        return found


def walkers(seed: int, seconds: float) -> Iterator[tuple[float, Picture, dict[int, FaceBox]]]:
    """(seconds, picture, visible faces by walker) of a made-up crowd."""
    crowd = Walkers(seed)
    for number in range(round(seconds * RATE)):
        t = number / RATE
        yield t, crowd.picture(t), crowd.visible(t)


def _walker(portrait: Portrait, width: float, rng: np.random.Generator) -> Walker:
    bgr = _portrait(portrait)
    x0, y0, x1, y1 = portrait.box
    wide, high = x1 - x0, y1 - y0
    # Room around the face for hair, and an oval that leaves the portrait's background out.
    left, top = round(x0 - 0.35 * wide), max(0, round(y0 - 0.35 * high))
    cut = bgr[top : round(y1 + 0.15 * high), left : round(x1 + 0.35 * wide)]
    scale = width / wide
    head = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        head = np.ascontiguousarray(head[:, ::-1])
    height, across = head.shape[:2]
    oval = np.zeros((height, across), np.float32)
    cv2.ellipse(
        oval, (across // 2, height // 2), (across // 2 - 3, height // 2 - 3), 0, 0, 360, 1, -1
    )
    face = ((x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale)
    return Walker(
        np.asarray(head, np.uint8),
        cv2.GaussianBlur(oval, (0, 0), 2)[..., None],
        face,
        float(rng.uniform(0, 2 * WIDTH)),
        float(rng.uniform(60, 320)),
        float(rng.uniform(180, 320)),
    )


def _portrait(portrait: Portrait) -> Pixels:
    spec = find_spec(portrait.package)
    folder = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else ""
    bgr = cv2.imread(str(Path(folder) / portrait.file))
    if bgr is None:
        raise RuntimeError(f"the portraits come with the package {portrait.package}: install it")
    return np.asarray(bgr, np.uint8)


def _face(walker: Walker, t: float) -> FaceBox:
    left, top = walker.left(t), walker.top(t)
    x0, y0, x1, y1 = walker.face
    return FaceBox(left + x0, top + y0, left + x1, top + y1, 1.0)


def _cells(box: FaceBox) -> tuple[slice, slice]:
    rows = slice(max(0, round(box.y0)), max(0, round(box.y1)))
    return rows, slice(max(0, round(box.x0)), max(0, round(box.x1)))


def _paste(canvas: np.ndarray, walker: Walker, left: float, top: float) -> None:
    height, width = walker.head.shape[:2]
    shift = np.array([[1, 0, left], [0, 1, top]], np.float64)
    head = cv2.warpAffine(walker.head, shift, (WIDTH, HEIGHT))
    opacity = cv2.warpAffine(walker.opacity, shift, (WIDTH, HEIGHT))[..., None]
    rows = slice(max(0, int(top)), min(HEIGHT, int(top) + height + 2))
    columns = slice(max(0, int(left)), min(WIDTH, int(left) + width + 2))
    part = opacity[rows, columns]
    canvas[rows, columns] = canvas[rows, columns] * (1 - part) + head[rows, columns] * part
