"""Faces keep their ids from frame to frame: boxes are matched by distance IoU along their motion.

Pure: times are arguments (monotonic seconds), boxes are pixels of one picture size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, hypot

from stream_server.frames import FaceBox

CONFIRMED_HITS = 2
SURE_SCORE = 0.6
"""A box with at least this detector score is shown before a second detection confirms it."""
SHOWN_SECONDS = 0.6
"""A face that the detector misses is shown for so long, carried on by its motion."""
KEPT_SECONDS = 2.5
"""A missed face keeps its id for so long: somebody walked past it, or it was turned away. One that
was not missed is shown for so long, as far as its pixels can be followed."""
LEAST_MATCH = -0.35
"""Least distance IoU of a pair: equal boxes may be one and a half widths apart."""
SIZE_RATIO = 2.0
FLOW_GAIN = 0.4
"""How far what the pixels did in one frame pulls the velocity."""
POSITION_GAIN, SIZE_GAIN = 0.7, 0.5
"""How far a detection pulls the box; the rest of the detector's jitter is smoothed away."""
NEAR_IOU = 0.3
"""A detection that overlaps the box by less is no jitter: the face has moved there."""
COASTING_SECONDS = 2.0
"""Without a look at the picture, speed fades with this time constant."""
PACE_SECONDS = 0.1
"""With this time constant the pace follows what two detections make of it: those close together
tell more of the detector's jitter than of a face's way."""


@dataclass(frozen=True, slots=True)
class Move:
    """What the pixels of a box did since the frame before: shift in pixels, growth as a factor.

    `followed` is the share (0..1) of its points that were found again.
    """

    dx: float
    dy: float
    growth: float
    followed: float = 1.0


@dataclass(slots=True, eq=False)
class Track:
    """One face over time. `velocity` is in pixels a second, `at` the time that `box` is for.

    `followed` is the share (0..1) of its points that the last look at the picture found again.
    `sighted` is its box as it was `detected` last, `pace` its velocity from detection to detection.
    A `reckoned` place follows from these alone: the face may be elsewhere.
    """

    id: int
    box: FaceBox
    born: float
    detected: float
    at: float
    sighted: FaceBox
    hits: int = 1
    missed: bool = False
    reckoned: bool = False
    velocity: tuple[float, float] = (0.0, 0.0)
    pace: tuple[float, float] = (0.0, 0.0)
    followed: float = 1.0

    @property
    def confirmed(self) -> bool:
        """Seen by more than one detection."""
        return self.hits >= CONFIRMED_HITS

    @property
    def in_sight(self) -> bool:
        """The picture shows it where its box is: its pixels can be followed, and judged."""
        return not self.missed and not self.reckoned

    def detect(
        self, place: FaceBox, found: FaceBox, seen: float, now: float, move: Move | None
    ) -> None:
        """A detection of the time `seen` found it, where it was thought to be at `place`; `move`
        is what the pixels of what was found have done until `now`."""
        near, elapsed = iou(place, found) >= NEAR_IOU, seen - self.detected
        at = _pulled(place, found) if near else found
        if elapsed > 0:
            way = _between_boxes(self.sighted, at)
            share = 1 - exp(-elapsed / PACE_SECONDS)
            self.pace = _blend(self.pace, (way.dx / elapsed, way.dy / elapsed), share)
        self.sighted, self.detected, self.missed = at, seen, False
        self.hits += 1
        self.reckoned = not near and move is None and now > seen
        if near:
            self.box = moved(at, _between_boxes(place, self.box))
        elif move is not None:
            self.box = moved(at, move)
        else:
            self.box, self.velocity = at, self.pace
            self.coast(now - seen)

    def miss(self, now: float) -> None:
        """A detection did not find it: what was followed since the last may be the pixels of
        whoever hides it, so it goes on from there at the pace of then."""
        self.missed = True
        self.box, self.velocity = self.sighted, self.pace
        self.coast(now - self.detected)

    def coast(self, elapsed: float) -> None:
        """Go on at its own velocity, which fades."""
        (vx, vy), fade = self.velocity, exp(-elapsed / COASTING_SECONDS)
        seconds = COASTING_SECONDS * (1 - fade)  # that the way would take without fading
        self.box = moved(self.box, Move(vx * seconds, vy * seconds, 1.0))
        self.velocity = vx * fade, vy * fade

    def shown(self, now: float) -> bool:
        """Whether to draw it: surely a face, and seen not long ago, or followed ever since."""
        sure = self.confirmed or self.box.score >= SURE_SCORE
        followed = self.followed > 0 and not self.missed
        return sure and now - self.detected <= (KEPT_SECONDS if followed else SHOWN_SECONDS)


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier frame, of the time `at`, in which faces were looked for.

    `places` are the boxes of the tracks of then, by id; `moves` what the pixels of the boxes that
    were found have done since, by their indices.
    """

    at: float
    places: Mapping[int, FaceBox]
    moves: Mapping[int, Move]


class Tracker:
    """The faces of one stream."""

    def __init__(self) -> None:
        self._tracks: list[Track] = []
        self._next = 1

    @property
    def tracks(self) -> Sequence[Track]:
        """All faces that still have their ids, in the order in which they came."""
        return self._tracks

    def carry(self, moves: Mapping[int, Move], now: float) -> None:
        """Move every box to `now`: by what its pixels did (by track id), else by its own speed.

        Where a face is not in sight its pixels are somebody else's: it goes by its speed alone.
        """
        for track in self._tracks:
            elapsed = max(0.0, now - track.at)
            track.at += elapsed
            move = moves.get(track.id) if track.in_sight else None
            track.followed = 0.0 if move is None else move.followed
            if move is None:
                track.coast(elapsed)
                continue
            track.box = moved(track.box, move)
            if elapsed > 0:
                velocity = move.dx / elapsed, move.dy / elapsed
                track.velocity = _blend(track.velocity, velocity, FLOW_GAIN)

    @property
    def places(self) -> dict[int, FaceBox]:
        """Where all faces are, by id."""
        return {track.id: track.box for track in self._tracks}

    def update(self, boxes: Sequence[FaceBox], now: float, earlier: Earlier | None = None) -> None:
        """Match a detection of the whole picture with the faces, which are carried to `now`.

        With `earlier` it was made in that frame, and is brought to `now` as the faces were.
        """
        seen = now if earlier is None else earlier.at
        places = self.places if earlier is None else earlier.places
        known = [track for track in self._tracks if track.id in places]
        pairs = match([places[track.id] for track in known], boxes)
        moves = {} if earlier is None else earlier.moves
        for index, track in enumerate(known):
            if (found := pairs.get(index)) is None:
                track.miss(now)
            else:
                track.detect(places[track.id], boxes[found], seen, now, moves.get(found))
        taken = set(pairs.values())
        for index, box in enumerate(boxes):
            if index not in taken:
                move = moves.get(index)
                place = box if move is None else moved(box, move)
                track = Track(self._next, place, seen, seen, now, box)
                track.reckoned = move is None and now > seen
                self._tracks.append(track)
                self._next += 1

    def expire(self, now: float) -> list[Track]:
        """Forget faces that are gone and return them: missed for too long, or never confirmed."""
        gone = [
            track
            for track in self._tracks
            if now - track.detected > KEPT_SECONDS or (track.missed and not track.confirmed)
        ]
        self._tracks = [track for track in self._tracks if track not in gone]
        return gone

    def rescale(self, x: float, y: float) -> None:
        """The picture's size has changed by these factors."""
        for track in self._tracks:
            track.box, track.sighted = scaled(track.box, x, y), scaled(track.sighted, x, y)
            track.velocity = track.velocity[0] * x, track.velocity[1] * y
            track.pace = track.pace[0] * x, track.pace[1] * y


def match(tracks: Sequence[FaceBox], boxes: Sequence[FaceBox]) -> dict[int, int]:
    """Pairs track index -> box index, the best distance IoU first; each index at most once."""
    candidates = sorted(
        (
            (distance_iou(track, box), i, j)
            for i, track in enumerate(tracks)
            for j, box in enumerate(boxes)
            if _similar(track, box)
        ),
        key=lambda candidate: -candidate[0],
    )
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for score, i, j in candidates:
        if score < LEAST_MATCH:
            break
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs


def distance_iou(a: FaceBox, b: FaceBox) -> float:
    """IoU less the squared distance of the centres by the squared diagonal around both: -1..1."""
    wide = max(a.x1, b.x1) - min(a.x0, b.x0)
    high = max(a.y1, b.y1) - min(a.y0, b.y0)
    diagonal = wide * wide + high * high
    dx, dy = (a.x0 + a.x1 - b.x0 - b.x1) / 2, (a.y0 + a.y1 - b.y0 - b.y1) / 2
    return iou(a, b) - (dx * dx + dy * dy) / max(diagonal, 1e-9)


def iou(a: FaceBox, b: FaceBox) -> float:
    """Intersection over union, 0..1."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    if wide <= 0 or high <= 0:
        return 0.0
    shared = wide * high
    both = (a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0)
    return shared / (both - shared)


def moved(box: FaceBox, move: Move) -> FaceBox:
    """The box and its landmarks after `move`, which grows about the centre."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2

    def at(px: float, py: float) -> tuple[float, float]:
        return x + (px - x) * move.growth + move.dx, y + (py - y) * move.growth + move.dy

    (x0, y0), (x1, y1) = at(box.x0, box.y0), at(box.x1, box.y1)
    return FaceBox(x0, y0, x1, y1, box.score, tuple(at(*point) for point in box.landmarks))


def _between_boxes(before: FaceBox, after: FaceBox) -> Move:
    """What leads from one box of a face to a later one."""
    dx = (after.x0 + after.x1 - before.x0 - before.x1) / 2
    dy = (after.y0 + after.y1 - before.y0 - before.y1) / 2
    return Move(dx, dy, (after.x1 - after.x0) / max(before.x1 - before.x0, 1e-6))


def scaled(box: FaceBox, x: float, y: float) -> FaceBox:
    """The box in a picture that is wider and higher by these factors."""
    points = tuple((px * x, py * y) for px, py in box.landmarks)
    return FaceBox(box.x0 * x, box.y0 * y, box.x1 * x, box.y1 * y, box.score, points)


def _similar(a: FaceBox, b: FaceBox) -> bool:
    sizes = hypot(a.x1 - a.x0, a.y1 - a.y0), hypot(b.x1 - b.x0, b.y1 - b.y0)
    return max(sizes) <= SIZE_RATIO * min(sizes)


def _pulled(box: FaceBox, found: FaceBox) -> FaceBox:
    """`box` drawn towards the detection, whose score and landmarks it takes."""
    x = _between((box.x0 + box.x1) / 2, (found.x0 + found.x1) / 2, POSITION_GAIN)
    y = _between((box.y0 + box.y1) / 2, (found.y0 + found.y1) / 2, POSITION_GAIN)
    wide = _between(box.x1 - box.x0, found.x1 - found.x0, SIZE_GAIN)
    high = _between(box.y1 - box.y0, found.y1 - found.y0, SIZE_GAIN)
    return replace(found, x0=x - wide / 2, y0=y - high / 2, x1=x + wide / 2, y1=y + high / 2)


def _between(a: float, b: float, share: float) -> float:
    return a + share * (b - a)


def _blend(old: tuple[float, float], new: tuple[float, float], share: float) -> tuple[float, float]:
    return _between(old[0], new[0], share), _between(old[1], new[1], share)
