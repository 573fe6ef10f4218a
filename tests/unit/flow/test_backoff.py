import random

from hypothesis import given
from hypothesis import strategies as st

from stream_server.flow.backoff import Backoff


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_delays_grow_to_the_maximum_and_keep_within_the_jitter(seed: int, tries: int) -> None:
    backoff = Backoff(0.5, 8.0, random.Random(seed))
    for number in range(tries):
        full = min(8.0, 0.5 * 2.0 ** min(number, 30))
        assert full / 2 <= backoff.next() <= full


def test_reset_starts_again() -> None:
    backoff = Backoff(0.5, 8.0)
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.5
