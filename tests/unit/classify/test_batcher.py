import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.classify.batcher import (
    QUANTUM,
    Batcher,
    BatchPolicy,
    Lane,
    Request,
    Waiting,
)
from stream_server.errors import Overloaded
from tests.fakes.gated_classifier import GatedClassifier, answer, crop

# The policy: pure, with time as an argument.


def test_a_lone_caller_never_waits() -> None:
    policy = BatchPolicy(max_batch=8, window=0.003)
    for frame in range(100):
        now = frame / 1000
        policy.arrived(now, alone=True)
        assert policy.closes_in(1, now, now) == 0


def _busy(policy: BatchPolicy, until: float) -> BatchPolicy:
    """The network ran without a rest; runs are short enough for full batches."""
    for step in range(1000, -1, -1):
        policy.ran(1, 0.01, until - step / 100)
    return policy


def test_company_opens_the_window_and_its_memory_ends() -> None:
    policy = _busy(BatchPolicy(max_batch=8, window=0.003, memory=1.0), until=10.0)
    policy.arrived(10.0, alone=True)
    policy.arrived(10.002, alone=False)
    assert policy.closes_in(2, oldest=10.0, now=10.002) == pytest.approx(0.001, rel=0.02)
    _busy(policy, until=10.5)
    policy.arrived(10.5, alone=True)
    assert policy.closes_in(1, oldest=10.5, now=10.5) == pytest.approx(0.003)
    _busy(policy, until=11.01)
    policy.arrived(11.01, alone=True)
    assert policy.closes_in(1, oldest=11.01, now=11.01) == 0


def test_company_does_not_open_the_window_of_a_network_that_rests() -> None:
    policy = BatchPolicy(max_batch=8, window=0.003)
    policy.arrived(5.0, alone=False)
    assert policy.closes_in(1, 5.0, 5.0) == 0
    _busy(policy, until=5.0)
    assert policy.closes_in(1, 5.0, 5.0) == pytest.approx(0.003, rel=0.02)
    # Three quarters busy is half way between where it opens and where it is widest.
    assert policy.closes_in(1, 5.288, 5.288) == pytest.approx(0.0015, rel=0.02)
    assert policy.closes_in(1, 5.7, 5.7) == 0


def test_load_is_the_share_of_busy_time() -> None:
    policy = BatchPolicy(max_batch=8, window=0.003)
    for run in range(1000):
        policy.ran(1, 0.003, 0.01 * run)
    assert policy.load(9.99) == pytest.approx(0.3, abs=0.01)
    assert policy.load(19.99) < 0.001


def test_a_batch_shrinks_until_its_run_is_short_enough_and_grows_again() -> None:
    policy = BatchPolicy(max_batch=32, window=0.003, run_target=0.04)
    now, sizes = 0.0, []
    for seconds_each in [0.006] * 60 + [0.0005] * 60:
        seconds = 0.003 + seconds_each * policy.size
        now += seconds
        policy.ran(policy.size, seconds, now)
        sizes.append(policy.size)
    assert max(sizes[10:60]) <= 7
    assert min(sizes[10:60]) >= 4
    assert sizes[-1] == 32


def test_small_runs_say_nothing_about_larger_ones() -> None:
    policy = BatchPolicy(max_batch=32, window=0.003, run_target=0.04)
    policy.ran(32, 0.1, 1.0)
    assert policy.size == 24
    for run in range(50):
        policy.ran(3, 0.004, 1.1 + run)
    assert policy.size == 24


def test_the_window_runs_from_the_first_crop_not_the_last() -> None:
    policy = _busy(BatchPolicy(max_batch=8, window=0.003), until=5.0)
    for now in (5.0, 5.001, 5.002):
        policy.arrived(now, alone=False)
    assert policy.closes_in(3, oldest=5.0, now=5.002) == pytest.approx(0.001, rel=0.02)
    assert policy.closes_in(3, oldest=5.0, now=5.0031) == 0


def test_a_full_batch_closes_at_once() -> None:
    policy = _busy(BatchPolicy(max_batch=4, window=0.003), until=5.0)
    policy.arrived(5.0, alone=False)
    assert policy.closes_in(3, 5.0, 5.0) > 0
    assert policy.closes_in(4, 5.0, 5.0) == 0
    assert policy.closes_in(9, 5.0, 5.0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.booleans()), min_size=1, max_size=50),
    st.integers(1, 64),
    st.floats(0, 0.05),
    st.integers(1, 100),
    st.booleans(),
)
def test_no_crop_ever_waits_longer_than_the_window(
    arrivals: list[tuple[float, bool]], max_batch: int, window: float, pending: int, busy: bool
) -> None:
    policy = BatchPolicy(max_batch, window)
    if busy:
        _busy(policy, until=0.0)
    now, oldest, closes = 0.0, 0.0, -1.0
    for gap, alone in arrivals:
        now += gap
        policy.arrived(now, alone=alone)
        if closes <= now:
            oldest = now
        delay = policy.closes_in(pending, oldest, now)
        closes = now + delay
        assert delay >= 0
        assert closes <= oldest + window + 1e-9
        assert pending < max_batch or delay == 0


# The queue: pure as well.


def _request(numbers: Sequence[int], arrived: float = 0.0) -> Request:
    loop = asyncio.new_event_loop()
    try:
        return Request([crop(n) for n in numbers], arrived, loop.create_future())
    finally:
        loop.close()


def _numbers(crops: Sequence[np.ndarray]) -> list[int]:
    return [int(c[0, 0, 0]) for c in crops]


def test_the_oldest_make_room_for_the_newest() -> None:
    waiting = Waiting(5)
    first, second, third = _request([1, 2]), _request([3, 4]), _request([5, 6, 7])
    assert waiting.push(first) == []
    assert waiting.push(second) == []
    assert waiting.push(third) == [first]
    assert waiting.pending == 5
    assert [_numbers(s.crops) for s in waiting.take(9)] == [[3, 4], [5, 6, 7]]


def test_a_request_over_the_limit_by_itself_drops_nobody_else() -> None:
    waiting = Waiting(3)
    small, huge = _request([1]), _request(range(4))
    waiting.push(small)
    assert waiting.push(huge) == [huge]
    assert waiting.pending == 1


def test_a_request_is_cut_where_the_batch_ends() -> None:
    waiting = Waiting(10)
    waiting.push(_request([1, 2], arrived=1.0))
    waiting.push(_request([3, 4, 5], arrived=2.0))
    assert waiting.oldest == 1.0
    assert [_numbers(s.crops) for s in waiting.take(3)] == [[1, 2], [3]]
    assert waiting.oldest == 2.0
    assert [_numbers(s.crops) for s in waiting.take(3)] == [[4, 5]]
    assert (waiting.pending, waiting.oldest) == (0, inf)


def _asked(count: int, stream: str = "", **options: Any) -> Request:
    request = _request([0] * count)
    request.stream = stream
    for name, value in options.items():
        setattr(request, name, value)
    return request


def _taken(waiting: Waiting | Lane, count: int) -> list[tuple[str, int]]:
    """Streams and how many of their crops are handed out, in order."""
    return [(s.request.stream, s.stop - s.start) for s in waiting.take(count)]


def test_urgent_crops_go_before_all_others() -> None:
    waiting = Waiting(100)
    waiting.push(_asked(5, "a", urgent=False))
    waiting.push(_asked(2, "b", urgent=False))
    waiting.push(_asked(3, "c"))
    waiting.push(_asked(2, "a"))
    assert _taken(waiting, 6) == [("c", 3), ("a", 2), ("a", 1)]
    assert _taken(waiting, 9) == [("a", 3), ("b", 2), ("a", 1)]


def test_streams_take_turns_and_a_crowd_waits_for_its_own() -> None:
    waiting = Waiting(200)
    waiting.push(_asked(100, "crowd"))
    for stream in ("a", "b", "c"):
        waiting.push(_asked(2, stream))
    assert _taken(waiting, 12) == [("crowd", 4), ("a", 2), ("b", 2), ("c", 2), ("crowd", 2)]


def test_a_turn_that_the_batch_cut_off_goes_on_and_ends() -> None:
    lane = Lane()
    lane.push(_asked(20, "a"))
    lane.push(_asked(20, "b"))
    handed_out = [stream for _ in range(16) for stream, _ in _taken(lane, 1)]
    assert "".join(handed_out) == "aaaabbbbaaaabbbb"


def test_a_stream_that_leaves_in_the_middle_of_its_turn_costs_the_next_nothing() -> None:
    lane = Lane()
    leaving = _asked(20, "a")
    lane.push(leaving)
    lane.push(_asked(20, "b"))
    lane.push(_asked(20, "c"))
    lane.take(3)
    lane.discard(leaving)
    assert _taken(lane, 8) == [("b", 4), ("c", 4)]


def test_of_one_stream_the_earliest_deadline_goes_first() -> None:
    waiting = Waiting(100)
    waiting.push(_asked(1, "a"))
    waiting.push(_asked(2, "a", deadline=9.0))
    waiting.push(_asked(3, "a", deadline=8.0))
    waiting.push(_asked(4, "a", deadline=9.0, arrived=1.0))
    assert [size for _, size in _taken(waiting, 10)] == [3, 2, 4, 1]


@given(
    st.lists(st.integers(20, 40), min_size=2, max_size=6),
    st.lists(st.integers(1, 12), min_size=1, max_size=20),
)
def test_of_two_streams_that_wait_none_gets_a_quantum_more(
    crowds: list[int], batches: list[int]
) -> None:
    lane, served = Lane(), Counter[str]()
    for number, crops in enumerate(crowds):
        # In several requests, so that a turn may span two of them.
        for part in (crops // 3, crops - crops // 3):
            lane.push(_asked(part, str(number)))
    for size in batches:
        for stream, count in _taken(lane, size):
            served[stream] += count
        still = [str(n) for n, crops in enumerate(crowds) if served[str(n)] < crops]
        for one, other in combinations(still, 2):
            assert abs(served[one] - served[other]) <= QUANTUM


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 30)), max_size=12),
    st.integers(1, QUANTUM),
    st.integers(1, 32),
)
def test_a_small_request_waits_for_one_turn_of_each_other_stream_at_most(
    crowds: list[tuple[str, int]], crops: int, batch: int
) -> None:
    waiting = Waiting(1000)
    for stream, count in crowds:
        waiting.push(_asked(count, stream))
    waiting.push(_asked(crops, "small"))
    before = 0
    while shares := _taken(waiting, batch):
        names = [stream for stream, _ in shares]
        if "small" in names:
            before += sum(count for _, count in shares[: names.index("small")])
            break
        before += sum(count for _, count in shares)
    assert before <= QUANTUM * len({stream for stream, _ in crowds})


def test_what_is_late_is_forgotten_and_nothing_else() -> None:
    waiting = Waiting(100)
    late, soon = _asked(3, "a", deadline=5.0), _asked(2, "b", deadline=5.1)
    for request in (late, soon, _asked(1, "c", urgent=False)):
        waiting.push(request)
    assert waiting.expire(4.9) == []
    assert waiting.expire(5.0) == [late]
    assert waiting.expire(5.0) == []
    assert _taken(waiting, 9) == [("b", 2), ("c", 1)]


def test_the_stream_with_the_most_crops_gives_way() -> None:
    waiting = Waiting(10)
    crowd, more = _asked(4, "crowd", arrived=2.0), _asked(3, "crowd", arrived=3.0)
    for request in (_asked(2, "a", arrived=1.0), crowd, more):
        assert waiting.push(request) == []
    assert waiting.push(_asked(2, "b", arrived=4.0)) == [crowd]
    assert waiting.pending == 7


def test_a_newcomer_who_asks_for_the_most_gives_way_itself() -> None:
    waiting = Waiting(10)
    waiting.push(_asked(4, "a"))
    newcomer = _asked(9, "crowd", arrived=1.0)
    assert waiting.push(newcomer) == [newcomer]
    assert _taken(waiting, 20) == [("a", 4)]


def test_of_one_stream_what_is_not_urgent_gives_way_first() -> None:
    waiting = Waiting(10)
    waiting.push(_asked(4, "a", arrived=1.0))
    recheck = _asked(4, "a", arrived=2.0, urgent=False)
    waiting.push(recheck)
    assert waiting.push(_asked(4, "a", arrived=3.0)) == [recheck]


@given(
    st.integers(1, 12),
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(1, 8)),
            st.tuples(st.just("expire"), st.integers(0, 8)),
            st.tuples(st.just("take"), st.integers(1, 8)),
            st.tuples(st.just("discard"), st.integers(0, 5)),
        ),
        max_size=40,
    ),
)
def test_no_crop_is_lost_or_handed_out_twice(limit: int, steps: list[tuple[str, int]]) -> None:
    waiting, pushed, seen = Waiting(limit), list[Request](), set()
    gone: set[tuple[int, int]] = set()
    for number, (step, value) in enumerate(steps):
        if step == "push":
            # Four streams, both priorities, deadlines from 0 to 7.
            place = {"urgent": number % 3 > 0, "deadline": 5.0 * number % 8, "arrived": number}
            pushed.append(_asked(value, "abcd"[number % 4], **place))
            for dropped in waiting.push(pushed[-1]):
                gone.update((id(dropped), i) for i in range(dropped.taken, len(dropped.crops)))
        elif step == "expire":
            for late in waiting.expire(value):
                assert late.deadline <= value
                gone.update((id(late), i) for i in range(late.taken, len(late.crops)))
        elif step == "take":
            shares = waiting.take(value)
            assert sum(s.stop - s.start for s in shares) <= value
            for share in shares:
                new = {(id(share.request), i) for i in range(share.start, share.stop)}
                assert not new & (seen | gone)
                seen |= new
        elif value < len(pushed):
            request = pushed[value]
            waiting.discard(request)
            gone.update((id(request), i) for i in range(request.taken, len(request.crops)))
        assert 0 <= waiting.pending <= limit
        everything = {(id(r), i) for r in pushed for i in range(len(r.crops))}
        assert len(everything - seen - gone) == waiting.pending


# The shell: a real event loop and a real thread.


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("waited in vain")


def _is_answer(rows: np.ndarray, numbers: Sequence[int]) -> bool:
    return rows.dtype == np.float32 and np.allclose(rows, [answer(n) for n in numbers])


async def test_each_caller_gets_its_own_rows() -> None:
    classifier = GatedClassifier()
    sizes: list[int] = []
    async with Batcher(classifier, on_batch=lambda n, s: sizes.append(n)) as batcher:
        wanted = [[1], [2, 3, 4], [], [5, 6], [7]]
        found = await asyncio.gather(
            *(batcher.classify([crop(n) for n in numbers]) for numbers in wanted)
        )
    for numbers, rows in zip(wanted, found, strict=True):
        assert rows.shape == (len(numbers), 3)
        assert not numbers or _is_answer(rows, numbers)
    assert sum(sizes) == 7
    assert len(classifier.threads) == 1


async def test_callers_that_come_while_it_runs_share_the_next_batch() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    async with Batcher(classifier, max_batch=32) as batcher:
        first = asyncio.create_task(batcher.classify([crop(1)]))
        await asyncio.to_thread(classifier.entered.wait, 5)
        others = [asyncio.create_task(batcher.classify([crop(n)])) for n in (2, 3, 4)]
        await _until(lambda: batcher.pending == 3)
        classifier.gate.set()
        await asyncio.gather(first, *others)
    assert classifier.batches == [[1], [2, 3, 4]]


async def _strain(
    batcher: Batcher, classifier: GatedClassifier, first: str, then: str
) -> asyncio.Task[np.ndarray]:
    """The network is busy for more than a second with crop 0 of one stream, and has just ended.
    Meanwhile crop 3 of another (or the same) has come, whose answer is returned."""
    classifier.gate.clear()
    running = asyncio.create_task(batcher.classify([crop(0)], stream=first))
    await asyncio.sleep(1.5)
    early = asyncio.create_task(batcher.classify([crop(3)], stream=then))
    await _until(lambda: batcher.pending == 1)
    classifier.gate.set()
    await running
    return early


async def test_a_window_gathers_callers_who_come_close_together() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier, window_ms=900) as batcher:
        early = await _strain(batcher, classifier, "one", "two")
        await asyncio.sleep(0.02)
        assert batcher.pending == 1
        late = batcher.classify([crop(4)], stream="three")
        await asyncio.gather(early, late)
    assert classifier.batches == [[0], [3, 4]]


async def test_several_requests_of_one_stream_are_no_company() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier, window_ms=30_000) as batcher:
        early = await _strain(batcher, classifier, "one", "one")
        async with asyncio.timeout(5):
            await early


async def test_a_lone_caller_gets_no_window() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier, window_ms=900) as batcher:
        async with asyncio.timeout(5):
            for number in range(20):
                await batcher.classify([crop(number)])


async def test_patient_crops_go_with_whoever_cannot_wait() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier) as batcher, asyncio.timeout(10):
        patient = asyncio.create_task(batcher.classify([crop(1)], urgent=False, patience=60))
        await asyncio.sleep(0.1)
        assert classifier.batches == []
        await batcher.classify([crop(2)], stream="other")
        assert _is_answer(await patient, [1])
    assert classifier.batches == [[2, 1]]


async def test_patient_crops_that_are_enough_by_themselves_wait_no_longer() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier) as batcher, asyncio.timeout(10):
        streams = "abcd"
        await asyncio.gather(
            *(
                batcher.classify([crop(n)], stream=stream, urgent=False, patience=60)
                for n, stream in enumerate(streams)
            )
        )
    assert classifier.batches == [[0, 1, 2, 3]]


async def test_patience_is_no_waiting() -> None:
    classifier, waits = GatedClassifier(), list[float]()
    async with Batcher(classifier, on_wait=waits.append) as batcher, asyncio.timeout(10):
        await batcher.classify([crop(1)], urgent=False, patience=0.3)
    assert max(waits) < 0.3


async def test_a_patient_crop_without_company_is_classified_when_its_patience_ends() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier) as batcher, asyncio.timeout(10):
        loop = asyncio.get_running_loop()
        started = loop.time()
        await batcher.classify([crop(1)], urgent=False, patience=0.2)
        assert loop.time() - started >= 0.2


async def test_a_request_over_the_batch_size_is_split_and_put_together() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier, max_batch=4) as batcher:
        numbers = list(range(11))
        assert _is_answer(await batcher.classify([crop(n) for n in numbers]), numbers)
    assert [len(b) for b in classifier.batches] == [4, 4, 3]


async def test_batches_shrink_when_the_network_is_slow() -> None:
    class Slow(GatedClassifier):
        def classify(self, crops: np.ndarray) -> np.ndarray:
            time.sleep(0.01 * len(crops))
            return super().classify(crops)

    classifier, numbers = Slow(), list(range(60))
    async with Batcher(classifier, max_batch=16) as batcher:
        assert _is_answer(await batcher.classify([crop(n) for n in numbers]), numbers)
    # The first takes 160 ms, four times the time that a run should.
    assert [len(batch) for batch in classifier.batches[:4]] == [16, 12, 9, 6]


async def test_overflow_drops_the_oldest_and_counts_its_crops() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    drops: list[tuple[str, int]] = []
    async with Batcher(
        classifier, max_batch=4, max_pending=4, on_drop=lambda *drop: drops.append(drop)
    ) as batcher:
        running = asyncio.create_task(batcher.classify([crop(0)]))
        await asyncio.to_thread(classifier.entered.wait, 5)
        oldest = asyncio.create_task(batcher.classify([crop(1), crop(2)]))
        await _until(lambda: batcher.pending == 2)
        newest = asyncio.create_task(batcher.classify([crop(3), crop(4), crop(5)]))
        with pytest.raises(Overloaded, match="too many faces"):
            await oldest
        assert drops == [("overflow", 2)]
        classifier.gate.set()
        assert _is_answer(await newest, [3, 4, 5])
        assert _is_answer(await running, [0])


async def test_a_late_request_is_dropped_while_the_network_is_busy_and_never_runs() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    drops: list[tuple[str, int]] = []
    async with Batcher(classifier, on_drop=lambda *drop: drops.append(drop)) as batcher:
        now = asyncio.get_running_loop().time()
        # In the network when its deadline comes, so it is answered all the same.
        running = asyncio.create_task(batcher.classify([crop(0)], deadline=now + 0.1))
        await asyncio.to_thread(classifier.entered.wait, 5)
        patient = asyncio.create_task(batcher.classify([crop(1)], deadline=now + 60))
        with pytest.raises(Overloaded, match="in time"):
            await batcher.classify([crop(2), crop(3)], deadline=now + 0.2)
        assert asyncio.get_running_loop().time() >= now + 0.2
        assert drops == [("late", 2)]
        classifier.gate.set()
        assert _is_answer(await running, [0])
        assert _is_answer(await patient, [1])
    assert classifier.batches == [[0], [1]]


async def test_a_request_that_comes_too_late_costs_nothing() -> None:
    classifier = GatedClassifier()
    drops: list[tuple[str, int]] = []
    async with Batcher(classifier, on_drop=lambda *drop: drops.append(drop)) as batcher:
        with pytest.raises(Overloaded, match="in time"):
            await batcher.classify([crop(1)], deadline=asyncio.get_running_loop().time())
        assert _is_answer(await batcher.classify([crop(2)]), [2])
    assert drops == [("late", 1)]
    assert classifier.batches == [[2]]


async def test_a_request_that_gets_late_half_way_is_dropped_as_a_whole() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    drops: list[tuple[str, int]] = []
    async with Batcher(
        classifier, max_batch=2, on_drop=lambda *drop: drops.append(drop)
    ) as batcher:
        now = asyncio.get_running_loop().time()
        with pytest.raises(Overloaded, match="in time"):
            await batcher.classify([crop(1), crop(2), crop(3)], deadline=now + 0.1)
        classifier.gate.set()
        assert _is_answer(await batcher.classify([crop(4)]), [4])
    assert drops == [("late", 1)]
    assert classifier.batches == [[1, 2], [4]]


async def test_new_faces_of_all_streams_go_before_the_rechecks_of_a_crowd() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    async with Batcher(classifier, max_batch=4) as batcher:
        callers = [asyncio.create_task(batcher.classify([crop(0)]))]
        await asyncio.to_thread(classifier.entered.wait, 5)
        crowd = [crop(n) for n in range(10, 16)]
        for crops, stream, urgent in (
            (crowd, "crowd", False),
            ([crop(1)], "a", False),
            ([crop(2)], "b", True),
            ([crop(3)], "crowd", True),
        ):
            callers.append(
                asyncio.create_task(batcher.classify(crops, stream=stream, urgent=urgent))
            )
        await _until(lambda: batcher.pending == 9)
        classifier.gate.set()
        answers = await asyncio.gather(*callers)
    # Held back for a while, the first run has made the batches smaller.
    order = [number for batch in classifier.batches for number in batch]
    assert order == [0, 2, 3, 10, 11, 12, 13, 1, 14, 15]
    assert _is_answer(answers[1], range(10, 16))


async def test_it_is_told_once_how_long_a_request_waited() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    waits: list[float] = []
    async with Batcher(classifier, max_batch=2, on_wait=waits.append) as batcher:
        running = asyncio.create_task(batcher.classify([crop(0)]))
        await asyncio.to_thread(classifier.entered.wait, 5)
        waiting = asyncio.create_task(batcher.classify([crop(1), crop(2), crop(3)]))
        await asyncio.sleep(0.1)
        classifier.gate.set()
        await asyncio.gather(running, waiting)
    assert len(waits) == 2
    assert waits[0] < 0.1 <= waits[1]


async def test_a_cancelled_caller_takes_its_crops_along() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    async with Batcher(classifier) as batcher:
        running = asyncio.create_task(batcher.classify([crop(0)]))
        await asyncio.to_thread(classifier.entered.wait, 5)
        leaving = asyncio.create_task(batcher.classify([crop(1)]))
        staying = asyncio.create_task(batcher.classify([crop(2)]))
        await _until(lambda: batcher.pending == 2)
        leaving.cancel()
        running.cancel()
        await asyncio.wait([leaving, running])
        assert leaving.cancelled()
        assert running.cancelled()
        assert batcher.pending == 1
        classifier.gate.set()
        assert _is_answer(await staying, [2])
    assert classifier.batches == [[0], [2]]


async def test_a_failing_run_reaches_its_callers_and_nobody_else() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    async with Batcher(classifier, max_batch=2) as batcher:
        first = asyncio.create_task(batcher.classify([crop(0)]))
        await asyncio.to_thread(classifier.entered.wait, 5)
        # Crops 1, 2 fill a batch; 3 would be the rest of the failed request; 4 is a stranger.
        failing = asyncio.create_task(batcher.classify([crop(1), crop(2), crop(3)]))
        await _until(lambda: batcher.pending == 3)
        stranger = asyncio.create_task(batcher.classify([crop(4)]))
        await _until(lambda: batcher.pending == 4)
        classifier.fail_on = 2
        classifier.gate.set()
        with pytest.raises(RuntimeError, match="cannot run crop 2"):
            await failing
        assert _is_answer(await first, [0])
        assert _is_answer(await stranger, [4])
        assert _is_answer(await batcher.classify([crop(5)]), [5])
    assert not any(3 in batch for batch in classifier.batches)


async def test_too_few_rows_from_the_runtime_are_an_error_not_a_mix_up() -> None:
    class Short(GatedClassifier):
        def classify(self, crops: np.ndarray) -> np.ndarray:
            return super().classify(crops)[:-1]

    async with Batcher(Short()) as batcher:
        with pytest.raises(RuntimeError, match="gave"):
            await batcher.classify([crop(1), crop(2)])


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((5, 4, 3), np.uint8), np.zeros((4, 4, 3), float)]
)
async def test_crops_of_another_shape_are_refused_before_they_spoil_a_batch(
    bad: np.ndarray,
) -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier) as batcher:
        with pytest.raises(ValueError, match="expected uint8 4x4x3"):
            await batcher.classify([crop(1), bad])
    assert classifier.batches == []


async def test_close_fails_who_waits_ends_the_thread_and_may_be_repeated() -> None:
    classifier = GatedClassifier()
    classifier.gate.clear()
    batcher = Batcher(classifier)
    async with batcher:
        running = asyncio.create_task(batcher.classify([crop(0)]))
        await asyncio.to_thread(classifier.entered.wait, 5)
        waiting = asyncio.create_task(batcher.classify([crop(1)]))
        await _until(lambda: batcher.pending == 1)
        asyncio.get_running_loop().call_later(0.05, classifier.gate.set)
        await batcher.close()
        for caller in (running, waiting):
            with pytest.raises(Overloaded, match="shut down"):
                await caller
        await batcher.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("classify")]
    with pytest.raises(Overloaded, match="not running"):
        await batcher.classify([crop(1)])


async def test_it_is_told_how_long_a_run_took() -> None:
    told: list[tuple[int, float]] = []
    async with Batcher(GatedClassifier(), on_batch=lambda *batch: told.append(batch)) as batcher:
        await batcher.classify([crop(1), crop(2)])
    ((size, seconds),) = told
    assert size == 2
    assert 0 < seconds < 1


@pytest.mark.parametrize(("max_batch", "max_pending"), [(0, 8), (9, 8)])
def test_senseless_limits_are_refused(max_batch: int, max_pending: int) -> None:
    with pytest.raises(ValueError, match="max_batch"):
        Batcher(GatedClassifier(), max_batch=max_batch, max_pending=max_pending)
