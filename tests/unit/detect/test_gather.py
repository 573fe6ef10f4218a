import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from stream_server.detect.gather import Gather

Size = str


class HeldRuns:
    """Notes (lane, key, items) of each run; a run waits for `gate`. The answer is item * 10."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, Size, list[int]]] = []
        self.gate = threading.Event()
        self.busy: set[str] = set()
        self.fail_on: int | None = None

    def run(self, lane: str, key: Size, items: list[int]) -> list[int]:
        assert lane not in self.busy, "a lane in two hands"
        self.busy.add(lane)
        try:
            self.runs.append((lane, key, items))
            assert self.gate.wait(10)
            if self.fail_on in items:
                raise RuntimeError(f"cannot run {self.fail_on}")
            return [item * 10 for item in items]
        finally:
            self.busy.remove(lane)


def _until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


def _ask(
    pool: ThreadPoolExecutor, gather: Gather[str, Size, int, int], *asked: tuple[Size, int]
) -> list[Future[int]]:
    """Each call in a thread of its own, in this order."""
    futures = []
    for key, item in asked:
        before = len(gather._waiting)
        futures.append(pool.submit(gather, key, item))
        _until(lambda before=before: len(gather._waiting) > before)  # type: ignore[misc]
    return futures


def _busy(
    pool: ThreadPoolExecutor, held: HeldRuns, gather: Gather[str, Size, int, int], lanes: int
) -> list[Future[int]]:
    """All lanes hold a run."""
    futures = []
    for number in range(lanes):
        futures.append(pool.submit(gather, "busy", number))
        _until(lambda number=number: len(held.runs) == number + 1)  # type: ignore[misc]
    return futures


def test_a_lone_caller_runs_at_once_and_alone() -> None:
    held = HeldRuns()
    held.gate.set()
    gather = Gather(["a"], held.run, largest=4)
    assert [gather("s", n) for n in (1, 2)] == [10, 20]
    assert held.runs == [("a", "s", [1]), ("a", "s", [2])]


def test_those_who_come_while_all_lanes_are_busy_share_the_next_run() -> None:
    held = HeldRuns()
    gather = Gather(["a"], held.run, largest=4)
    with ThreadPoolExecutor(8) as pool:
        first = _busy(pool, held, gather, 1)
        others = _ask(pool, gather, ("s", 1), ("s", 2), ("s", 3))
        held.gate.set()
        assert [f.result(10) for f in first + others] == [0, 10, 20, 30]
    assert held.runs[1:] == [("a", "s", [1, 2, 3])]


def test_only_equal_keys_share_and_the_longest_waiting_go_first() -> None:
    held = HeldRuns()
    gather = Gather(["a"], held.run, largest=2)
    with ThreadPoolExecutor(8) as pool:
        first = _busy(pool, held, gather, 1)
        asked = ("s", 1), ("t", 2), ("s", 3), ("s", 4), ("t", 5)
        others = _ask(pool, gather, *asked)
        held.gate.set()
        assert [f.result(10) for f in first + others] == [0, 10, 20, 30, 40, 50]
    assert held.runs[1:] == [("a", "s", [1, 3]), ("a", "t", [2, 5]), ("a", "s", [4])]


def test_a_run_goes_to_the_lane_that_is_free_and_each_has_one_in_flight() -> None:
    held = HeldRuns()
    gather = Gather(["a", "b"], held.run, largest=4)
    with ThreadPoolExecutor(8) as pool:
        first = _busy(pool, held, gather, 2)
        others = _ask(pool, gather, ("s", 2), ("s", 3))
        assert [lane for lane, _, _ in held.runs] == ["a", "b"]
        held.gate.set()
        assert [f.result(10) for f in first + others] == [0, 10, 20, 30]


def test_a_failing_run_reaches_its_callers_alone_and_gives_its_lane_back() -> None:
    held = HeldRuns()
    held.fail_on = 2
    gather = Gather(["a"], held.run, largest=2)
    with ThreadPoolExecutor(8) as pool:
        first = _busy(pool, held, gather, 1)
        others = _ask(pool, gather, ("s", 1), ("s", 2), ("s", 3))
        held.gate.set()
        for failed in others[:2]:
            with pytest.raises(RuntimeError, match="cannot run 2"):
                failed.result(10)
        assert [f.result(10) for f in (first[0], others[2])] == [0, 30]
    assert gather("s", 4) == 40


def test_too_few_answers_are_an_error_and_no_caller_waits_for_ever() -> None:
    gather = Gather(["a"], lambda lane, key, items: [], largest=2)
    with pytest.raises(ValueError, match="zip"):
        gather("s", 1)
