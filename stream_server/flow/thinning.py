"""Fewer frames a second than come, evenly spaced."""

from __future__ import annotations

SLACK = 0.25
"""A frame that comes early by this share of the interval is taken: cameras are not punctual."""


class Thinning:
    """Says which frames to take. Times are seconds of one clock; the first frame is taken."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def due(self, at: float, fps: float) -> bool:
        """Whether to take the frame of time `at` when `fps` frames a second are wanted."""
        interval = 1.0 / fps
        if at < self._next - SLACK * interval:
            return False
        self._next = max(self._next, at - interval) + interval
        return True
