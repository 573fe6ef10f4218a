"""A latency promise per stream: what is left out, in which order, when it cannot be kept.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

WINDOW_SECONDS = 1.0
LEAST_FRAMES = 4
MISSED_SHARE = 0.2
"""A step is added when more than this share of the window's frames missed the budget."""
CALM_SHARE = 0.6
CALM_SECONDS = 4.0
"""A step is taken back when all frames stayed under this share of the budget for so long."""
SETTLE_SECONDS = 0.7
"""Between two steps: the last one must have shown its effect."""


class Step(IntEnum):
    """What is left out, each step on top of those before it."""

    NOTHING = 0
    DETECT_LESS = 1
    SMALLER_INPUT = 2
    RECHECK_LESS = 3
    FEWER_FRAMES = 4


class Shedding:
    """Watches one stream's latencies (seconds from a frame's arrival to its verdicts)."""

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._frames: deque[tuple[float, float]] = deque(maxlen=256)
        self._changed = float("-inf")
        self._strained = float("-inf")
        self.step = Step.NOTHING

    def observe(self, latency: float, now: float) -> bool:
        """One frame was judged; returns whether it missed the budget. May change `step`."""
        missed = latency > self._budget
        if latency > CALM_SHARE * self._budget:
            self._strained = now
        self._frames.append((now, latency))
        while self._frames[0][0] < now - WINDOW_SECONDS:
            self._frames.popleft()
        if now - self._changed >= SETTLE_SECONDS:
            self._reconsider(now)
        return missed

    def _reconsider(self, now: float) -> None:
        since = [latency for at, latency in self._frames if at > self._changed]
        misses = sum(latency > self._budget for latency in since)
        if len(since) >= LEAST_FRAMES and misses > MISSED_SHARE * len(since):
            self._go(min(self.step + 1, Step.FEWER_FRAMES), now)
        elif self.step and now - max(self._strained, self._changed) >= CALM_SECONDS:
            self._go(self.step - 1, now)

    def _go(self, step: int, now: float) -> None:
        if step != self.step:
            self.step = Step(step)
            self._changed = now
