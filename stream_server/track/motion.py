"""What moved between two frames: sparse optical flow inside face boxes, and change in the scene."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from stream_server.frames import FaceBox, Picture, Pixels
from stream_server.track.tracker import Move

Points = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

LONG_SIDE = 320
GRID = 5
INNER = 0.7
"""Points lie in the middle of the box, where there is face and no background."""
LEAST_POINTS = 8
BACK_ERROR = 0.6
"""Points that do not come back within so many (small) pixels when followed backwards are lost."""
MOST_SHIFT = 0.6
"""A shift by more than this share of the box in one frame is an error of the flow."""
CHANGED = 12
"""A luma difference that is not noise."""
MARGIN = 16
"""Small pixels around the boxes that the flow may look at."""

_SHARE = np.linspace((1 - INNER) / 2, (1 + INNER) / 2, GRID, dtype=np.float32)
_GRID: Points = np.stack(np.meshgrid(_SHARE, _SHARE), -1).reshape(-1, 2)


class Motion:
    """Looks at one stream's frames in turn. Not thread-safe."""

    def __init__(self) -> None:
        self._last: Pixels | None = None
        self._now: Pixels | None = None
        self._scale = 1.0
        self.change = 1.0

    def see(self, picture: Picture) -> None:
        """Take the next frame; `change` is the share (0..1) of the scene that differs.

        After a change of size there is nothing to compare with: `change` is 1.
        """
        self._scale = LONG_SIDE / max(picture.width, picture.height)
        size = (
            max(16, round(picture.width * self._scale)),
            max(16, round(picture.height * self._scale)),
        )
        # Averaging areas is three times as dear, and the flow is no better for it.
        small = cv2.resize(picture.y, size, interpolation=cv2.INTER_LINEAR)
        last, self._now = self._now, np.asarray(small, np.uint8)
        self._last = last if last is not None and last.shape == self._now.shape else None
        if self._last is None:
            self.change = 1.0
        else:
            difference = cv2.absdiff(self._last, self._now)
            moving = cv2.threshold(difference, CHANGED, 1, cv2.THRESH_BINARY)[1]
            self.change = cv2.countNonZero(moving) / moving.size

    @property
    def seen(self) -> Pixels | None:
        """The newest frame as it is looked at here, to come back to with `moves`."""
        return self._now

    def moves(self, boxes: Mapping[int, FaceBox], since: Pixels | None = None) -> dict[int, Move]:
        """How the pixels of each box (in the last frame's pixels) moved; unsure ones left out.

        `since` is an earlier frame, as it was `seen`, in place of the last. Where boxes overlap
        nobody knows whose the pixels are: no such point is followed.
        """
        last = self._last if since is None else since
        if last is None or self._now is None or last.shape != self._now.shape or not boxes:
            return {}
        corners = np.array([(b.x0, b.y0, b.x1, b.y1) for b in boxes.values()], np.float32)
        corners *= self._scale
        start = corners[:, None, :2] + _GRID * (corners[:, None, 2:] - corners[:, None, :2])
        own = _own(start, corners)
        end, good = _follow(last, self._now, start.reshape(-1, 2))
        keep = own & good.reshape(own.shape)
        found: dict[int, Move] = {}
        for key, box, a, b, mine, kept in zip(
            boxes, boxes.values(), start, end.reshape(start.shape), own, keep, strict=True
        ):
            if (count := int(kept.sum())) >= LEAST_POINTS:
                move = _fit(a[kept], b[kept], self._scale, count / int(mine.sum()))
                if max(abs(move.dx), abs(move.dy)) <= MOST_SHIFT * (box.x1 - box.x0):
                    found[key] = move
        return found


def _own(points: Points, corners: Points) -> Mask:
    """Which points (n, m, 2) of each of n boxes (n, 4) lie in no other box: (n, m)."""
    x, y = points[..., 0, None], points[..., 1, None]
    x0, y0, x1, y1 = corners.T
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return np.asarray(inside.sum(-1) == 1)


def _follow(last: Pixels, now: Pixels, start: Points) -> tuple[Points, Mask]:
    """Where the points went, and which of them also find their way back."""
    # Only the part around the points: pyramids of the whole picture are half of the price.
    height, width = last.shape
    x0, y0 = np.clip(start.min(0) - MARGIN, 0, (width - 16, height - 16)).astype(int).tolist()
    x1, y1 = np.clip(start.max(0) + MARGIN, (x0 + 16, y0 + 16), (width, height)).astype(int)
    before, after = last[y0:y1, x0:x1], now[y0:y1, x0:x1]
    corner = np.array([x0, y0], np.float32)
    window = {"winSize": (9, 9), "maxLevel": 2}
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 8, 0.03)
    start = start - corner
    end, there, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        before, after, start, None, criteria=criteria, **window
    )
    back, home, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        after, before, end, None, criteria=criteria, **window
    )
    error = np.abs(back - start).max(axis=1)
    good = (there[:, 0] == 1) & (home[:, 0] == 1) & (error < BACK_ERROR)
    return end + corner, good


def _fit(start: Points, end: Points, scale: float, followed: float) -> Move:
    """The median shift, and the median growth of the distances from the middle."""
    dx, dy = (_middle(part) for part in (end - start).T)
    before = _distances(start)
    after = _distances(end)
    far = before > 1.0
    growth = _middle(after[far] / before[far]) if far.sum() >= LEAST_POINTS // 2 else 1.0
    # Growth per frame is small; what flow makes of noise is held down, detections correct the rest.
    return Move(dx / scale, dy / scale, min(max(growth, 0.97), 1.03), followed)


def _distances(points: Points) -> Points:
    centre = np.array([_middle(points[:, 0]), _middle(points[:, 1])], np.float32)
    away = points - centre
    return np.asarray(np.sqrt(away[:, 0] ** 2 + away[:, 1] ** 2))


def _middle(values: Points) -> float:
    """The median, of an even count the upper one: numpy's own takes five times as long."""
    return float(np.sort(values)[len(values) // 2])
