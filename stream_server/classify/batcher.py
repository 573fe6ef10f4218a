"""One batcher for all streams: crops of many callers become one run of the network.

`BatchPolicy`, `Lane` and `Waiting` are pure (time is an argument); `Batcher` is the shell with the
event loop, the one worker thread and the clock.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from math import exp, inf
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from stream_server.errors import Overloaded
from stream_server.frames import Pixels
from stream_server.ports import FaceClassifier

Probabilities = npt.NDArray[np.float32]

QUANTUM = 4
"""Crops that a stream may hand in before the next stream's turn: most pictures show no more."""
RUN_SECONDS = 0.04
"""No run should take longer: who comes just after its start waits for all of it."""
COMPANY = 4
"""As many patient crops as this wait no longer: the most that one thread runs at once
(`openvino.FEW`), and each then costs half of what it costs alone."""
BUSY_SHARE = 0.5
"""The network's share of busy time above which waiting for company begins to pay."""


class BatchPolicy:
    """When a batch closes, and at how many crops; both follow the load.

    `size` crops fill a batch. It is found by additive increase, multiplicative decrease, as in
    Clipper (NSDI 2017): one more after each full run within `run_target` seconds, a quarter less
    after each longer one, never over `max_batch`.

    A smaller batch closes at once, unless the network has been busy for more than `BUSY_SHARE` of
    the last `memory` seconds or so, and some stream asked while another waited. Then it is kept
    open, for up to `window` seconds after its first crop when the network never rests.

    The network has `replicas`; it is as busy as they are on average.
    """

    def __init__(
        self,
        max_batch: int,
        window: float,
        memory: float = 1.0,
        run_target: float = RUN_SECONDS,
        replicas: int = 1,
    ) -> None:
        self._max_batch = max_batch
        self._window = window
        self._memory = memory
        self._run_target = run_target
        self._replicas = replicas
        self._company_until = -inf
        self._load, self._load_at = 0.0, -inf
        self.size = max_batch

    def arrived(self, now: float, *, alone: bool) -> None:
        """A request came at `now` (seconds, never going back); no other stream waited: `alone`."""
        if not alone:
            self._company_until = now + self._memory

    def ran(self, crops: int, seconds: float, now: float) -> None:
        """A run of so many crops took `seconds` and ended at `now`."""
        if seconds > self._run_target:
            self.size = max(1, self.size * 3 // 4)
        elif crops >= self.size:
            self.size = min(self._max_batch, self.size + 1)
        # An exponentially weighted mean of "busy": the run after the pause before it.
        busy = seconds / self._replicas
        kept = exp(-busy / self._memory)
        self._load = self.load(now - busy) * kept + 1 - kept
        self._load_at = now

    def load(self, now: float) -> float:
        """The share (0..1) of the last time in which the network was busy."""
        return self._load * exp(-max(0.0, now - self._load_at) / self._memory)

    def closes_in(self, pending: int, oldest: float, now: float) -> float:
        """Seconds until the batch of `pending` crops closes, whose first came at `oldest`."""
        strain = (self.load(now) - BUSY_SHARE) / (1 - BUSY_SHARE)
        if pending >= self.size or now >= self._company_until or strain <= 0:
            return 0.0
        return max(0.0, oldest + strain * self._window - now)


@dataclass(eq=False, slots=True)
class Request:
    """Crops of one caller. `taken` and `answered` count those handed out and come back.

    `arrived`, `start_by` and `deadline` are seconds of the same clock; until `start_by` the caller
    would rather wait for company than have an answer. `rows` holds the answers by the first
    crop they are of: two parts of a request may be in two replicas, and the second come back first.
    """

    crops: Sequence[Pixels]
    arrived: float
    answer: asyncio.Future[Probabilities]
    stream: str = ""
    urgent: bool = True
    deadline: float = inf
    start_by: float = -inf
    taken: int = 0
    answered: int = 0
    rows: dict[int, Probabilities] = field(default_factory=dict)

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


class Lane:
    """Requests of one priority: deficit round robin between streams, within a stream the earliest
    deadline first.

    Of two streams that both have crops waiting, neither is handed out more than `QUANTUM` crops
    more than the other.
    """

    def __init__(self) -> None:
        # The stream whose turn it is comes first.
        self._streams: OrderedDict[str, list[Request]] = OrderedDict()
        self._left = QUANTUM

    def __iter__(self) -> Iterator[Request]:
        for requests in self._streams.values():
            yield from requests

    def push(self, request: Request) -> None:
        """Queue a request; a stream that had none waiting comes last."""
        requests = self._streams.setdefault(request.stream, [])
        insort(requests, request, key=lambda r: (r.deadline, r.arrived))

    def discard(self, request: Request) -> None:
        """Forget what still waits of a request; no matter if nothing does."""
        requests = self._streams.get(request.stream, [])
        with suppress(ValueError):
            requests.remove(request)
            if not requests:
                self._leave(request.stream)

    def take(self, count: int) -> list[Share]:
        """Hand out up to `count` crops; a request may be cut."""
        shares: list[Share] = []
        while count and self._streams:
            stream, requests = next(iter(self._streams.items()))
            request = requests[0]
            size = min(count, request.waiting, self._left)
            _hand_out(request, size, shares)
            count -= size
            self._left -= size
            if not request.waiting:
                self.discard(request)
            if not self._left:
                self._left = QUANTUM
                if stream in self._streams:
                    self._streams.move_to_end(stream)
        return shares

    def _leave(self, stream: str) -> None:
        if stream == next(iter(self._streams)):
            self._left = QUANTUM
        del self._streams[stream]


def _hand_out(request: Request, size: int, shares: list[Share]) -> None:
    start, request.taken = request.taken, request.taken + size
    if shares and shares[-1].request is request:
        start = shares.pop().start
    shares.append(Share(request, start, request.taken))


class Waiting:
    """At most `limit` crops, the urgent ones before the others."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._urgent, self._others = Lane(), Lane()

    def __iter__(self) -> Iterator[Request]:
        yield from self._urgent
        yield from self._others

    @property
    def pending(self) -> int:
        """Crops that wait."""
        return sum(request.waiting for request in self)

    @property
    def oldest(self) -> float:
        """When the first of the waiting requests came; infinity if none waits."""
        return min((request.arrived for request in self), default=inf)

    def rests_for(self, now: float) -> float:
        """Seconds for which all that wait would rather wait for company; 0 once one would not."""
        if self.pending >= COMPANY:
            return 0.0
        return max(0.0, min((request.start_by for request in self), default=-inf) - now)

    def push(self, request: Request) -> list[Request]:
        """Queue a request; returns those dropped for it, which may be itself.

        The stream with the most crops waiting gives way: what is not urgent first, then what
        waited longest. A request over the limit by itself drops nobody else.
        """
        if request.waiting > self._limit:
            return [request]
        self._lane(request).push(request)
        dropped: list[Request] = []
        while self.pending > self._limit:
            dropped.append(self._gives_way())
            self.discard(dropped[-1])
        return dropped

    def expire(self, now: float) -> list[Request]:
        """Forget the requests whose deadline has come; returns them."""
        late = [request for request in self if request.deadline <= now]
        for request in late:
            self.discard(request)
        return late

    def discard(self, request: Request) -> None:
        """Forget what still waits of a request; no matter if nothing does."""
        self._lane(request).discard(request)

    def take(self, count: int) -> list[Share]:
        """Hand out up to `count` crops; a request may be cut."""
        shares = self._urgent.take(count)
        return shares + self._others.take(count - sum(s.stop - s.start for s in shares))

    def _lane(self, request: Request) -> Lane:
        return self._urgent if request.urgent else self._others

    def _gives_way(self) -> Request:
        crops: Counter[str] = Counter()
        for request in self:
            crops[request.stream] += request.waiting
        ((greediest, _),) = crops.most_common(1)
        its_own = (request for request in self if request.stream == greediest)
        return min(its_own, key=lambda r: (r.urgent, r.arrived))


def _ignore(*_: object) -> None:
    """Nobody asked to be told."""


class Batcher:
    """Classifies crops of all streams through one `FaceClassifier`.

    `async with` starts and ends it. `max_batch` crops or `window_ms` close a batch at the latest,
    at most `max_pending` crops wait. The classifier is called by up to `replicas` threads at once,
    and no batch closes before one of them is free. Told on the event loop:
    `on_batch(size, seconds)` after each run, `on_wait(seconds)` when the last crop of a request
    goes into the network (its patience is no waiting), and `on_drop(reason, crops)` for crops shed
    with reason "overflow" or "late".
    """

    def __init__(
        self,
        classifier: FaceClassifier,
        *,
        max_batch: int = 32,
        window_ms: float = 3.0,
        max_pending: int = 256,
        replicas: int = 1,
        on_batch: Callable[[int, float], object] = _ignore,
        on_drop: Callable[[str, int], object] = _ignore,
        on_wait: Callable[[float], object] = _ignore,
    ) -> None:
        if not 1 <= max_batch <= max_pending:
            raise ValueError(f"max_batch {max_batch} is not within 1..max_pending ({max_pending})")
        self._classifier = classifier
        self._policy = BatchPolicy(max_batch, window_ms / 1e3, replicas=replicas)
        self._waiting = Waiting(max_pending)
        self._on_batch, self._on_drop, self._on_wait = on_batch, on_drop, on_wait
        self._replicas = replicas
        self._changed = asyncio.Event()
        self._threads = ThreadPoolExecutor(replicas, thread_name_prefix="classify")
        self._batches: list[list[Share]] = []
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

    async def classify(
        self,
        crops: Sequence[Pixels],
        *,
        stream: str = "",
        urgent: bool = True,
        deadline: float | None = None,
        patience: float = 0.0,
    ) -> Probabilities:
        """Calibrated probabilities (n, labels), float32, for BGR uint8 crops (size, size, 3).

        Streams take turns, urgent crops go first. For `patience` seconds these crops open no batch
        by themselves, but go with others or when `COMPANY` of them have come. After `deadline`
        (seconds of the event loop's clock) crops that wait are not classified any more; those in
        the network still are.

        Raises `Overloaded` when crops were shed (too many waited, or the deadline came) or the
        batcher is closed, ValueError for crops of another shape, and whatever the runtime raises
        on their batch.
        """
        self._check(crops)
        if self._closed or self._worker is None:
            raise Overloaded("the classifier is not running: the service starts or ends")
        if not crops:
            return np.empty((0, len(self._classifier.labels)), np.float32)
        loop = asyncio.get_running_loop()
        due = inf if deadline is None else deadline
        now = loop.time()
        request = Request(crops, now, loop.create_future(), stream, urgent, due, now + patience)
        self._enqueue(request)
        timer = None if deadline is None else loop.call_at(deadline, self._drop_late, deadline)
        try:
            return await request.answer
        finally:
            self._waiting.discard(request)
            if timer is not None:
                timer.cancel()

    def _check(self, crops: Sequence[Pixels]) -> None:
        size = self._classifier.input_size
        for crop in crops:
            if crop.shape != (size, size, 3) or crop.dtype != np.uint8:
                raise ValueError(f"expected uint8 {size}x{size}x3, got {crop.dtype} {crop.shape}")

    def _enqueue(self, request: Request) -> None:
        running = (share.request for batch in self._batches for share in batch)
        alone = all(r.stream == request.stream for r in (*running, *self._waiting))
        self._policy.arrived(request.arrived, alone=alone)
        for dropped in self._waiting.push(request):
            self._drop(dropped, "overflow", "too many faces wait for the classifier")
        self._drop_late(request.arrived)
        self._changed.set()

    def _drop_late(self, now: float) -> None:
        for request in self._waiting.expire(now):
            self._drop(request, "late", "the classifier was too busy to be in time")

    def _drop(self, request: Request, reason: str, explanation: str) -> None:
        self._on_drop(reason, request.waiting)
        _fail(request, Overloaded(explanation))

    async def close(self) -> None:
        """End the worker and its threads; who still waits gets `Overloaded`. Idempotent."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        running = [share for batch in self._batches for share in batch]
        for share in running + self._waiting.take(self._waiting.pending):
            _fail(share.request, Overloaded("the classifier was shut down"))
        await asyncio.to_thread(self._threads.shutdown)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as runs:
            while True:
                self._changed.clear()
                if not self._waiting.pending or len(self._batches) == self._replicas:
                    await self._changed.wait()
                elif (delay := self._closes_in()) > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), delay)
                else:
                    runs.create_task(self._run(self._close_batch()))

    def _closes_in(self) -> float:
        now = asyncio.get_running_loop().time()
        if rest := self._waiting.rests_for(now):
            return rest
        return self._policy.closes_in(self._waiting.pending, self._waiting.oldest, now)

    def _close_batch(self) -> list[Share]:
        now = asyncio.get_running_loop().time()
        batch = self._waiting.take(self._policy.size)
        for request in {share.request for share in batch}:
            if not request.waiting:
                self._on_wait(max(0.0, now - max(request.arrived, request.start_by)))
        self._batches.append(batch)
        return batch

    async def _run(self, batch: list[Share]) -> None:
        started = perf_counter()
        crops = [crop for share in batch for crop in share.crops]
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, self._classify, crops)
        await asyncio.wait([running])
        self._batches.remove(batch)
        self._changed.set()
        if error := running.exception():
            for share in batch:
                self._waiting.discard(share.request)
                _fail(share.request, error)
            return
        seconds = perf_counter() - started
        self._policy.ran(len(crops), seconds, loop.time())
        self._on_batch(len(crops), seconds)
        rows, first = running.result(), 0
        for share in batch:
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
    request.rows[share.start] = rows
    request.answered += len(rows)
    if request.answered == len(request.crops) and not request.answer.done():
        request.answer.set_result(
            np.concatenate([request.rows[start] for start in sorted(request.rows)])
        )


def _fail(request: Request, error: BaseException) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
