"""A latency promise per stream: what is left out, in which order, when it cannot be kept.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

WINDOW_SECONDS = 1.0
LEAST_FRAMES = 4
"""So many frames tell something, or two that lie a second apart: where each takes as long, the next
step must not wait for four of them."""
LONGEST_WINDOW_SECONDS = 10.0
"""A stream of few frames a second is judged by its last few, if they are not older than this."""
MISSED_SHARE = 0.2
"""A step is added when more than one frame, and more than this share of the window's frames,
missed the budget."""
CALM_SHARE = 0.6
CALM_SECONDS = 4.0
"""A step is taken back when the frames stayed under this share of the budget for so long."""
MOST_CALM_SECONDS = 120.0
"""A step that was taken back too early is kept twice as long the next time, up to this."""
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
        self._patience = dict.fromkeys(Step, CALM_SECONDS)
        self._relieved = float("-inf")
        self.step = Step.NOTHING

    def observe(self, latency: float, now: float) -> bool:
        """One frame was judged; returns whether it missed the budget. May change `step`."""
        self._frames.append((now, latency))
        while self._old(now - self._frames[0][0]):
            self._frames.popleft()
        if self._is_strained():
            self._strained = now
        if now - self._changed >= SETTLE_SECONDS:
            self._reconsider(now)
        return latency > self._budget

    def _old(self, age: float) -> bool:
        window = WINDOW_SECONDS if len(self._frames) > LEAST_FRAMES else LONGEST_WINDOW_SECONDS
        return age > window

    def _since_change(self) -> list[tuple[float, float]]:
        return [frame for frame in self._frames if frame[0] > self._changed]

    def _is_strained(self) -> bool:
        since = self._since_change()
        late = sum(latency > CALM_SHARE * self._budget for _, latency in since)
        # Of a few frames none may be late: a stream that gives one in five seconds is not calm.
        return late > (max(1.0, MISSED_SHARE * len(since)) if len(since) >= LEAST_FRAMES else 0)

    def _is_over(self) -> bool:
        since = self._since_change()
        enough = len(since) >= LEAST_FRAMES or (
            bool(since) and since[-1][0] - since[0][0] >= WINDOW_SECONDS
        )
        late = sum(latency > self._budget for _, latency in since)
        return enough and late > max(1.0, MISSED_SHARE * len(since))

    def _reconsider(self, now: float) -> None:
        calm = now - max(self._strained, self._changed)
        if self._is_over() and self.step < Step.FEWER_FRAMES:
            # A load between two steps would else be tried and missed every few seconds.
            held = now - self._relieved >= self._patience[self.step]
            longer = CALM_SECONDS if held else 2 * self._patience[self.step]
            self._patience[self.step] = min(longer, MOST_CALM_SECONDS)
            self.step, self._changed = Step(self.step + 1), now
            self._relieved = float("-inf")
        elif self.step and calm >= self._patience[Step(self.step - 1)]:
            self.step, self._changed = Step(self.step - 1), now
            self._relieved = now
