import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.flow.shedding import LEAST_FRAMES, Shedding, Step

BUDGET = 0.15
Latency = Callable[[Step, float], float]


def run(
    shedding: Shedding, latency: Latency, seconds: float, start: float = 0.0, fps: float = 20
) -> list[tuple[float, Step]]:
    """Feed frames; returns (time, step) of each change of step."""
    changes = []
    for number in range(round(seconds * fps)):
        now, before = start + number / fps, shedding.step
        shedding.observe(latency(before, now), now)
        if shedding.step is not before:
            changes.append((now, shedding.step))
    return changes


def test_nothing_is_left_out_while_the_budget_is_kept() -> None:
    assert run(Shedding(BUDGET), lambda step, now: 0.149, 60) == []


def test_a_frame_over_the_budget_is_a_miss() -> None:
    shedding = Shedding(BUDGET)
    assert shedding.observe(0.151, 0.0)
    assert not shedding.observe(0.15, 0.1)


def test_single_late_frames_are_no_reason() -> None:
    late = iter(range(10**6))
    assert run(Shedding(BUDGET), lambda step, now: 0.4 if next(late) % 6 == 5 else 0.1, 60) == []


def test_steps_are_added_in_the_fixed_order_and_end() -> None:
    changes = run(Shedding(BUDGET), lambda step, now: 0.5, 30)
    assert [step.name for _, step in changes] == [
        "DETECT_LESS",
        "SMALLER_INPUT",
        "RECHECK_LESS",
        "FEWER_FRAMES",
    ]
    times = [at for at, _ in changes]
    assert times[0] < 1
    assert all(b - a >= 0.7 for a, b in itertools.pairwise(times))
    assert times[-1] < 5


def test_they_are_taken_back_one_by_one_in_reverse() -> None:
    shedding = Shedding(BUDGET)
    run(shedding, lambda step, now: 0.5, 30)
    changes = run(shedding, lambda step, now: 0.03, 60, start=30)
    assert [step for _, step in changes] == [3, 2, 1, 0]
    assert changes[0][0] - 30 >= 4
    assert changes[-1][0] - 30 < 25


def test_it_stays_where_the_load_is_met() -> None:
    shedding = Shedding(BUDGET)
    changes = run(shedding, lambda step, now: 0.2 if step < 2 else 0.12, 300)
    assert [step for _, step in changes] == [1, 2]


def test_one_late_frame_a_second_does_not_hold_a_step_for_ever() -> None:
    shedding = Shedding(BUDGET)
    run(shedding, lambda step, now: 0.5, 0.5)
    assert shedding.step is Step.DETECT_LESS
    run(shedding, lambda step, now: 0.14 if now % 1 < 0.05 else 0.03, 10, start=1)
    assert shedding.step is Step.NOTHING


@pytest.mark.parametrize("enough", [1, 2, 3, 4])
def test_a_constant_load_between_two_steps_makes_no_see_saw(enough: int) -> None:
    """With the step it is far under the budget, without it far over: ten minutes of that."""
    changes = run(Shedding(BUDGET), lambda step, now: 0.02 if step >= enough else 0.4, 600)
    assert len([at for at, _ in changes if at < 300]) <= 4 + 2 * 6
    assert len([at for at, _ in changes if at >= 300]) <= 2 * 3


def test_what_was_tried_in_vain_is_forgotten_when_the_load_has_gone() -> None:
    shedding = Shedding(BUDGET)
    run(shedding, lambda step, now: 0.02 if step >= 1 else 0.4, 600)
    run(shedding, lambda step, now: 0.02, 400, start=600)
    assert shedding.step is Step.NOTHING
    run(shedding, lambda step, now: 0.4, 0.5, start=1000)
    assert shedding.step is Step.DETECT_LESS
    run(shedding, lambda step, now: 0.02, 12, start=1000.5)
    assert shedding.step is Step.NOTHING


def test_a_stream_of_one_frame_a_second_is_relieved_too() -> None:
    shedding = Shedding(BUDGET)
    changes = run(shedding, lambda step, now: 0.9, 5 * LEAST_FRAMES, fps=1)
    assert [step for _, step in changes] == [1, 2, 3, 4]


def test_frames_that_take_seconds_are_no_calm() -> None:
    """One in five seconds, each five seconds late: every step is needed, and none taken back."""
    shedding = Shedding(BUDGET)
    changes = run(shedding, lambda step, now: 4.9, 120, fps=0.2)
    assert [step for _, step in changes] == [1, 2, 3, 4]


def test_the_later_the_frames_the_fewer_are_waited_for() -> None:
    """A second each: two frames tell enough for the next step."""
    shedding = Shedding(BUDGET)
    changes = run(shedding, lambda step, now: 0.9, 10, fps=1)
    assert [step for _, step in changes] == [1, 2, 3, 4]
    assert changes[-1][0] < 9


def test_a_source_that_was_silent_is_not_judged_by_old_frames() -> None:
    shedding = Shedding(BUDGET)
    run(shedding, lambda step, now: 0.5, 0.15)
    assert run(shedding, lambda step, now: 0.05, 10, start=1000) == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.001, 2.0)), max_size=200))
def test_steps_change_by_one_and_not_too_soon(frames: list[tuple[float, float]]) -> None:
    shedding, now, changed = Shedding(BUDGET), 0.0, float("-inf")
    for latency, after in frames:
        now, before = now + after, shedding.step
        assert shedding.observe(latency, now) == (latency > BUDGET)
        assert abs(shedding.step - before) <= 1
        if shedding.step is not before:
            assert now - changed >= 0.7
            changed = now
