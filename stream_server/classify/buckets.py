"""Batch sizes a runtime prepares for, so that no frame pays for a size seen for the first time."""

from collections.abc import Iterator, Sequence

import numpy as np

from stream_server.frames import Pixels


def batches(count: int, buckets: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cut `count` crops into (start, stop, bucket): each bucket holds at least stop - start.

    `buckets` are ascending; the largest is used until the rest fits into one.
    """
    start = 0
    while start < count:
        stop = min(count, start + buckets[-1])
        yield start, stop, next(b for b in buckets if b >= stop - start)
        start = stop


def padded(crops: Pixels, bucket: int) -> Pixels:
    """(bucket, ...) crops: those given, then black ones. The given array itself if it is full."""
    if len(crops) == bucket:
        return crops
    filled = np.zeros((bucket, *crops.shape[1:]), np.uint8)
    filled[: len(crops)] = crops
    return filled


def check_crops(crops: Pixels, size: int) -> None:
    """Raise ValueError unless `crops` is uint8 of shape (n, size, size, 3)."""
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (size, size, 3):
        raise ValueError(
            f"expected uint8 crops of shape (n, {size}, {size}, 3), "
            f"got {crops.dtype} of shape {crops.shape}"
        )
