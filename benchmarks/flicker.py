"""Steadiness of verdicts, ids and boxes: frame-by-frame labels and other trackers against ours.

    python -m benchmarks.flicker [CLIP ...] [--seconds 30] [--seeds 4 5 6] [--late 0.15]

Three tables. Verdicts: the seed's way (detect and classify each frame, take the likeliest label)
against our tracks, on clips of one person each and on the demonstration's painted masks. Ids, on
made-up crowds that cross and hide each other. Boxes: how well the drawn box fits the face that a
detection of that very frame finds. Frames carry the clip's own times and nothing waits for a
clock, so that a busy machine changes no figure. With --late clips are played in their own time as
well, to a detector that takes so many seconds longer, as on a slow machine: those rows depend on
the machine. Without CLIP those of shared/data/video are taken where they are; the row of ByteTrack
comes where the package supervision is installed; --json writes all figures into a file.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.flicker_clips import Change, Clip, Person, Timed, clips_of, painted
from benchmarks.flicker_tracks import compare
from stream_server.analyse import Analyser
from stream_server.app import Inference, open_analyser, open_inference
from stream_server.flow.share import DetectionShare
from stream_server.flow.shedding import Step
from stream_server.flow.thinning import Thinning
from stream_server.follow import Follower
from stream_server.frames import Face, FaceBox, Frame, Picture, Verdict
from stream_server.ports import FaceDetector
from stream_server.settings import Settings
from stream_server.telemetry.metrics import Metrics

Seen = list[tuple[float, int, int, tuple[Face, ...]]]
"""Seconds, the picture's width and height, the faces shown."""

SHARED = Path(os.environ.get("MASKSTREAM_SHARED", Path(__file__).parents[2] / "shared"))
FPS = (10.0, 30.0)
"""Frames a second at most; a clip has its own rate below the second."""


@dataclass(frozen=True, slots=True)
class Steadiness:
    """What one way said of one clip: label changes, true ones, how late (s) each true one was
    told. Those never told are `missed`; `unclear` are label changes while a face is shown that is
    neither, which are in no other count."""

    clip: str
    way: str
    changes: int
    true_changes: int
    delays: tuple[float, ...]
    missed: int
    unclear: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flicker", description=__doc__)
    parser.add_argument("clips", type=Path, nargs="*", help="videos of one person each")
    parser.add_argument("--seconds", type=float, default=30, help="of made-up clips")
    parser.add_argument("--start", type=float, default=0, help="where in the painted clip")
    parser.add_argument("--seeds", type=int, nargs="*", default=[4, 5, 6], help="of the crowds")
    parser.add_argument("--late", type=float, default=0, help="seconds added to each detection")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    if missing := [str(path) for path in options.clips if not path.is_file()]:
        parser.error(f"there is no file {missing[0]}")
    if options.seconds <= 0:
        parser.error("--seconds must be above 0")
    if options.late < 0:
        parser.error("--late must not be below 0")
    found = asyncio.run(_measure(options))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


async def _measure(options: argparse.Namespace) -> dict[str, object]:
    paths = options.clips or sorted((SHARED / "data" / "video").glob("*.m*"))
    clips = [*clips_of(paths), painted(options.seconds, start=options.start)]
    metrics = Metrics()
    async with open_inference(Settings(), metrics) as inference:
        # How long detections take here is not to change how often there are some.
        inference.analyser.share = DetectionShare(10**6)
        rows = []
        for clip in clips:
            rows += await _steadiness(clip, inference.analyser, metrics)
            if options.late:
                rows.append(await _played(clip, inference, metrics, options.late))
            print(f"{clip.name} done", flush=True)
        _print_steadiness(rows)
        tracks = compare(paths, options.seeds, options.seconds, inference.analyser)
    return {"verdicts": [asdict(row) for row in rows], **tracks}


async def _steadiness(clip: Clip, analyser: Analyser, metrics: Metrics) -> list[Steadiness]:
    ways = {"each frame": await _by_frame(clip, analyser)}
    for fps in FPS:
        ways[f"tracks, {fps:.0f} fps"] = await _by_track(clip, analyser, metrics, fps)
    return [
        _judged(clip, way, [_labels(seen, person) for person in clip.people])
        for way, seen in ways.items()
    ]


async def _by_frame(clip: Clip, analyser: Analyser) -> Seen:
    """The seed's way: every frame by itself, the likeliest label."""
    seen: Seen = []
    for t, picture in clip.pictures():
        faces = await analyser.analyse(picture)
        seen.append(
            (t, picture.width, picture.height, tuple(_likeliest(f, analyser) for f in faces))
        )
    return seen


def _likeliest(face: Face, analyser: Analyser) -> Face:
    best = max(range(len(face.probabilities)), key=lambda index: face.probabilities[index])
    verdict = Verdict(analyser.labels[best])
    return Face(face.box, verdict, face.probabilities[best], face.probabilities)


async def _by_track(clip: Clip, analyser: Analyser, metrics: Metrics, fps: float) -> Seen:
    """Our way, as in the service."""
    # The crops' deadline is of the clock's time, which this does not keep.
    stream = metrics.stream("clip")
    follower = Follower("clip", analyser, metrics, stream, latency_budget=float("inf"))
    thinning = Thinning()
    seen: Seen = []
    for number, (t, picture) in enumerate(clip.pictures()):
        if thinning.due(t, fps):
            frame = Frame("clip", number, t, t, t, picture)
            async with follower:  # with all answers in before the next frame
                sight = await follower.look(frame, Step.NOTHING)
            seen.append((t, picture.width, picture.height, sight.faces))
    return seen


@dataclass(frozen=True, slots=True)
class LateDetector:
    """`FaceDetector` whose answers come so many seconds later."""

    inner: FaceDetector
    late: float

    @property
    def name(self) -> str:
        return self.inner.name

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        """What the inner one finds."""
        found = self.inner.detect(picture, scale)
        time.sleep(self.late)
        return found


async def _played(clip: Clip, inference: Inference, metrics: Metrics, late: float) -> Steadiness:
    """Our way in the clip's own time, with the service's latency budget."""
    detector = LateDetector(inference.detector, late)
    options, pictures = Settings().classifier, list(clip.pictures())
    seen: Seen = []
    async with open_analyser(
        detector, inference.selected, inference.card, options, metrics
    ) as analyser:
        await analyser.analyse(pictures[0][1])  # compiles the networks
        follower = Follower("clip", analyser, metrics, metrics.stream("clip"))
        async with follower:
            async for number, t, captured, picture in _in_real_time(pictures):
                frame = Frame("clip", number, captured, captured, t, picture)
                sight = await follower.look(frame, Step.NOTHING)
                seen.append((t, picture.width, picture.height, sight.faces))
    labels = [_labels(seen, person) for person in clip.people]
    return _judged(clip, f"tracks, in real time, found {late:g} s later", labels)


async def _in_real_time(
    pictures: Sequence[Timed],
) -> AsyncIterator[tuple[int, float, float, Picture]]:
    """Number, seconds, monotonic seconds and picture of each that is the newest when asked for."""
    begins = time.monotonic() - pictures[0][0]
    for number, (t, picture) in enumerate(pictures):
        captured = begins + t
        if number + 1 < len(pictures) and begins + pictures[number + 1][0] <= time.monotonic():
            continue
        await asyncio.sleep(captured - time.monotonic())
        yield number, t, captured, picture


def _labels(seen: Seen, person: Person) -> list[tuple[float, Verdict]]:
    """(seconds, label) of one person's largest face, from the first verdict on."""
    labels: list[tuple[float, Verdict]] = []
    for t, width, height, faces in seen:
        inside = [face for face in faces if _within(face, person, width, height)]
        if inside:
            face = max(inside, key=lambda f: (f.box.x1 - f.box.x0) * (f.box.y1 - f.box.y0))
            if labels or face.verdict is not Verdict.UNCERTAIN:
                labels.append((t, face.verdict))
    return labels


def _within(face: Face, person: Person, width: int, height: int) -> bool:
    x = (face.box.x0 + face.box.x1) / 2 / width
    y = (face.box.y0 + face.box.y1) / 2 / height
    x0, y0, x1, y1 = person.region
    return x0 <= x <= x1 and y0 <= y <= y1


def _judged(clip: Clip, way: str, people: list[list[tuple[float, Verdict]]]) -> Steadiness:
    changes, unclear = 0, 0
    delays: list[float | None] = []
    for labels, person in zip(people, clip.people, strict=True):
        spans = _unclear(person)
        for (_, before), (t, now) in itertools.pairwise(labels):
            hard = any(begins <= t < ends for begins, ends in spans)
            changes += now is not before and not hard
            unclear += now is not before and hard
        delays += [
            _delay(labels, change, following.begins if following else float("inf"))
            for change, following in itertools.zip_longest(person.changes, person.changes[1:])
            if not any(begins <= change.begins < ends for begins, ends in spans)
        ]
    told = tuple(delay for delay in delays if delay is not None)
    missed = len(delays) - len(told)
    return Steadiness(clip.name, way, changes, len(delays), told, missed, unclear)


def _unclear(person: Person) -> list[tuple[float, float]]:
    """From when to when (s) a face is neither: until half a second after what follows is clear."""
    return [
        (change.begins, following.ends + 0.5 if following else float("inf"))
        for change, following in itertools.zip_longest(person.changes, person.changes[1:])
        if change.verdict is Verdict.UNCERTAIN
    ]


def _delay(labels: list[tuple[float, Verdict]], change: Change, until: float) -> float | None:
    """Seconds from the change's end to its label, 0 if that came before; None if it never did."""
    told = [t for t, label in labels if change.begins <= t < until and label is change.verdict]
    return max(0.0, told[0] - change.ends) if told else None


def _print_steadiness(rows: list[Steadiness]) -> None:
    print(
        "\n| clip | way | label changes | true changes | delay median s | worst s | never told "
        "| changes of unclear faces |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        delays = row.delays or (float("nan"),)
        print(
            f"| {row.clip} | {row.way} | {row.changes} | {row.true_changes} "
            f"| {statistics.median(delays):.2f} | {max(delays):.2f} | {row.missed} "
            f"| {row.unclear} |"
        )
    for way in dict.fromkeys(row.way for row in rows):
        own = [row for row in rows if row.way == way]
        ratio = sum(r.changes for r in own) / max(1, sum(r.true_changes for r in own))
        print(f"{way}: {ratio:.2f} label changes per true change")


if __name__ == "__main__":
    sys.exit(main())
