"""Sliding-window figures for people: rates and percentiles of the last few seconds."""

from __future__ import annotations

import math
from collections import deque


class RateMeter:
    """Events per second over the last `window` seconds. Times are monotonic seconds."""

    def __init__(self, window: float = 3.0, limit: int = 1024) -> None:
        self._window = window
        self._times: deque[float] = deque(maxlen=limit)

    def tick(self, now: float) -> None:
        """One event at `now`."""
        self._times.append(now)

    def rate(self, now: float) -> float:
        """Events per second; 0 before the second event and once the window has passed."""
        while self._times and self._times[0] < now - self._window:
            self._times.popleft()
        if len(self._times) < 2:
            return 0.0
        # The open end counts too, so that a rate falls as soon as events stop coming.
        span = max(now - self._times[0], 1e-9)
        return min(
            (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9),
            len(self._times) / span,
        )


class LatencyWindow:
    """The last `size` latencies and their percentiles, in the unit that was put in."""

    def __init__(self, size: int = 300) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def add(self, value: float) -> None:
        """One more latency."""
        self._values.append(value)

    def percentile(self, share: float) -> float | None:
        """The nearest-rank percentile, `share` in 0..1; None while there is nothing."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]
