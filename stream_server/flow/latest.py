"""Hand-over where the newest item wins: one slot for a worker, a fan-out for many readers."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The slot or broadcast was closed; nothing more will come."""


class LatestSlot(Generic[T]):
    """Room for one item. `put` from any thread replaces what waits; `get` awaits the newest."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._ready = asyncio.Event()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> T | None:
        """Place `item`; returns the item it displaced (or `item` itself once closed), else None."""
        with self._lock:
            if self._closed:
                return item
            displaced, self._item = self._item, item
        if displaced is None:
            self._wake()
        return displaced

    async def get(self) -> T:
        """The newest item, waiting for one. Raises `Closed` when the slot is closed and empty."""
        while True:
            await self._ready.wait()
            with self._lock:
                item, self._item = self._item, None
                closed = self._closed
                if not closed:
                    self._ready.clear()
            if item is not None:
                return item
            if closed:
                raise Closed

    def close(self) -> None:
        """No item is taken after this; a waiting `get` ends. Idempotent, from any thread."""
        with self._lock:
            self._closed = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


class Subscription(Generic[T]):
    """One reader of a `Broadcast`: an async iterator that skips what it was too slow for."""

    def __init__(
        self, broadcast: Broadcast[T], maxlen: int, on_drop: Callable[[], None] | None = None
    ) -> None:
        self._broadcast = broadcast
        self._on_drop = on_drop
        self._items: deque[T] = deque(maxlen=maxlen)
        self._ready = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def push(self, item: T) -> None:
        """Called by the broadcast."""
        if len(self._items) == self._items.maxlen:
            self.dropped += 1
            if self._on_drop is not None:
                self._on_drop()
        self._items.append(item)
        self._ready.set()

    def end(self) -> None:
        """Called by the broadcast: iteration stops after what is already queued."""
        self._closed = True
        self._ready.set()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._items.popleft()

    def close(self) -> None:
        """Leave the broadcast. Idempotent."""
        self._broadcast.leave(self)
        self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Broadcast(Generic[T]):
    """One writer, many readers, each with its own bounded queue. Event loop only."""

    def __init__(self) -> None:
        self._readers: set[Subscription[T]] = set()
        self._closed = False

    @property
    def readers(self) -> int:
        """How many read."""
        return len(self._readers)

    def subscribe(
        self, maxlen: int = 1, on_drop: Callable[[], None] | None = None
    ) -> Subscription[T]:
        """A new reader that keeps at most `maxlen` unread items, the newest ones.

        `on_drop` is called for each that was displaced.
        """
        reader = Subscription(self, maxlen, on_drop)
        if self._closed:
            reader.end()
        else:
            self._readers.add(reader)
        return reader

    def leave(self, reader: Subscription[T]) -> None:
        """Forget a reader."""
        self._readers.discard(reader)

    def publish(self, item: T) -> None:
        """Give `item` to every reader; never blocks."""
        for reader in self._readers:
            reader.push(item)

    def close(self) -> None:
        """End every reader; later subscribers end at once. Idempotent."""
        self._closed = True
        for reader in tuple(self._readers):
            reader.end()
        self._readers.clear()
