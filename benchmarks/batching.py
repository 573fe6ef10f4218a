"""How long crops wait for the network when 1, 8 or 32 streams share it, and when one shows a crowd.

    python -m benchmarks.batching [--seconds 8] [--cost FIXED_MS EACH_MS] [--json OUT]

The real `Batcher` in real time, with a classifier that sleeps as long as the real one computes:
a fixed cost for each run and one for each crop. Both are measured first (CPU time of 1 and of 32
crops, so that other work on the machine does not count) unless given.

Each stream shows 30 frames/s, one in hand at a time as in the service: two settled faces that are
classified again every 0.3 s, and every 2 s a new one, asked for in five frames. In the last row one
stream of eight shows 100 settled faces and 20 new ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.figures import percentile
from models.registry import resolve
from stream_server.classify.batcher import Batcher
from stream_server.classify.openvino import OpenVinoClassifier
from stream_server.errors import Overloaded
from stream_server.frames import Pixels

FRAME_SECONDS = 1 / 30
RECHECK_SECONDS = 0.3
NEW_FACE_SECONDS = 2.0
FRAMES_OF_A_NEW_FACE = 5
BUDGET_SECONDS = 0.15


class Classifies(Protocol):
    """What is measured of a batcher."""

    async def classify(
        self,
        crops: Sequence[Pixels],
        *,
        stream: str = "",
        urgent: bool = True,
        deadline: float | None = None,
    ) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one run: `fixed`, and `each` for every crop."""

    fixed: float
    each: float


class SleepingClassifier:
    """A `FaceClassifier` that takes its time, and nobody else's."""

    labels = ("with_mask", "without_mask", "incorrect")
    input_size = 8

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self.runs = self.crops = 0

    def classify(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Rows (n, 3) of no meaning."""
        self.runs += 1
        self.crops += len(crops)
        time.sleep(self._cost.fixed + self._cost.each * len(crops))
        return np.full((len(crops), len(self.labels)), 1 / 3, np.float32)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a stream shows: faces that stay, and those that come together now and then."""

    settled: int = 2
    new: int = 1


@dataclass(slots=True)
class Waits:
    """Seconds from a request to its answer, of those answered; `shed` counts crops."""

    urgent: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    shed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; waits in milliseconds."""

    streams: str
    crops_per_second: float
    crops_per_run: float
    busy: float
    new_p50_ms: float
    new_p95_ms: float
    recheck_p95_ms: float
    shed: int


def measured_cost() -> Cost:
    """By CPU time, the least of ten runs."""
    classifier = OpenVinoClassifier(resolve("maskstream-v3"), threads=1)
    side = classifier.input_size
    least = {}
    for count in (1, 32):
        crops = np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)
        seconds = []
        for _ in range(10):
            started = time.process_time()
            classifier.classify(crops)
            seconds.append(time.process_time() - started)
        least[count] = min(seconds)
    each = (least[32] - least[1]) / 31
    return Cost(max(0.0, least[1] - each), each)


async def show(batcher: Classifies, name: str, scene: Scene, until: float, waits: Waits) -> None:
    """One stream until the event loop's clock says `until`."""
    loop = asyncio.get_running_loop()
    # Cameras are not in step.
    chance = random.Random(name)
    frame = loop.time() + chance.uniform(0, FRAME_SECONDS)
    rechecked = frame - chance.uniform(0, RECHECK_SECONDS)
    arrives = frame + chance.uniform(0, NEW_FACE_SECONDS)
    unknown = 0
    while frame < until:
        await asyncio.sleep(max(0.0, frame - loop.time()))
        if frame >= arrives:
            arrives += NEW_FACE_SECONDS
            unknown = FRAMES_OF_A_NEW_FACE
        due = []
        if unknown:
            unknown -= 1
            due.append(_ask(batcher, name, scene.new, True, frame, waits))
        if frame >= rechecked + RECHECK_SECONDS:
            rechecked = frame
            due.append(_ask(batcher, name, scene.settled, False, frame, waits))
        await asyncio.gather(*due)
        # What came meanwhile has been superseded.
        frame += FRAME_SECONDS * max(1, -(-(loop.time() - frame) // FRAME_SECONDS))


async def _ask(
    batcher: Classifies, stream: str, count: int, urgent: bool, captured: float, waits: Waits
) -> None:
    crops = [np.zeros((8, 8, 3), np.uint8)] * count
    loop = asyncio.get_running_loop()
    asked = loop.time()
    try:
        await batcher.classify(
            crops, stream=stream, urgent=urgent, deadline=captured + BUDGET_SECONDS
        )
    except Overloaded:
        waits.shed += count
    else:
        (waits.urgent if urgent else waits.others).append(loop.time() - asked)


async def measure(
    batcher: Classifies,
    classifier: SleepingClassifier,
    cost: Cost,
    scenes: Sequence[Scene],
    seconds: float,
) -> Row:
    """Show all scenes at once; a crowd's own waits are left out."""
    waits, crowd = Waits(), Waits()
    until = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(
        *(
            show(batcher, f"s{number}", scene, until, waits if scene == Scene() else crowd)
            for number, scene in enumerate(scenes)
        )
    )
    return Row(
        f"{len(scenes)}" + (" with a crowd" if Scene() != scenes[0] else ""),
        classifier.crops / seconds,
        classifier.crops / max(1, classifier.runs),
        (cost.fixed * classifier.runs + cost.each * classifier.crops) / seconds,
        1e3 * percentile(waits.urgent, 0.5),
        1e3 * percentile(waits.urgent, 0.95),
        1e3 * percentile(waits.others, 0.95),
        waits.shed,
    )


SCENARIOS = ([Scene()], [Scene()] * 8, [Scene()] * 32, [Scene(100, 20), *[Scene()] * 7])


async def measure_all(cost: Cost, seconds: float) -> list[Row]:
    """All scenarios, each with a fresh batcher."""
    rows = []
    for scenes in SCENARIOS:
        classifier = SleepingClassifier(cost)
        async with Batcher(classifier) as batcher:
            rows.append(await measure(batcher, classifier, cost, scenes, seconds))
    return rows


def table(rows: Sequence[Row]) -> str:
    """For people."""
    lines = [
        "streams           crops/s  crops/run  busy   new: p50    p95   re-check: p95   shed",
        *(
            f"{row.streams:16} {row.crops_per_second:8.0f} {row.crops_per_run:10.1f} "
            f"{row.busy:5.0%} {row.new_p50_ms:7.1f} ms {row.new_p95_ms:6.1f} "
            f"{row.recheck_p95_ms:12.1f} ms {row.shed:6d}"
            for row in rows
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Waits for the classifier under shared load")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each scenario")
    parser.add_argument("--cost", type=float, nargs=2, metavar=("FIXED_MS", "EACH_MS"))
    parser.add_argument("--json", type=Path, help="write the rows there")
    given = parser.parse_args()
    cost = Cost(given.cost[0] / 1e3, given.cost[1] / 1e3) if given.cost else measured_cost()
    print(f"one run: {1e3 * cost.fixed:.2f} ms and {1e3 * cost.each:.2f} ms a crop")
    rows = asyncio.run(measure_all(cost, given.seconds))
    print(table(rows))
    if given.json:
        given.json.write_text(
            json.dumps({"cost": asdict(cost), "rows": [asdict(row) for row in rows]}, indent=1)
        )


if __name__ == "__main__":
    main()
