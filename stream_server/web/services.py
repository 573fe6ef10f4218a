"""What the routes need of the house, and what they hold callers to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from stream_server.frames import Face, Picture
from stream_server.streams import StreamHub
from stream_server.telemetry.metrics import Metrics
from stream_server.web.models import InfoOut


@dataclass(frozen=True, slots=True)
class Services:
    """Given by the composition root.

    `analyse` finds and judges the faces of one picture and may raise `Overloaded`. `not_ready`
    says why the service is not ready, None if it is. Set `closing` on the event loop as soon as
    the process is told to stop: it ends every endless answer, which the HTTP server waits for
    before it runs the lifespan's shutdown.
    """

    hub: StreamHub
    metrics: Metrics
    analyse: Callable[[Picture], Awaitable[tuple[Face, ...]]]
    info: Callable[[], InfoOut]
    not_ready: Callable[[], str | None]
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Bounds of the HTTP side.

    `predictions` requests to /api/predict are taken at once, of which `predicting` are decoded
    and analysed at the same time; the rest is refused as overload.
    """

    max_upload_bytes: int = 16 << 20
    max_upload_pixels: int = 40_000_000
    upload_seconds: float = 30.0
    predictions: int = 8
    predicting: int = 2
    event_readers: int = 100
