import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stream_server.classify.batcher import Batcher, BatchPolicy
from stream_server.classify.replicas import Replicas
from tests.fakes.gated_classifier import GatedClassifier, answer, crop


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come")


def _held(count: int = 2) -> list[GatedClassifier]:
    replicas = [GatedClassifier() for _ in range(count)]
    for replica in replicas:
        replica.gate.clear()
    return replicas


def _is_answer(rows: np.ndarray, numbers: list[int]) -> bool:
    return np.allclose(rows, [answer(number) for number in numbers])


def test_a_replica_is_in_one_hand_at_a_time_and_all_are_used() -> None:
    # GatedClassifier asserts that nobody else is in it.
    replicas = [GatedClassifier() for _ in range(3)]
    shared = Replicas(replicas)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda n: shared.classify(crop(n)[None]), range(60)))
    assert all(_is_answer(row, [number]) for number, row in enumerate(rows))
    assert all(replica.batches for replica in replicas)
    assert sum(len(replica.batches) for replica in replicas) == 60


def test_calls_in_a_row_take_turns() -> None:
    replicas = [GatedClassifier() for _ in range(2)]
    shared = Replicas(replicas)
    for number in range(4):
        shared.classify(crop(number)[None])
    assert [replica.batches for replica in replicas] == [[[0], [2]], [[1], [3]]]


def test_a_replica_that_failed_is_handed_out_again() -> None:
    (replica,) = replicas = [GatedClassifier()]
    shared = Replicas(replicas)
    replica.fail_on = 1
    with pytest.raises(RuntimeError, match="cannot run crop 1"):
        shared.classify(crop(1)[None])
    assert _is_answer(shared.classify(crop(2)[None]), [2])


async def test_the_batcher_hands_a_batch_to_the_replica_that_is_free() -> None:
    slow, quick = replicas = _held()
    quick.gate.set()
    async with Batcher(Replicas(replicas), replicas=2) as batcher:
        stuck = asyncio.create_task(batcher.classify([crop(0)]))
        await asyncio.to_thread(slow.entered.wait, 5)
        for number in (1, 2, 3):
            assert _is_answer(await batcher.classify([crop(number)]), [number])
        assert not stuck.done()
        slow.gate.set()
        assert _is_answer(await stuck, [0])
    assert (slow.batches, quick.batches) == ([[0]], [[1], [2], [3]])


async def test_one_batch_in_flight_for_each_replica_and_the_others_wait() -> None:
    replicas = _held()
    async with Batcher(Replicas(replicas), replicas=2) as batcher:
        asked = []
        for number in range(5):
            asked.append(asyncio.create_task(batcher.classify([crop(number)])))
            await _until(lambda n=number: sum(len(r.batches) for r in replicas) == min(n + 1, 2))
        await _until(lambda: batcher.pending == 3)
        for replica in replicas:
            replica.gate.set()
        for number, rows in enumerate(await asyncio.gather(*asked)):
            assert _is_answer(rows, [number])
    # What waited became one batch, not one for each caller.
    assert sorted(map(sorted, replicas[0].batches + replicas[1].batches)) == [[0], [1], [2, 3, 4]]


async def test_a_request_in_two_replicas_is_put_together_in_its_own_order() -> None:
    slow, quick = replicas = _held()
    quick.gate.set()
    async with Batcher(Replicas(replicas), max_batch=2, replicas=2) as batcher:
        asked = asyncio.create_task(batcher.classify([crop(n) for n in (7, 8, 9, 10)]))
        await _until(lambda: len(quick.batches) == 1 and not batcher.pending)
        # The second half is back, the first is not.
        slow.gate.set()
        assert _is_answer(await asked, [7, 8, 9, 10])
    assert (slow.batches, quick.batches) == ([[7, 8]], [[9, 10]])


async def test_a_replica_that_fails_spoils_only_its_own_batch() -> None:
    first, second = replicas = _held()
    first.fail_on = 0
    async with Batcher(Replicas(replicas), replicas=2) as batcher:
        failing = asyncio.create_task(batcher.classify([crop(0)]))
        await asyncio.to_thread(first.entered.wait, 5)
        fine = asyncio.create_task(batcher.classify([crop(1)]))
        await asyncio.to_thread(second.entered.wait, 5)
        for replica in replicas:
            replica.gate.set()
        with pytest.raises(RuntimeError, match="cannot run crop 0"):
            await failing
        assert _is_answer(await fine, [1])


async def test_close_ends_all_threads() -> None:
    replicas = _held()
    batcher = Batcher(Replicas(replicas), replicas=2)
    await batcher.__aenter__()
    asked = []
    for number, replica in enumerate(replicas):
        asked.append(asyncio.create_task(batcher.classify([crop(number)])))
        await asyncio.to_thread(replica.entered.wait, 5)
    closing = asyncio.create_task(batcher.close())
    await asyncio.gather(*asked, return_exceptions=True)
    assert all("shut down" in str(task.exception()) for task in asked)
    for replica in replicas:
        replica.gate.set()
    await closing
    used = {ident for replica in replicas for ident in replica.threads}
    assert not used & {thread.ident for thread in threading.enumerate()}


def test_two_replicas_are_half_as_busy_with_the_same_work() -> None:
    loads = []
    for replicas in (1, 2):
        policy = BatchPolicy(8, 0.003, replicas=replicas)
        # 60 ms of work each 100 ms.
        for step in range(100):
            policy.ran(1, 0.03, step / 10)
            policy.ran(1, 0.03, step / 10 + 0.05)
        loads.append(policy.load(9.95))
    assert loads[0] == pytest.approx(0.6, abs=0.05)
    assert loads[1] == pytest.approx(0.3, abs=0.05)
