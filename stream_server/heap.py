"""The C library's heap, under everything that Python does not count."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

M_ARENA_MAX = -8
ARENAS = 2
INTERVAL = 60.0


def share_arenas() -> None:
    """Let all threads share two of glibc's heaps; before they start. Elsewhere, do nothing.

    glibc gives each thread a heap of its own, up to eight a core, and each keeps what its busiest
    moment took: with pictures of megabytes in every decoder, encoder and worker, memory grew for
    half an hour while viewers came and went (docs/operations.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)


@asynccontextmanager
async def heap_trimmed(interval: float = INTERVAL) -> AsyncIterator[None]:
    """Meanwhile give what is free in glibc's heaps back to the system, every `interval` seconds.

    glibc returns by itself only what lies at a heap's end, and viewers who come and go leave holes:
    memory crept up for as long as they came. Elsewhere, do nothing.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None:
        yield
        return
    task = asyncio.create_task(_trim(malloc_trim, interval), name="heap-trim")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _trim(malloc_trim: Callable[[int], int], interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        # It holds each heap's lock for some milliseconds, but not the interpreter's.
        await asyncio.to_thread(malloc_trim, 0)
