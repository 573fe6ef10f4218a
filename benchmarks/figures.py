"""What a measurement says, and how several are put together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement: `frames` in `seconds`, latency percentiles (ms), mean ms by stage."""

    frames: int
    seconds: float
    faces: int
    p50_ms: float
    p95_ms: float
    dropped: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)

    @property
    def fps(self) -> float:
        return self.frames / self.seconds


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def slope_per_minute(points: Sequence[tuple[float, float]], skip: float = 0.3) -> float | None:
    """How fast a value grows: (seconds, value) fitted by a line after the first `skip` share.

    None from fewer than three points, which tell nothing.
    """
    if not points:
        return None
    first, last = points[0][0], points[-1][0]
    late = [(at / 60, value) for at, value in points if at - first >= skip * (last - first)]
    if len(late) < 3:
        return None
    times, values = zip(*late, strict=True)
    return statistics.linear_regression(times, values).slope


def figures(
    latencies: Sequence[float],
    seconds: float,
    faces: int,
    *,
    dropped: int = 0,
    stages: dict[str, float] | None = None,
) -> Figures:
    """From latencies in seconds, one a frame."""
    return Figures(
        len(latencies),
        seconds,
        faces,
        1e3 * percentile(latencies, 0.5),
        1e3 * percentile(latencies, 0.95),
        dropped,
        {name: 1e3 * mean for name, mean in (stages or {}).items()},
    )


def summary(rounds: Sequence[Figures]) -> dict[str, float]:
    """Medians over the rounds, and the least and greatest rate."""
    rates = [r.fps for r in rounds]
    return {
        "fps": statistics.median(rates),
        "fps_min": min(rates),
        "fps_max": max(rates),
        "p50_ms": statistics.median(r.p50_ms for r in rounds),
        "p95_ms": statistics.median(r.p95_ms for r in rounds),
        "faces_per_frame": sum(r.faces for r in rounds) / max(1, sum(r.frames for r in rounds)),
    }


def as_json(rounds: Sequence[Figures]) -> list[dict[str, object]]:
    """The rounds as plain data."""
    return [{**asdict(r), "fps": r.fps} for r in rounds]
