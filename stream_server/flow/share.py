"""How often each stream may have its faces looked for, so that there is time for everything else.

Pure but for a lock: time is an argument (monotonic seconds).
"""

from __future__ import annotations

import threading

SHARE = 0.5
"""Detections of all streams together take no more than this share of the threads they have."""
REMEMBERED_SECONDS = 5.0
"""A stream without a detection for so long has none to make room for."""


class DetectionShare:
    """Spaces out the detections of all streams evenly. Thread-safe."""

    def __init__(self, threads: int) -> None:
        """`threads`: how many detections can be made at once."""
        self._capacity = SHARE * threads
        self._costs: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def took(self, stream: str, seconds: float, now: float) -> None:
        """A detection for `stream` has held its thread for so long.

        Its first does not count, and none for more than twice the others: a network that is
        compiled for a new size takes a hundred times as long, once.
        """
        with self._lock:
            if (known := self._costs.get(stream)) is None:
                self._costs[stream] = 0.0, now
                return
            mean = known[0] or seconds
            self._costs[stream] = mean + 0.3 * (min(seconds, 2 * mean) - mean), now

    def interval(self, now: float) -> float:
        """The least seconds from one detection of a stream to its next."""
        with self._lock:
            self._costs = {
                stream: (mean, at)
                for stream, (mean, at) in self._costs.items()
                if now - at <= REMEMBERED_SECONDS
            }
            return sum(mean for mean, _ in self._costs.values()) / self._capacity
