"""The line that says how far it is, how fast, and how long it will take. Terminals only."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

EVERY_SECONDS = 0.2
WIDTH = 79


class Progress:
    """Counts pictures and video frames; `total` may be an estimate; 0: unknown."""

    def __init__(
        self,
        total: int,
        stream: TextIO,
        *,
        shown: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._stream = stream
        self._clock = clock
        self._shown = shown
        self._done = 0
        self._started = clock()
        self._last = -EVERY_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown and self._done:
            self._stream.write("\r" + " " * WIDTH + "\r")
            self._stream.flush()

    def advance(self, file: str) -> None:
        """One more picture or frame of `file` is done."""
        self._done += 1
        now = self._clock()
        if self._shown and now - self._last >= EVERY_SECONDS:
            self._last = now
            self._stream.write("\r" + self.line(file, now).ljust(WIDTH)[:WIDTH])
            self._stream.flush()

    def line(self, file: str, now: float) -> str:
        """What is shown at the time `now`."""
        rate = self._done / max(now - self._started, 1e-3)
        name = file if len(file) <= 30 else "…" + file[-29:]
        if not self._total:
            return f"{self._done}, {rate:.1f} a second: {name}"
        total = max(self._total, self._done)
        left = round((total - self._done) / rate)
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        return f"{self._done} of {total}, {rate:.1f} a second, {clock} left: {name}"
