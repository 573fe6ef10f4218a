"""Ids and drawn boxes: ways to carry faces between detections, all given the same detections."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.flicker_clips import RATE, clips_of, walkers
from stream_server.analyse import Analyser
from stream_server.frames import FaceBox, Picture, Pixels
from stream_server.track.motion import Motion
from stream_server.track.tracker import Earlier, Move, Tracker, iou

DETECTION_SECONDS = 0.2
LATE_SECONDS = 0.15
"""From a detected frame to the one that is told of what was found, where the machine is slow."""
BUSY_SECONDS = 0.6
"""Between two detections of one of eight cameras that the machine is too slow for."""
SAME_IOU = 0.4
Drawn = list[tuple[int, FaceBox]]


class Way(Protocol):
    """Carries faces from frame to frame."""

    def step(self, t: float, picture: Picture, found: Sequence[FaceBox] | None) -> Drawn:
        """The faces to draw, by id; `found` where this frame was detected."""
        ...


@dataclass(frozen=True, slots=True)
class Search:
    """What is found in a frame, and what was known of it, until there is an answer."""

    at: float
    found: Sequence[FaceBox]
    places: Mapping[int, FaceBox]
    seen: Pixels | None


class Ours:
    """The service's tracker, with or without optical flow, told `late` seconds (with flow: as the
    service brings it to a later frame) of what is found."""

    def __init__(self, *, flow: bool, late: float = 0.0) -> None:
        self._tracker = Tracker()
        self._motion = Motion() if flow else None
        self._late = late
        self._searches: list[Search] = []
        self._known: dict[int, tuple[float, FaceBox]] = {}

    def step(self, t: float, picture: Picture, found: Sequence[FaceBox] | None) -> Drawn:
        self._tracker.carry(self._moves(picture), t)
        if found is not None:
            seen = self._motion.seen if self._motion is not None else None
            self._searches.append(Search(t, found, self._tracker.places, seen))
        while self._searches and t - self._searches[0].at >= self._late - 1e-6:
            self._take(self._searches.pop(0), t)
        return [(track.id, track.box) for track in self._tracker.tracks if track.shown(t)]

    def _take(self, search: Search, t: float) -> None:
        if self._motion is None or math.isclose(search.at, t):
            self._tracker.update(search.found, t)
        else:
            moves = self._motion.moves(dict(enumerate(search.found)), since=search.seen)
            self._tracker.update(search.found, t, Earlier(search.at, search.places, moves))
        if self._motion is None:
            self._set_speeds(t)
        self._tracker.expire(t)

    def _moves(self, picture: Picture) -> Mapping[int, Move]:
        if self._motion is None:
            return {}
        self._motion.see(picture)
        return self._motion.moves({t.id: t.box for t in self._tracker.tracks if t.in_sight})

    def _set_speeds(self, t: float) -> None:
        """The motion model without flow: speed from one detection to the next."""
        for track in self._tracker.tracks:
            at, box = self._known.get(track.id, (t, track.box))
            if track.detected == t and t > at:
                dx = (track.box.x0 + track.box.x1 - box.x0 - box.x1) / 2
                dy = (track.box.y0 + track.box.y1 - box.y0 - box.y1) / 2
                track.velocity = dx / (t - at), dy / (t - at)
            if track.detected == t:
                self._known[track.id] = t, track.box


class ByteTrack:
    """supervision's, told of its rate as its documentation asks; between detections it has nothing
    new to say and the last boxes stay."""

    def __init__(self, rate: float) -> None:
        supervision = import_module("supervision")

        self._supervision = supervision
        self._tracker = supervision.ByteTrack(
            track_activation_threshold=0.4, frame_rate=max(1, round(rate))
        )
        self._drawn: Drawn = []

    def step(self, t: float, picture: Picture, found: Sequence[FaceBox] | None) -> Drawn:
        if found is not None:
            detections = self._supervision.Detections(
                xyxy=np.array([(b.x0, b.y0, b.x1, b.y1) for b in found], float).reshape(-1, 4),
                confidence=np.array([b.score for b in found], float),
                class_id=np.zeros(len(found), int),
            )
            told = self._tracker.update_with_detections(detections)
            self._drawn = [
                (int(key), _box(box.tolist()))
                for key, box in zip(told.tracker_id, told.xyxy, strict=True)
            ]
        return self._drawn


def _box(corners: list[float]) -> FaceBox:
    x0, y0, x1, y1 = corners
    return FaceBox(x0, y0, x1, y1, 1.0)


@dataclass(slots=True)
class Fit:
    """Overlap of drawn boxes with each frame's own detection, and how often ids changed."""

    overlaps: list[float] = field(default_factory=list)
    switches: int = 0
    people: int = 0
    not_drawn: int = 0
    ids: set[int] = field(default_factory=set)


Timed = tuple[float, Picture, list[FaceBox], dict[int, FaceBox] | None]


def ways() -> dict[str, tuple[Callable[[], Way], float]]:
    """By name: how to make it, and the seconds between its detections."""
    found: dict[str, tuple[Callable[[], Way], float]] = {
        "motion model only": (lambda: Ours(flow=False), DETECTION_SECONDS),
        "optical flow (ours)": (lambda: Ours(flow=True), DETECTION_SECONDS),
        f"ours, told {LATE_SECONDS:g} s late": (
            lambda: Ours(flow=True, late=LATE_SECONDS),
            DETECTION_SECONDS,
        ),
        f"ours, {LATE_SECONDS:g} s late, each {BUSY_SECONDS:g} s": (
            lambda: Ours(flow=True, late=LATE_SECONDS),
            BUSY_SECONDS,
        ),
    }
    if find_spec("supervision") is not None:
        found["ByteTrack"] = (lambda: ByteTrack(1 / DETECTION_SECONDS), DETECTION_SECONDS)
        found["ByteTrack, every frame detected"] = (lambda: ByteTrack(RATE), 0.0)
    return found


def compare(
    paths: Sequence[Path], seeds: Sequence[int], seconds: float, analyser: Analyser
) -> dict[str, object]:
    """All ways over the crowds (with truth) and the clips (one person each), printed."""
    crowds = {name: Fit() for name in ways()}
    for seed in seeds:
        _run([(t, p, analyser.detect(p), truth) for t, p, truth in walkers(seed, seconds)], crowds)
    real = {name: Fit() for name in ways()}
    for clip in clips_of(list(paths)):
        _run([(t, p, analyser.detect(p), None) for t, p in clip.pictures()], real)
    print("\n| way | clips | ids | id changes | faces not drawn | IoU mean | lowest 5 % |")
    print("|---|---|---|---|---|---|---|")
    for title, fits in (("crowds", crowds), ("real", real)):
        for name, fit in fits.items():
            _print(title, name, fit)
    return {
        title: {name: _as_json(fit) for name, fit in fits.items()}
        for title, fits in (("crowds", crowds), ("real", real))
    }


def _run(frames: Sequence[Timed], fits: dict[str, Fit]) -> None:
    for name, (make, interval) in ways().items():
        way, fit, due, last = make(), fits[name], 0.0, dict[int, int]()
        ids: set[int] = set()
        for t, picture, found, truth in frames:
            detect = t >= due - 1e-6
            due = t + interval if detect else due
            drawn = way.step(t, picture, found if detect else None)
            ids |= {key for key, _ in drawn}
            _overlap(found, drawn, fit)
            _count_switches(truth if truth is not None else _largest(found), drawn, last, fit)
        fit.people += len(last)
        fit.ids |= {key + 10_000 * fit.people for key in ids}


def _largest(found: Sequence[FaceBox]) -> dict[int, FaceBox]:
    """The one person of a real clip."""
    return {0: max(found, key=lambda b: (b.x1 - b.x0) * (b.y1 - b.y0))} if found else {}


def _overlap(found: Sequence[FaceBox], drawn: Drawn, fit: Fit) -> None:
    for box in found:
        best = max((iou(box, other) for _, other in drawn), default=0.0)
        if best >= SAME_IOU:
            fit.overlaps.append(best)


def _count_switches(
    truth: Mapping[int, FaceBox], drawn: Drawn, last: dict[int, int], fit: Fit
) -> None:
    """As MOTA counts them: a visible person whose id is another than the last one."""
    for person, key in _paired(truth, drawn):
        if key is None:
            fit.not_drawn += 1
        else:
            fit.switches += last.get(person, key) != key
            last[person] = key


def _paired(truth: Mapping[int, FaceBox], drawn: Drawn) -> Iterator[tuple[int, int | None]]:
    free = dict(drawn)
    scores = sorted(
        ((iou(box, other), person, key) for person, box in truth.items() for key, other in drawn),
        reverse=True,
    )
    done: set[int] = set()
    for score, person, key in scores:
        if score >= SAME_IOU and person not in done and key in free:
            done.add(person)
            del free[key]
            yield person, key
    yield from ((person, None) for person in truth if person not in done)


def _as_json(fit: Fit) -> dict[str, float]:
    ordered = sorted(fit.overlaps) or [0.0]
    return {
        "people": fit.people,
        "ids": len(fit.ids),
        "id_changes": fit.switches,
        "not_drawn": fit.not_drawn,
        "iou_mean": statistics.fmean(ordered),
        "iou_p5": ordered[len(ordered) // 20],
    }


def _print(title: str, name: str, fit: Fit) -> None:
    f = _as_json(fit)
    print(
        f"| {name} | {title} | {f['ids']} for {f['people']} people | {f['id_changes']} "
        f"| {f['not_drawn']} | {f['iou_mean']:.3f} | {f['iou_p5']:.3f} |"
    )
