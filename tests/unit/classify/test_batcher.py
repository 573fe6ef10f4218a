import asyncio
import threading
from collections.abc import Callable, Sequence
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.classify.batcher import Batcher, BatchPolicy, Request, Waiting
from stream_server.errors import Overloaded
from tests.fakes.gated_classifier import GatedClassifier, answer, crop

# The policy: pure, with time as an argument.


def test_a_lone_caller_never_waits() -> None:
    policy = BatchPolicy(max_batch=8, window=0.003)
    for frame in range(100):
        now = frame / 1000
        policy.arrived(now, alone=True)
        assert policy.closes_in(1, now, now) == 0


def test_company_opens_the_window_and_its_memory_ends() -> None:
    policy = BatchPolicy(max_batch=8, window=0.003, memory=1.0)
    policy.arrived(10.0, alone=True)
    policy.arrived(10.002, alone=False)
    assert policy.closes_in(2, oldest=10.0, now=10.002) == pytest.approx(0.001)
    policy.arrived(10.5, alone=True)
    assert policy.closes_in(1, oldest=10.5, now=10.5) == pytest.approx(0.003)
    policy.arrived(11.01, alone=True)
    assert policy.closes_in(1, oldest=11.01, now=11.01) == 0


def test_the_window_runs_from_the_first_crop_not_the_last() -> None:
    policy = BatchPolicy(max_batch=8, window=0.003)
    for now in (5.0, 5.001, 5.002):
        policy.arrived(now, alone=False)
    assert policy.closes_in(3, oldest=5.0, now=5.002) == pytest.approx(0.001)
    assert policy.closes_in(3, oldest=5.0, now=5.0031) == 0


def test_a_full_batch_closes_at_once() -> None:
    policy = BatchPolicy(max_batch=4, window=0.003)
    policy.arrived(5.0, alone=False)
    assert policy.closes_in(3, 5.0, 5.0) > 0
    assert policy.closes_in(4, 5.0, 5.0) == 0
    assert policy.closes_in(9, 5.0, 5.0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.booleans()), min_size=1, max_size=50),
    st.integers(1, 64),
    st.floats(0, 0.05),
    st.integers(1, 100),
)
def test_no_crop_ever_waits_longer_than_the_window(
    arrivals: list[tuple[float, bool]], max_batch: int, window: float, pending: int
) -> None:
    policy = BatchPolicy(max_batch, window)
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


@given(
    st.integers(1, 12),
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(1, 8)),
            st.tuples(st.just("take"), st.integers(1, 8)),
            st.tuples(st.just("discard"), st.integers(0, 5)),
        ),
        max_size=40,
    ),
)
def test_no_crop_is_lost_or_handed_out_twice(limit: int, steps: list[tuple[str, int]]) -> None:
    waiting, pushed, seen = Waiting(limit), [], set()
    gone: set[int] = set()
    for step, value in steps:
        if step == "push":
            pushed.append(_request([0] * value))
            for dropped in waiting.push(pushed[-1]):
                gone.update((id(dropped), i) for i in range(dropped.taken, len(dropped.crops)))
        elif step == "take":
            for share in waiting.take(value):
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


async def test_a_window_gathers_callers_who_come_close_together() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier, window_ms=200) as batcher:
        # Two at once tell the policy that there is company.
        await asyncio.gather(batcher.classify([crop(1)]), batcher.classify([crop(2)]))
        early = asyncio.create_task(batcher.classify([crop(3)]))
        await asyncio.sleep(0.02)
        late = asyncio.create_task(batcher.classify([crop(4)]))
        await asyncio.gather(early, late)
    assert classifier.batches[-1] == [3, 4]


async def test_a_lone_caller_gets_no_window() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier, window_ms=900) as batcher:
        async with asyncio.timeout(5):
            for number in range(20):
                await batcher.classify([crop(number)])


async def test_a_request_over_the_batch_size_is_split_and_put_together() -> None:
    classifier = GatedClassifier()
    async with Batcher(classifier, max_batch=4) as batcher:
        numbers = list(range(11))
        assert _is_answer(await batcher.classify([crop(n) for n in numbers]), numbers)
    assert [len(b) for b in classifier.batches] == [4, 4, 3]


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
