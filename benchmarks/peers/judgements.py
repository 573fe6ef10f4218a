"""What a camera peer says of its run, and the latencies that follow from it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.figures import percentile


@dataclass(frozen=True, slots=True)
class Judgement:
    """A frame: its camera's clock, when the peer had it decoded, when its faces were judged.

    All in seconds; the last two are of this machine's monotonic clock.
    """

    media: float
    taken: float
    judged: float


@dataclass(frozen=True, slots=True)
class Walled:
    """A peer's figures over all cameras; rates are those of the slowest, latencies in ms.

    None where not one frame was judged.
    """

    analysed_fps_min: float
    arrival_to_verdict_p50_ms: float | None
    arrival_to_verdict_p95_ms: float | None
    decoded_to_verdict_p50_ms: float | None
    decoded_to_verdict_p95_ms: float | None
    late_at_end_ms: float | None


def walled(cameras: Iterable[Sequence[Judgement]], start: float, end: float) -> Walled:
    """The figures of `start` to `end` (monotonic) from each camera's frames since it came up.

    A frame's arrival is told by its camera's clock: no frame can have come later than the fastest
    one of the whole run, so the least difference between decoded and media time is taken as how
    far the clocks are apart. So the decoding of the fastest frame is not counted, which flatters
    the peer; what waits in sockets and FFmpeg's buffers is, which the time from decoded to verdict
    leaves out. `late_at_end_ms` is the worst camera's latency of its last frame.
    """
    rates, arrived, decoded, late = [], [], [], []
    for frames in cameras:
        inside = [frame for frame in frames if start <= frame.judged <= end]
        rates.append(len(inside) / (end - start))
        apart = min((frame.taken - frame.media for frame in frames), default=0.0)
        waited = [frame.judged - frame.media - apart for frame in inside]
        arrived += waited
        decoded += [frame.judged - frame.taken for frame in inside]
        late += waited[-1:]
    return Walled(
        analysed_fps_min=min(rates),
        arrival_to_verdict_p50_ms=_ms(arrived, 0.5),
        arrival_to_verdict_p95_ms=_ms(arrived, 0.95),
        decoded_to_verdict_p50_ms=_ms(decoded, 0.5),
        decoded_to_verdict_p95_ms=_ms(decoded, 0.95),
        late_at_end_ms=_ms(late, 1.0),
    )


def _ms(seconds: Sequence[float], share: float) -> float | None:
    return 1e3 * percentile(seconds, share) if seconds else None


class Log:
    """Collects judgements by camera, from any thread."""

    def __init__(self, cameras: int) -> None:
        self._frames: list[list[Judgement]] = [[] for _ in range(cameras)]
        self._guard = threading.Lock()

    def note(self, camera: int, media: float, taken: float) -> None:
        """A frame's faces have been judged now."""
        with self._guard:
            self._frames[camera].append(Judgement(media, taken, time.monotonic()))

    def run(self, warm_up: float, seconds: float, patience: float = 60.0) -> None:
        """Say `measuring` once all cameras run and are warm, and after `seconds` the figures.

        Raises TimeoutError when a camera has not come up within `patience` seconds.
        """
        deadline = time.monotonic() + patience
        while not all(self._frames):
            if time.monotonic() > deadline:
                raise TimeoutError("not all cameras came up")
            time.sleep(0.1)
        time.sleep(warm_up)
        say("measuring")
        start = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
        with self._guard:
            frames = [list(camera) for camera in self._frames]
        say("measured", **asdict(walled(frames, start, end)))


def say(event: str, **figures: float) -> None:
    """One JSON line to the benchmark that started this process."""
    print(json.dumps({"event": event, **figures}), flush=True)
