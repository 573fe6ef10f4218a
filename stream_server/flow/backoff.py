"""Exponential backoff with jitter, without limit in count. Pure: the caller sleeps."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays `initial` * 2**n up to `maximum` seconds, each shortened by up to half at random.

    The jitter keeps a rack of cameras that died together from knocking together.
    """

    initial: float
    maximum: float
    rng: random.Random = field(default_factory=random.Random)
    _tries: int = 0

    def next(self) -> float:
        """Seconds to wait before the next try."""
        full = min(self.maximum, self.initial * 2.0 ** min(self._tries, 30))
        self._tries += 1
        return full * self.rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """The last try worked: start again from `initial`."""
        self._tries = 0
