import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.flow.thinning import Thinning


@pytest.mark.parametrize(("camera", "wanted"), [(30, 10), (25, 10), (30, 12.5), (15, 4), (60, 20)])
def test_a_steady_camera_is_thinned_to_the_wanted_rate(camera: int, wanted: float) -> None:
    thinning = Thinning()
    taken = [n / camera for n in range(camera * 20) if thinning.due(n / camera, wanted)]
    assert len(taken) == pytest.approx(20 * wanted, rel=0.02)
    gaps = [b - a for a, b in itertools.pairwise(taken)]
    assert max(gaps) - min(gaps) <= 1 / camera + 1e-6


def test_the_first_two_frames_are_not_both_taken() -> None:
    thinning = Thinning()
    assert thinning.due(100.0, 10)
    assert not thinning.due(100.033, 10)


def test_after_a_gap_there_is_no_burst() -> None:
    thinning = Thinning()
    assert thinning.due(0.0, 10)
    assert [thinning.due(50 + n / 30, 10) for n in range(6)] == [True, False, False] * 2


def test_a_camera_as_slow_as_wanted_loses_nothing() -> None:
    thinning = Thinning()
    jitter = [0.0, 0.02, -0.02, 0.01, -0.01]
    assert all(thinning.due(n / 10 + jitter[n % 5], 10) for n in range(100))


def test_a_new_rate_holds_at_once() -> None:
    thinning = Thinning()
    assert thinning.due(0.0, 0.1)
    assert not thinning.due(0.2, 0.1)
    assert thinning.due(0.2, 10)


@settings(deadline=None)
@given(
    st.lists(st.floats(0.001, 0.3), min_size=1, max_size=300),
    st.floats(0.5, 20),
)
def test_never_more_than_wanted(gaps: list[float], fps: float) -> None:
    thinning, now, taken = Thinning(), 0.0, 0
    for gap in gaps:
        taken += thinning.due(now, fps)
        now += gap
    assert 1 <= taken <= sum(gaps) * fps + 2
