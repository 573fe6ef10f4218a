"""One batcher for all streams: crops of many callers become one run of the network.

`BatchPolicy` and `Waiting` are pure (time is an argument); `Batcher` is the shell with the event
loop, the one worker thread and the clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from stream_server.errors import Overloaded
from stream_server.frames import Pixels
from stream_server.ports import FaceClassifier

Probabilities = npt.NDArray[np.float32]


class BatchPolicy:
    """When a batch closes: at `max_batch` crops, or `window` seconds after its first crop.

    The window stays shut while there is nobody to wait for: it is only kept open when, within
    the last `memory` seconds, some request came before another had been answered.
    """

    def __init__(self, max_batch: int, window: float, memory: float = 1.0) -> None:
        self._max_batch = max_batch
        self._window = window
        self._memory = memory
        self._company_until = -inf

    def arrived(self, now: float, *, alone: bool) -> None:
        """A request came at `now` (seconds, never going back); no other was unanswered: `alone`."""
        if not alone:
            self._company_until = now + self._memory

    def closes_in(self, pending: int, oldest: float, now: float) -> float:
        """Seconds until the batch of `pending` crops closes, whose first came at `oldest`."""
        if pending >= self._max_batch or now >= self._company_until:
            return 0.0
        return max(0.0, oldest + self._window - now)


@dataclass(eq=False, slots=True)
class Request:
    """Crops of one caller. `taken` and `answered` count those handed out and come back."""

    crops: Sequence[Pixels]
    arrived: float
    answer: asyncio.Future[Probabilities]
    taken: int = 0
    answered: int = 0
    rows: list[Probabilities] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return len(self.crops) - self.taken


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a batch that belongs to one request: its crops [start, stop)."""

    request: Request
    start: int
    stop: int

    @property
    def crops(self) -> Sequence[Pixels]:
        return self.request.crops[self.start : self.stop]


class Waiting:
    """Requests in the order they came, at most `limit` crops; the oldest make room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._requests: deque[Request] = deque()
        self.pending = 0

    @property
    def oldest(self) -> float:
        """When the first waiting request came; infinity if none waits."""
        return self._requests[0].arrived if self._requests else inf

    def push(self, request: Request) -> list[Request]:
        """Queue a request; returns those dropped for it (itself if it alone is over the limit)."""
        if request.waiting > self._limit:
            return [request]
        dropped = []
        while self.pending + request.waiting > self._limit:
            dropped.append(self._requests.popleft())
            self.pending -= dropped[-1].waiting
        self._requests.append(request)
        self.pending += request.waiting
        return dropped

    def discard(self, request: Request) -> None:
        """Forget what still waits of a request; no matter if nothing does."""
        with suppress(ValueError):
            self._requests.remove(request)
            self.pending -= request.waiting

    def take(self, count: int) -> list[Share]:
        """Hand out up to `count` crops, oldest first; a request may be cut in two."""
        shares = []
        while count and self._requests:
            request = self._requests[0]
            size = min(count, request.waiting)
            shares.append(Share(request, request.taken, request.taken + size))
            request.taken += size
            self.pending -= size
            count -= size
            if not request.waiting:
                self._requests.popleft()
        return shares


def _ignore(*_: object) -> None:
    """Nobody asked to be told."""


class Batcher:
    """Classifies crops of all streams through one `FaceClassifier`, in one worker thread.

    `async with` starts and ends it. `max_batch` crops or `window_ms` close a batch, at most
    `max_pending` crops wait. Told on the event loop: `on_batch(size, seconds)` after each run,
    `on_drop(reason, crops)` for crops shed with reason "overflow".
    """

    def __init__(
        self,
        classifier: FaceClassifier,
        *,
        max_batch: int = 32,
        window_ms: float = 3.0,
        max_pending: int = 256,
        on_batch: Callable[[int, float], object] = _ignore,
        on_drop: Callable[[str, int], object] = _ignore,
    ) -> None:
        if not 1 <= max_batch <= max_pending:
            raise ValueError(f"max_batch {max_batch} is not within 1..max_pending ({max_pending})")
        self._classifier = classifier
        self._max_batch = max_batch
        self._policy = BatchPolicy(max_batch, window_ms / 1e3)
        self._waiting = Waiting(max_pending)
        self._on_batch, self._on_drop = on_batch, on_drop
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="classify")
        self._batch: list[Share] = []
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """Crops that wait; those in the network are not counted."""
        return self._waiting.pending

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work(), name="batcher")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def classify(self, crops: Sequence[Pixels]) -> Probabilities:
        """Calibrated probabilities (n, labels), float32, for BGR uint8 crops (size, size, 3).

        Raises `Overloaded` when the crops were shed for newer ones or the batcher is closed,
        ValueError for crops of another shape, and whatever the runtime raises on their batch.
        """
        size = self._classifier.input_size
        for crop in crops:
            if crop.shape != (size, size, 3) or crop.dtype != np.uint8:
                raise ValueError(f"expected uint8 {size}x{size}x3, got {crop.dtype} {crop.shape}")
        if self._closed or self._worker is None:
            raise Overloaded("the classifier is not running: the service starts or ends")
        if not crops:
            return np.empty((0, len(self._classifier.labels)), np.float32)
        loop = asyncio.get_running_loop()
        request = Request(crops, loop.time(), loop.create_future())
        self._policy.arrived(request.arrived, alone=not (self._waiting.pending or self._batch))
        for dropped in self._waiting.push(request):
            self._on_drop("overflow", dropped.waiting)
            _fail(
                dropped, Overloaded("too many faces wait for the classifier; the oldest gave way")
            )
        self._arrived.set()
        try:
            return await request.answer
        finally:
            self._waiting.discard(request)

    async def close(self) -> None:
        """End the worker and its thread; who still waits gets `Overloaded`. Idempotent."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        for share in self._batch + self._waiting.take(self._waiting.pending):
            _fail(share.request, Overloaded("the classifier was shut down"))
        await asyncio.to_thread(self._thread.shutdown)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._arrived.clear()
            if not self._waiting.pending:
                await self._arrived.wait()
                continue
            now = loop.time()
            delay = self._policy.closes_in(self._waiting.pending, self._waiting.oldest, now)
            if delay > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), delay)
                continue
            self._batch = self._waiting.take(self._max_batch)
            await self._run()
            self._batch = []

    async def _run(self) -> None:
        started = perf_counter()
        crops = [crop for share in self._batch for crop in share.crops]
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._classify, crops)
        await asyncio.wait([running])
        if error := running.exception():
            for share in self._batch:
                self._waiting.discard(share.request)
                _fail(share.request, error)
            return
        self._on_batch(len(crops), perf_counter() - started)
        rows, first = running.result(), 0
        for share in self._batch:
            _answer(share, rows[first : first + share.stop - share.start])
            first += share.stop - share.start

    def _classify(self, crops: list[Pixels]) -> Probabilities:
        rows = self._classifier.classify(np.stack(crops))
        expected = len(crops), len(self._classifier.labels)
        if rows.shape != expected:
            raise RuntimeError(f"the runtime gave {rows.shape} probabilities instead of {expected}")
        return rows


def _answer(share: Share, rows: Probabilities) -> None:
    request = share.request
    request.rows.append(rows)
    request.answered += len(rows)
    if request.answered == len(request.crops) and not request.answer.done():
        request.answer.set_result(np.concatenate(request.rows))


def _fail(request: Request, error: BaseException) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
