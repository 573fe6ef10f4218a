import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.classify.buckets import batches, check_crops, padded

BUCKETS = st.sets(st.integers(1, 64), min_size=1).map(sorted)


@given(st.integers(0, 300), BUCKETS)
def test_batches_cover_every_crop_once_in_the_smallest_bucket(
    count: int, buckets: list[int]
) -> None:
    reached = 0
    for start, stop, bucket in batches(count, buckets):
        assert start == reached
        assert start < stop <= start + bucket
        assert bucket == min(b for b in buckets if b >= stop - start)
        reached = stop
    assert reached == count


def test_padding_keeps_the_crops_and_adds_black_ones() -> None:
    crops = np.full((3, 4, 4, 3), 7, np.uint8)
    filled = padded(crops, 8)
    assert filled.shape == (8, 4, 4, 3)
    assert (filled[:3] == 7).all()
    assert not filled[3:].any()
    assert padded(crops, 3) is crops


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 9, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 1), np.uint8),
    ],
)
def test_wrong_crops_are_named(crops: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 crops of shape \(n, 8, 8, 3\)"):
        check_crops(crops, 8)
