import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.flow.latest import Broadcast, Closed, LatestSlot


async def test_the_newest_item_wins_and_the_displaced_one_is_told() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert slot.put(1) is None
    assert slot.put(2) == 1
    assert await slot.get() == 2
    slot.put(3)
    assert await slot.get() == 3


async def test_get_waits_for_a_put_from_another_thread() -> None:
    slot: LatestSlot[str] = LatestSlot()
    threading.Timer(0.05, slot.put, ["here"]).start()
    assert await asyncio.wait_for(slot.get(), 2) == "here"


async def test_close_ends_a_waiting_get_and_refuses_more() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.close()
    assert await slot.get() == 1
    with pytest.raises(Closed):
        await slot.get()
    assert slot.put(2) == 2


async def test_every_item_of_a_busy_thread_is_either_taken_or_displaced() -> None:
    slot: LatestSlot[int] = LatestSlot()
    displaced: list[int] = []

    def write() -> None:
        for number in range(2000):
            old = slot.put(number)
            if old is not None:
                displaced.append(old)
        slot.close()

    writer = threading.Thread(target=write)
    writer.start()
    taken = []
    while True:
        try:
            taken.append(await asyncio.wait_for(slot.get(), 5))
        except Closed:
            break
    writer.join()
    assert sorted(taken + displaced) == list(range(2000))
    assert taken == sorted(taken)
    assert taken[-1] == 1999


@given(st.lists(st.integers(), min_size=1, max_size=40), st.integers(1, 5))
def test_a_slow_reader_gets_the_newest_and_counts_the_rest(items: list[int], room: int) -> None:
    async def run() -> None:
        broadcast: Broadcast[int] = Broadcast()
        reader = broadcast.subscribe(maxlen=room)
        for item in items:
            broadcast.publish(item)
        broadcast.close()
        assert [item async for item in reader] == items[-room:]
        assert reader.dropped == max(0, len(items) - room)

    asyncio.run(run())


async def test_leaving_and_late_readers() -> None:
    broadcast: Broadcast[int] = Broadcast()
    with broadcast.subscribe() as reader:
        assert broadcast.readers == 1
    assert broadcast.readers == 0
    assert [item async for item in reader] == []
    broadcast.close()
    assert [item async for item in broadcast.subscribe()] == []
