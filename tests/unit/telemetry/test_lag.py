"""An event loop that is held up is seen to be late."""

import asyncio
import time

from stream_server.telemetry.lag import INTERVAL, lag_watched
from stream_server.telemetry.metrics import Metrics


async def test_a_loop_that_is_held_up_is_late_and_nothing_is_left_behind() -> None:
    before = asyncio.all_tasks()
    lags: list[float] = []
    told = asyncio.Event()

    def tell(lag: float) -> None:
        lags.append(lag)
        told.set()

    async with lag_watched(tell):
        await told.wait()
        told.clear()
        time.sleep(INTERVAL + 0.2)  # noqa: ASYNC251 - this is what a full loop looks like
        await told.wait()
    assert max(lags) >= 0.19
    assert asyncio.all_tasks() == before
    count = len(lags)
    await asyncio.sleep(2 * INTERVAL)
    assert len(lags) == count


def test_lag_is_exported_by_loop() -> None:
    metrics = Metrics()
    metrics.loop_lag("main", 0.3)
    metrics.loop_lag("main", 0.001)
    text = metrics.render()[0].decode()
    assert 'maskstream_event_loop_lag_seconds_bucket{le="0.05",loop="main"} 1.0' in text
    assert 'maskstream_event_loop_lag_seconds_count{loop="main"} 2.0' in text
