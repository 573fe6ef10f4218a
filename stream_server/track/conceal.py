"""Which parts of a picture may show a face, for streams whose faces nobody may see.

Pure: times are arguments (monotonic seconds), boxes are pixels of the picture they belong to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from stream_server.frames import Analysis, FaceBox
from stream_server.track.tracker import Track, scaled

LOST_SECONDS = 1.0
"""Where a face was lost, its place stays hidden for at least so long."""
HELD_SECONDS = 0.3
"""Pictures wait for so long: a face found meanwhile is hidden in those before it too."""
HELD_MOST = 30
"""Pictures; more than that many in `HELD_SECONDS` are not shown."""


class Concealment:
    """Remembers where faces are and where they were lost."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[FaceBox, float]] = {}

    def regions(self, tracks: Sequence[Track], now: float) -> dict[int, FaceBox]:
        """What to hide at `now`, by track: also boxes that are too doubtful to be shown."""
        for track in tracks:
            if not track.missed:
                self._seen[track.id] = track.box, now
        kept = {track.id for track in tracks}
        self._seen = {
            key: (box, at)
            for key, (box, at) in self._seen.items()
            if key in kept or now - at <= LOST_SECONDS
        }
        regions = {key: box for key, (box, _) in self._seen.items()}
        for track in tracks:
            # A missed face may have stopped where it was, or gone on as it moved.
            regions[track.id] = _around(regions.get(track.id, track.box), track.box)
        return regions

    def rescale(self, x: float, y: float) -> None:
        """The picture's size has changed by these factors."""
        self._seen = {key: (scaled(box, x, y), at) for key, (box, at) in self._seen.items()}


class HoldBack:
    """Keeps the pictures of the last moment, to hide in them what is found only afterwards."""

    def __init__(self) -> None:
        self._held: deque[Analysis] = deque(maxlen=HELD_MOST)

    def pass_on(self, newest: Analysis) -> Analysis | None:
        """The newest picture that has waited long enough, with all that is to be hidden in it."""
        self._held.append(newest)
        due = None
        while newest.frame.captured - self._held[0].frame.captured >= HELD_SECONDS:
            due = self._held.popleft()
        return None if due is None else self._covered(due)

    def _covered(self, due: Analysis) -> Analysis:
        hidden = dict(due.hidden)
        picture = due.frame.picture
        for later in self._held:
            x = picture.width / later.frame.picture.width
            y = picture.height / later.frame.picture.height
            for track, box in later.hidden.items():
                hidden.setdefault(track, scaled(box, x, y))
        return replace(due, hidden=hidden)


def _around(a: FaceBox, b: FaceBox) -> FaceBox:
    """The box that both lie in."""
    corners = min(a.x0, b.x0), min(a.y0, b.y0), max(a.x1, b.x1), max(a.y1, b.y1)
    return FaceBox(*corners, max(a.score, b.score))
