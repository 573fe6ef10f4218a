"""Which rendition a viewer's network can take: pure policy, with hysteresis both ways."""

from __future__ import annotations

from stream_server.publish.rendition import SIZES, Size

# A receiver that sees its line fill up claims 85 % of what arrives; less means less arrives.
TOO_LITTLE = 0.75
TOO_MUCH_LOSS = 0.08
SOME_LOSS = 0.02
# Trouble has to last so long; after a move the reports are about the former rendition for a while.
DOWN_SECONDS = 2.0
# A receiver never claims much more than it is sent, so going up is a trial. One that fails doubles
# the wait for the next.
UP_SECONDS = 10.0
LONGEST_WAIT = 160.0


class RenditionChoice:
    """The size for one viewer, from what its receiver reports. Times in seconds, any clock."""

    def __init__(self, size: Size = "full") -> None:
        self.size: Size = size
        self._estimate: float | None = None
        self._loss = 0.0
        self._moved = float("-inf")
        self._went_up = False
        self._bad_since: float | None = None
        self._good_since: float | None = None
        self._wait = UP_SECONDS

    def heard(self, estimate: float | None, loss: float | None, *, rate: float, now: float) -> Size:
        """The size to send after another report.

        `estimate`: bits/s that the receiver can take; `loss`: the share of packets it misses;
        None where the report lacks it. `rate`: bits/s of the present rendition, 0 if not known.
        """
        self._estimate = self._estimate if estimate is None else estimate
        self._loss = self._loss if loss is None else loss
        starved = self._estimate is not None and self._estimate < TOO_LITTLE * rate
        bad = starved or self._loss >= TOO_MUCH_LOSS
        good = not bad and self._loss < SOME_LOSS
        self._bad_since = (self._bad_since or now) if bad else None
        self._good_since = (self._good_since or now) if good else None
        if _lasts(self._bad_since, now, DOWN_SECONDS):
            self._down(now)
        elif _lasts(self._good_since, now, self._wait):
            self._up(now)
        return self.size

    def _down(self, now: float) -> None:
        if self._went_up and now - self._moved < self._wait:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._move(+1, now)

    def _up(self, now: float) -> None:
        if self.size == SIZES[0]:
            self._wait = UP_SECONDS
        self._move(-1, now)

    def _move(self, steps: int, now: float) -> None:
        at = min(max(SIZES.index(self.size) + steps, 0), len(SIZES) - 1)
        self._went_up = SIZES[at] != self.size and steps < 0
        self.size, self._moved = SIZES[at], now
        self._bad_since = self._good_since = None
        self._estimate, self._loss = None, 0.0


def _lasts(since: float | None, now: float, seconds: float) -> bool:
    return since is not None and now - since >= seconds
