"""Which parts of a picture may show a face, for streams whose faces nobody may see.

Pure: times are arguments (monotonic seconds), boxes are pixels of the picture they belong to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from stream_server.frames import Analysis, FaceBox
from stream_server.track.tracker import Move, Track, moved, scaled

LOST_SECONDS = 1.0
"""Where a face was lost, its place stays hidden for at least so long."""
HELD_SECONDS = 0.3
"""Pictures wait for so long: a face found meanwhile is hidden in those before it too."""
SLACK = 0.01
"""At the usual frame rates a whole number of pictures comes in `HELD_SECONDS`: without slack many
would be due together with the next one, and not be seen."""
HELD_APART = 0.01
"""Pictures that come sooner after the one before are not shown: 30 wait at most."""
SEARCHED_SECONDS = 0.1
"""A picture that comes so long after the one before has been looked for faces itself."""


class Followed(NamedTuple):
    """A face's box and velocity (px/s) by its pixels, when no detection had missed it."""

    box: FaceBox
    velocity: tuple[float, float]
    at: float


class Concealment:
    """Remembers where faces are and where they were lost."""

    def __init__(self) -> None:
        self._seen: dict[int, Followed] = {}

    def regions(self, tracks: Sequence[Track], now: float) -> dict[int, FaceBox]:
        """What to hide at `now`, by track: also boxes that are too doubtful to be shown."""
        for track in tracks:
            if not track.missed:
                self._seen[track.id] = Followed(track.box, track.velocity, now)
        kept = {track.id for track in tracks}
        self._seen = {
            key: seen
            for key, seen in self._seen.items()
            if key in kept or now - seen.at <= LOST_SECONDS
        }
        regions = {key: seen.box for key, seen in self._seen.items()}
        for track in tracks:
            if (seen := self._seen.get(track.id)) is None:
                regions[track.id] = track.box
                continue
            # A missed face may have stopped where it was, or gone on as its pixels or as it did.
            vx, vy = seen.velocity
            gone_on = moved(seen.box, Move(vx * (now - seen.at), vy * (now - seen.at), 1.0))
            regions[track.id] = _around(_around(seen.box, gone_on), track.box)
        return regions

    def rescale(self, x: float, y: float) -> None:
        """The picture's size has changed by these factors."""
        for key, (box, (vx, vy), at) in self._seen.items():
            self._seen[key] = Followed(scaled(box, x, y), (vx * x, vy * y), at)


class Held(NamedTuple):
    """A picture that waits; `searched`: faces were looked for in it itself."""

    analysis: Analysis
    searched: bool


class HoldBack:
    """Keeps the pictures of the last moment, to hide in them what is found only afterwards."""

    def __init__(self) -> None:
        self._held: deque[Held] = deque()
        self._last = float("-inf")

    def pass_on(self, newest: Analysis) -> Analysis | None:
        """The newest picture that has waited long enough, with all that is to be hidden in it."""
        now = newest.frame.captured
        since, self._last = now - self._last, now
        if since > HELD_SECONDS:
            # In what came just before a silence nobody has looked for faces since.
            self._held = deque(held for held in self._held if held.searched)
        if not self._held or now - self._held[-1].analysis.frame.captured >= HELD_APART:
            self._held.append(Held(newest, since >= SEARCHED_SECONDS))
        due = None
        while self._held and now - self._held[0].analysis.frame.captured >= HELD_SECONDS - SLACK:
            due = self._held.popleft().analysis
        return None if due is None else self._covered(due)

    def _covered(self, due: Analysis) -> Analysis:
        hidden = dict(due.hidden)
        picture = due.frame.picture
        for later, _ in self._held:
            x = picture.width / later.frame.picture.width
            y = picture.height / later.frame.picture.height
            for track, box in later.hidden.items():
                hidden.setdefault(track, scaled(box, x, y))
        return replace(due, hidden=hidden)


def _around(a: FaceBox, b: FaceBox) -> FaceBox:
    """The box that both lie in."""
    corners = min(a.x0, b.x0), min(a.y0, b.y0), max(a.x1, b.x1), max(a.y1, b.y1)
    return FaceBox(*corners, max(a.score, b.score))
