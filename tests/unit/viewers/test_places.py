"""Where a viewer is put, and that nobody goes without a picture when a process fails."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from stream_server.viewers import remote
from stream_server.viewers.places import choose, free
from tests.fakes.house import add_demo, build, until
from tests.fakes.watching import open_to_viewers, placed, viewer_processes, watching


@pytest.mark.parametrize(
    ("main", "processes", "at"),
    [
        (0, [], None),
        (9, [3, None], None),
        (10, [], None),  # there is no other loop
        (10, [None, None], None),  # none can be had
        (10, [0, None], 0),
        (9, [5, None], None),  # somebody left the main loop
        (10, [10, None], 0),
        (10, [8, 3], 1),
        (10, [None, 9], 1),
        (10, [10, 10], 0),  # all are full: the least loaded of all
        (12, [12, 11], 1),
        (10, [12, 11], None),
    ],
)
def test_the_main_loop_first_then_the_least_loaded(
    main: int, processes: list[int | None], at: int | None
) -> None:
    assert choose(main, processes, 10) == at


@pytest.mark.parametrize(
    ("main", "processes", "room"),
    [(0, [], 10), (7, [None], 3), (12, [None, 4], 6), (10, [10, 11], 0)],
)
def test_what_is_over_full_takes_no_room_from_others(
    main: int, processes: list[int | None], room: int
) -> None:
    assert free(main, processes, 10) == room


async def test_loops_are_filled_one_after_the_other(tmp_path: Path) -> None:
    def spread() -> list[float]:
        return [placed(house, loop) for loop in ("main", "viewers-1", "viewers-2")]

    async with (
        build(tmp_path, viewers=9) as house,
        open_to_viewers(house, room=4, most=2) as all_places,
        AsyncExitStack() as watched,
    ):
        await add_demo(house)
        for _ in range(3):
            await watched.enter_async_context(watching(house))
        assert (spread(), viewer_processes()) == ([3, 0, 0], [])
        await watched.enter_async_context(watching(house))
        await until(lambda: len(viewer_processes()) == 1)
        assert spread() == [4, 0, 0], "it was to be started before it is needed"
        await watched.enter_async_context(watching(house))
        assert (spread(), all_places.viewers) == ([4, 1, 0], 5)
        lag = {"loop": "viewers-1"}
        count = "maskstream_event_loop_lag_seconds_count"
        await until(lambda: (house.metrics.registry.get_sample_value(count, lag) or 0) > 4)
    assert viewer_processes() == []


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "import time; time.sleep(60)"])
async def test_a_process_that_does_not_come_up_costs_nobody_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(remote, "START_SECONDS", 0.5)
    monkeypatch.setattr(remote, "STOP_SECONDS", 0.5)
    monkeypatch.setattr(remote, "CODE", code)
    async with build(tmp_path) as house, open_to_viewers(house, room=0) as _:
        await add_demo(house)
        lost = house.metrics.registry.get_sample_value
        name = "maskstream_viewer_processes_lost_total"
        async with watching(house) as viewer:
            assert await viewer.width() > 0
            assert placed(house, "main") == 1
        await until(lambda: lost(name, {"loop": "viewers-1"}) == 1)
        async with asyncio.timeout(5), watching(house) as viewer:
            assert await viewer.width() > 0
        assert lost(name, {"loop": "viewers-1"}) == 1, "it was tried again at once"
