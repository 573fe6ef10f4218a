"""What moved between two frames: sparse optical flow inside face boxes, and change in the scene."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from stream_server.frames import FaceBox, Picture, Pixels
from stream_server.track.tracker import Move

Points = npt.NDArray[np.float32]

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
        small = cv2.resize(picture.y, size, interpolation=cv2.INTER_AREA)
        last, self._now = self._now, np.asarray(small, np.uint8)
        self._last = last if last is not None and last.shape == self._now.shape else None
        if self._last is None:
            self.change = 1.0
        else:
            difference = cv2.absdiff(self._last[::2, ::2], self._now[::2, ::2])
            self.change = float((difference > CHANGED).mean())

    def moves(self, boxes: Mapping[int, FaceBox]) -> dict[int, Move]:
        """How the pixels of each box (in the last frame's pixels) moved; unsure ones left out."""
        if self._last is None or self._now is None or not boxes:
            return {}
        start = np.concatenate([_grid(box, self._scale) for box in boxes.values()])
        end, good = _follow(self._last, self._now, start)
        found: dict[int, Move] = {}
        for index, (key, box) in enumerate(boxes.items()):
            part = slice(index * GRID * GRID, (index + 1) * GRID * GRID)
            keep = good[part]
            if keep.sum() >= LEAST_POINTS:
                move = _fit(start[part][keep], end[part][keep], self._scale)
                if max(abs(move.dx), abs(move.dy)) <= MOST_SHIFT * (box.x1 - box.x0):
                    found[key] = move
        return found


def _grid(box: FaceBox, scale: float) -> Points:
    share = np.linspace((1 - INNER) / 2, (1 + INNER) / 2, GRID, dtype=np.float32)
    x = (box.x0 + share * (box.x1 - box.x0)) * scale
    y = (box.y0 + share * (box.y1 - box.y0)) * scale
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)


def _follow(last: Pixels, now: Pixels, start: Points) -> tuple[Points, npt.NDArray[np.bool_]]:
    """Where the points went, and which of them also find their way back."""
    window = {"winSize": (9, 9), "maxLevel": 2}
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 8, 0.03)
    end, there, _ = cv2.calcOpticalFlowPyrLK(last, now, start, None, criteria=criteria, **window)  # type: ignore[call-overload]
    back, home, _ = cv2.calcOpticalFlowPyrLK(now, last, end, None, criteria=criteria, **window)  # type: ignore[call-overload]
    error = np.abs(back - start).max(axis=1)
    good = (there[:, 0] == 1) & (home[:, 0] == 1) & (error < BACK_ERROR)
    return end, good


def _fit(start: Points, end: Points, scale: float) -> Move:
    """The median shift, and the median growth of the distances from the middle."""
    shift = np.median(end - start, axis=0)
    before = np.linalg.norm(start - np.median(start, axis=0), axis=1)
    after = np.linalg.norm(end - np.median(end, axis=0), axis=1)
    far = before > 1.0
    growth = float(np.median(after[far] / before[far])) if far.sum() >= LEAST_POINTS // 2 else 1.0
    # Growth per frame is small; what flow makes of noise is held down, detections correct the rest.
    return Move(
        float(shift[0]) / scale, float(shift[1]) / scale, float(np.clip(growth, 0.97, 1.03))
    )
