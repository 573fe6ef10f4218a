"""What viewers in a process cost the service's own event loop: handing their frames over.

python -m benchmarks.handover

CPU time of the service's side alone, per frame: one frame of 10 kB to so many seats, which go once
over a socket pair that another process empties. Others' load does not change it much.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from dataclasses import dataclass
from typing import cast

from stream_server.publish.encode import EncodeOptions, framed
from stream_server.publish.publisher import Publisher
from stream_server.streams import Stream
from stream_server.telemetry.metrics import Metrics, StreamMetrics
from stream_server.viewers.messages import Line
from stream_server.viewers.relay import Relay, RemoteSeat

FRAMES = 2000
SEATS = (1, 25, 100)
FRAME = os.urandom(10_000)
EMPTY_IT = "import os\nwhile os.read(0, 1 << 20): pass"


@dataclass(frozen=True, slots=True)
class Bare:
    """Of a stream, what a relay uses."""

    publisher: Publisher
    metrics: StreamMetrics


async def measure() -> dict[int, float]:
    """Microseconds of CPU a frame, by the number of seats."""
    metrics = Metrics().stream("camera")
    publisher = Publisher(metrics, options=EncodeOptions(), jpeg_quality=80, max_viewers=1000)
    near, far = socket.socketpair()
    with far:
        sink = await asyncio.create_subprocess_exec(
            sys.executable, "-c", EMPTY_IT, stdin=far.fileno()
        )
    line = await Line.over(near)
    relay = Relay(1, cast("Stream", Bare(publisher, metrics)), line, lambda _analysis: b"")
    found = {}
    for count in SEATS:
        while len(relay.seats) < count:
            publisher.admit(
                "h264", "full", lambda form, told: RemoteSeat(form, told, relay, lambda: None)
            )
        found[count] = await _given(publisher) - await _made()
    relay.close()
    line.close()
    await sink.wait()
    return found


async def _given(publisher: Publisher) -> float:
    rendition = publisher.rendition("h264", "full")
    started = time.process_time()
    for number in range(FRAMES):
        rendition.give([framed(FRAME, number, number % 60 == 0, number / 30)])
        await asyncio.sleep(0.001)
    return 1e6 * (time.process_time() - started) / FRAMES


async def _made() -> float:
    """The same without a viewer: making the frame, and waiting."""
    started = time.process_time()
    for number in range(FRAMES):
        framed(FRAME, number, number % 60 == 0, number / 30)
        await asyncio.sleep(0.001)
    return 1e6 * (time.process_time() - started) / FRAMES


if __name__ == "__main__":
    for seats, cpu in asyncio.run(measure()).items():
        print(f"{seats:4d} viewers in a process: {cpu:6.1f} us CPU of the service a frame")
