"""Calls of several threads that come together become one run."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Lane = TypeVar("Lane")
Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Call(Generic[Key, Item, Answer]):
    """What one thread waits for."""

    def __init__(self, key: Key, item: Item) -> None:
        self.key, self.item = key, item
        self.answer: Future[Answer] = Future()


class Gather(Generic[Lane, Key, Item, Answer]):
    """Runs items in batches of equal keys, on whichever lane is free.

    Nobody waits for company: while a lane is free an item goes at once, alone; those that come
    while all are busy make up the next batches, at most `largest` together, the longest waiting
    first. `run(lane, key, items)` gives an answer for each item; a lane is in one hand at a time.

    What waits is bounded by the threads that call.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        run: Callable[[Lane, Key, list[Item]], Iterable[Answer]],
        *,
        largest: int,
    ) -> None:
        self._run = run
        self._largest = largest
        self._idle = deque(lanes)
        self._waiting: list[Call[Key, Item, Answer]] = []
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(len(lanes), thread_name_prefix="gather")

    def __call__(self, key: Key, item: Item) -> Answer:
        """The answer for one item, with `run`'s error if its batch failed. Blocking."""
        call: Call[Key, Item, Answer] = Call(key, item)
        with self._lock:
            self._waiting.append(call)
        self._threads.submit(self._next)
        return call.answer.result()

    def _next(self) -> None:
        """Run the oldest waiting call and those that fit to it, if no other thread has."""
        with self._lock:
            if not self._waiting:
                return
            key = self._waiting[0].key
            batch = [call for call in self._waiting if call.key == key][: self._largest]
            self._waiting = [call for call in self._waiting if call not in batch]
            # There are as many threads as lanes.
            lane = self._idle.popleft()
        try:
            answers = self._run(lane, key, [call.item for call in batch])
            for call, answer in zip(batch, answers, strict=True):
                call.answer.set_result(answer)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            for call in batch:
                if not call.answer.done():
                    call.answer.set_exception(error)
        finally:
            with self._lock:
                self._idle.append(lane)
