"""Fewer frames a second than come, evenly spaced."""

from __future__ import annotations

SLACK = 0.25
"""A frame that comes early by this share of the interval is taken: cameras are not punctual."""


class Thinning:
    """Says which frames to take. Times are seconds of one clock; the first frame is taken."""

    def __init__(self) -> None:
        self._slot = float("-inf")

    def due(self, at: float, fps: float) -> bool:
        """Whether to take the frame of time `at` when `fps` frames a second are wanted."""
        interval = 1.0 / fps
        late = at - self._slot - interval
        if late < -SLACK * interval:
            return False
        # A frame that comes a little late keeps the beat; after a gap a new one begins.
        self._slot = self._slot + interval if late < interval else at
        return True
