"""How late an event loop gets to its work: what says that it has too much of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

INTERVAL = 0.25


@asynccontextmanager
async def lag_watched(tell: Callable[[float], None]) -> AsyncIterator[None]:
    """Meanwhile `tell` the running loop's lag in seconds, four times a second."""
    task = asyncio.create_task(_watch(tell), name="loop-lag")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch(tell: Callable[[float], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL
        await asyncio.sleep(INTERVAL)
        tell(max(0.0, loop.time() - due))
