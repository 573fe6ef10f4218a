import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.flow.share import REMEMBERED_SECONDS, SHARE, DetectionShare


def test_the_first_detection_waits_for_nobody() -> None:
    assert DetectionShare(2).interval(0.0) == 0.0


def took(share: DetectionShare, stream: str, seconds: float, now: float) -> None:
    """The first detection of a stream, and one that counts."""
    for each in (99.0, seconds):
        share.took(stream, each, now)


def test_the_first_detection_of_a_stream_may_compile_a_network() -> None:
    share = DetectionShare(2)
    share.took("one", 3.0, 0.0)
    assert share.interval(0.0) == 0.0


def test_a_stream_that_has_gone_makes_room() -> None:
    share = DetectionShare(2)
    took(share, "one", 0.1, 0.0)
    took(share, "two", 0.1, 4.0)
    assert share.interval(4.0) == pytest.approx(0.2 / (2 * SHARE))
    assert share.interval(REMEMBERED_SECONDS + 0.1) == pytest.approx(0.1 / (2 * SHARE))


def test_one_slow_detection_counts_little() -> None:
    share = DetectionShare(1)
    took(share, "one", 0.1, 0.0)
    share.took("one", 1.1, 4.0)
    assert share.interval(4.0) == pytest.approx((0.1 + 0.03) / SHARE)


@given(st.integers(1, 16), st.lists(st.floats(0.001, 1.0), min_size=1, max_size=32), st.data())
def test_streams_that_keep_to_it_take_no_more_than_the_share(
    threads: int, costs: list[float], data: st.DataObject
) -> None:
    share = DetectionShare(threads)
    for name, cost in enumerate(costs):
        took(share, str(name), cost, 0.0)
    interval = share.interval(data.draw(st.floats(0, REMEMBERED_SECONDS)))
    assert sum(cost / interval for cost in costs) <= threads * SHARE * (1 + 1e-9)
