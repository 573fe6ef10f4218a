"""One stream's faces over time: detect now and then, carry between, classify where it informs.

No frame waits long for a detection: what is found in one is carried on to the frame that has come
meanwhile, as the faces in it were.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from stream_server.analyse import Analyser
from stream_server.errors import Overloaded
from stream_server.flow.shedding import Step
from stream_server.frames import (
    Face,
    FaceBox,
    FaceEvent,
    FaceEventKind,
    Frame,
    Picture,
    Pixels,
    Privacy,
    Verdict,
)
from stream_server.telemetry.metrics import Metrics, StreamMetrics
from stream_server.track.cadence import (
    LONGEST_SECONDS,
    SAME_SHARE,
    Effort,
    classification_due,
    detection_due,
)
from stream_server.track.conceal import Concealment
from stream_server.track.evidence import Evidence, quality
from stream_server.track.motion import Motion
from stream_server.track.tracker import Earlier, Track, Tracker

EFFORTS: Mapping[Step, Effort] = {
    Step.NOTHING: Effort(),
    Step.DETECT_LESS: Effort(detect=2),
    Step.SMALLER_INPUT: Effort(detect=2),
    Step.RECHECK_LESS: Effort(detect=2, recheck=3),
    Step.FEWER_FRAMES: Effort(detect=3, recheck=3),
}
SMALLER_INPUT = 0.75
SEARCH_PATIENCE = 0.2
"""A frame waits for what is found in it until this share of the budget is used up; after that the
boxes known so far are told, and what is found is told with a later frame. A detection alone is in
time for its own frame, so that a lone camera's boxes are those of the detector. A camera's whole
interval where that is longer than the budget: the next frame would tell it later still."""
FIRST_VERDICT_SECONDS = 0.5
"""A face appears with its first verdict, or without one when none comes for so long."""
CONCEALING_DETECT = 0.4
"""Where faces are hidden, detections come so much sooner, whatever the load: none is more than
0.1 s old, so that pictures held back for `conceal.HELD_SECONDS` have had two."""
RECHECK_PATIENCE = 0.08
"""Seconds for which a crop of a face whose verdict stands may wait for others to be classified
with: no frame waits for it, and a crop by itself costs twice what it costs in company. Well below
`evidence.AGAINST_SECONDS`, so that no change is told later for it."""
LEAST_WAIT_SHARE = 0.5
"""Crops may wait for this share of the budget even when it is used up already: where detection
alone is over budget, nobody would ever get a verdict otherwise."""


@dataclass(slots=True, eq=False)
class Person:
    """What is known of one track besides its place."""

    evidence: Evidence
    classified: float = float("-inf")
    rechecked: bool = False  # a crop is with the classifier, and no frame waits for it
    appeared: float | None = None
    told: Verdict = Verdict.UNCERTAIN
    told_at: float = 0.0
    stood: dict[Verdict, float] = field(default_factory=dict)

    def tell(self, verdict: Verdict, now: float) -> None:
        """`verdict` stands from `now` on."""
        self._stop_clock(now)
        self.told = verdict

    def counted(self, now: float) -> Verdict:
        """The verdict that stood longest; `uncertain` only where there never was another."""
        self._stop_clock(now)
        certain = {v: s for v, s in self.stood.items() if v is not Verdict.UNCERTAIN and s > 0}
        return max(certain, key=lambda v: certain[v]) if certain else self.told

    def _stop_clock(self, now: float) -> None:
        self.stood[self.told] = self.stood.get(self.told, 0.0) + now - self.told_at
        self.told_at = now


@dataclass(frozen=True, slots=True)
class Answer:
    """What the classifier said of a track's crop from the frame captured then."""

    track: int
    probabilities: Sequence[float]
    quality: float
    captured: float


@dataclass(frozen=True, slots=True)
class Search:
    """A frame in which faces are looked for, and where they were thought to be.

    `seen` is what the optical flow keeps of it.
    """

    picture: Picture
    scale: float
    captured: float
    places: Mapping[int, FaceBox]
    seen: Pixels | None


@dataclass(frozen=True, slots=True)
class Sight:
    """What one frame showed: the faces to draw, what happened for the first time, and, by track,
    the places to hide."""

    faces: tuple[Face, ...]
    events: tuple[FaceEvent, ...]
    hidden: Mapping[int, FaceBox] = field(default_factory=dict)


class Follower:
    """Follows the faces of one stream. Frames come one after the other, never two at once.

    Frames are looked at within `async with`, which bounds the detections and classifications that
    no frame waits for; an error in one of them cancels the block.
    """

    def __init__(
        self,
        name: str,
        analyser: Analyser,
        metrics: Metrics,
        stream: StreamMetrics,
        *,
        latency_budget: float = 0.15,
        privacy: Privacy = "none",
    ) -> None:
        """`latency_budget`: seconds from a frame's arrival to its verdicts."""
        self._name = name
        self._analyser = analyser
        self._metrics = metrics
        self._stream = stream
        self._latency_budget = latency_budget
        self._tracker = Tracker()
        self._concealment = Concealment() if privacy == "blur" else None
        self._motion = Motion()
        self._people: dict[int, Person] = {}
        self._detected = float("-inf")
        self._lost = False  # since then, by the optical flow
        self._last: Frame | None = None
        self._every = self._camera_every = 0.0  # seconds between frames; also those not looked at
        self._searching = False
        self._found: tuple[Search, list[FaceBox]] | None = None
        self._size: tuple[int, int] | None = None
        self._looking = False
        self._background = asyncio.TaskGroup()
        self._answers: list[Answer] = []

    async def __aenter__(self) -> Self:
        self._background = await asyncio.TaskGroup().__aenter__()
        self._searching = False
        for person in self._people.values():
            person.rechecked = False  # what was under way in an earlier block has ended with it
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._background.__aexit__(kind, error, trace)

    async def look(self, frame: Frame, step: Step) -> Sight:
        """The faces of the next frame, with no more effort than the shedding `step` allows."""
        self._looking = True
        try:
            self._measure(frame)
            self._take_answers()
            effort = EFFORTS[step]
            if self._concealment is not None:
                effort = replace(effort, detect=CONCEALING_DETECT)
            loop, workers = asyncio.get_running_loop(), self._analyser.workers
            search, (tracks, crops) = await loop.run_in_executor(
                workers, self._see, frame, step, effort
            )
            if search is not None:
                await self._start(search)
                tracks, crops = await loop.run_in_executor(workers, self._see_found, frame, effort)
            await self._judge(tracks, crops, frame.captured)
            hidden = self._hidden(frame.captured)
            events = self._events(frame.captured, frame.wall)
            return Sight(self._faces(frame), tuple(events), hidden)
        finally:
            self._looking = False

    def leave(self, now: float, wall: float, *, all_faces: bool = False) -> list[FaceEvent]:
        """Let go of faces that were not seen for too long, with no frame to show it: a silent
        source. `all_faces` when nothing will come any more. Nothing while a frame is looked at."""
        if self._looking:
            return []
        until = self._detected if self._searching else now
        gone = self._tracker.expire(float("inf") if all_faces else until)
        return self._left(gone, now, wall)

    def _measure(self, frame: Frame) -> None:
        """How often frames come."""
        last, self._last = self._last, frame
        if last is not None:
            self._every = max(0.0, frame.captured - last.captured)
            self._camera_every = self._every / max(1, frame.number - last.number)

    def _see(
        self, frame: Frame, step: Step, effort: Effort
    ) -> tuple[Search | None, tuple[list[Track], list[Pixels]]]:
        """Blocking: bring all boxes to this frame, and what was found in an earlier one; cut out
        what to classify, unless faces are to be looked for in this frame first."""
        self._lost |= self._carry(frame.picture, frame.captured)
        self._take_found(frame.captured)
        search = self._due(frame, step, effort)
        return search, ([], []) if search is not None else self._cut(frame, effort)

    def _see_found(self, frame: Frame, effort: Effort) -> tuple[list[Track], list[Pixels]]:
        """Blocking: the rest of `_see`, with what was found by now."""
        self._take_found(frame.captured)
        return self._cut(frame, effort)

    def _due(self, frame: Frame, step: Step, effort: Effort) -> Search | None:
        """What to look for faces in now; None while that can wait, or is being done."""
        if self._searching or self._found is not None:
            return None
        hides = self._concealment is not None
        least = 0.0 if hides else self._analyser.share.interval(time.monotonic())
        since, change = frame.captured - self._detected, self._motion.change
        tracks = self._tracker.tracks
        if not detection_due(tracks, since, change, self._lost, effort, least, self._every):
            return None
        self._lost = False
        scale = SMALLER_INPUT if step >= Step.SMALLER_INPUT and not hides else 1.0
        places = self._tracker.places
        return Search(frame.picture, scale, frame.captured, places, self._motion.seen)

    async def _start(self, search: Search) -> None:
        """Look for faces, and wait for a moment; where they are hidden, until it is done."""
        self._searching, self._detected = True, search.captured
        searching = self._background.create_task(self._search(search))
        patience = SEARCH_PATIENCE * self._latency_budget
        if self._camera_every > self._latency_budget:
            patience = min(self._camera_every, LONGEST_SECONDS)
        until_done = self._concealment is not None or math.isinf(patience)
        await asyncio.wait([searching], timeout=None if until_done else patience)

    async def _search(self, search: Search) -> None:
        boxes = await self._analyser.search(search.picture, search.scale, stream=self._name)
        self._stream.detected()
        # In this order: the workers look at both, in the other one.
        self._found = search, boxes
        self._searching = False

    def _take_found(self, now: float) -> None:
        """Bring what was found in this frame or an earlier one to this one."""
        if self._found is None:
            return
        (search, boxes), self._found = self._found, None
        if (search.picture.width, search.picture.height) != self._size:
            return
        if search.captured == now:
            self._tracker.update(boxes, now)
        else:
            moves = self._motion.moves(dict(enumerate(boxes)), since=search.seen)
            self._tracker.update(boxes, now, Earlier(search.captured, search.places, moves))

    def _cut(self, frame: Frame, effort: Effort) -> tuple[list[Track], list[Pixels]]:
        now = frame.captured
        unsure = [
            track
            for track in self._tracker.tracks
            if track.shown(now) and track.in_sight and self._informs(track, now, effort)
        ]
        return unsure, self._analyser.crop(frame.picture, [track.box for track in unsure])

    def _carry(self, picture: Picture, now: float) -> bool:
        """Bring all boxes to this picture; returns whether optical flow lost one."""
        started = time.perf_counter()
        size = picture.width, picture.height
        if self._size not in (None, size):
            assert self._size is not None
            factors = size[0] / self._size[0], size[1] / self._size[1]
            self._tracker.rescale(*factors)
            if self._concealment is not None:
                self._concealment.rescale(*factors)
            self._detected = float("-inf")
        self._size = size
        self._motion.see(picture)
        boxes = {track.id: track.box for track in self._tracker.tracks if track.in_sight}
        moves = self._motion.moves(boxes)
        self._tracker.carry(moves, now)
        self._metrics.stage_seconds("track", time.perf_counter() - started)
        return len(moves) < len(boxes)

    def _informs(self, track: Track, now: float, effort: Effort) -> bool:
        person = self._people.get(track.id)
        if person is None:
            evidence = Evidence(self._analyser.labels, self._analyser.uncertain_below)
            person = self._people[track.id] = Person(evidence, told_at=now)
        if person.rechecked and not self._urgent(track):
            return False
        since = now - person.classified
        return classification_due(person.evidence.settled, track.followed, since, effort)

    def _urgent(self, track: Track) -> bool:
        """Whether this frame is to show what its crop says: a new, doubtful or changed face."""
        return not self._people[track.id].evidence.settled or track.followed < SAME_SHARE

    async def _judge(self, tracks: Sequence[Track], crops: Sequence[Pixels], now: float) -> None:
        """Await the answers on new, doubtful and changed faces; ask again, without waiting, for
        those whose verdict stands."""
        urgent: list[tuple[Track, Pixels]] = []
        settled: list[tuple[Track, Pixels]] = []
        for track, crop in zip(tracks, crops, strict=True):
            (urgent if self._urgent(track) else settled).append((track, crop))
        if settled:
            for track, _ in settled:
                self._people[track.id].rechecked = True
            self._background.create_task(self._recheck(settled, now))
        if urgent:
            least = time.monotonic() + LEAST_WAIT_SHARE * self._latency_budget
            await self._classify(urgent, now, deadline=max(now + self._latency_budget, least))
            self._take_answers()

    async def _recheck(self, asked: Sequence[tuple[Track, Pixels]], now: float) -> None:
        due = time.monotonic() + RECHECK_PATIENCE + self._latency_budget
        await self._classify(asked, now, deadline=due, patience=RECHECK_PATIENCE)

    async def _classify(
        self,
        asked: Sequence[tuple[Track, Pixels]],
        now: float,
        *,
        deadline: float,
        patience: float = 0.0,
    ) -> None:
        """Have the classifier look at crops of the frame of `now`."""
        crops = [crop for _, crop in asked]
        try:
            rows = await self._analyser.classify(
                crops,
                stream=self._name,
                urgent=not patience,
                deadline=deadline,
                patience=patience,
            )
        except Overloaded:
            # The verdicts that stand are shown; the batcher has counted the crops.
            for track, _ in asked:
                if person := self._people.get(track.id):
                    person.rechecked = False
            return
        for (track, crop), row in zip(asked, rows, strict=True):
            self._answers.append(Answer(track.id, row.tolist(), quality(crop, track.box), now))

    def _take_answers(self) -> None:
        """Add what the classifier said to what is known: between two looks from the workers."""
        for answer in self._answers:
            person = self._people.get(answer.track)
            if person is None:
                continue
            person.rechecked = False
            # An earlier frame's answer may come after that of a frame that could not wait.
            if person.classified < answer.captured:
                person.evidence.add(answer.probabilities, answer.quality, answer.captured)
                person.classified = answer.captured
        self._answers.clear()

    def _events(self, now: float, wall: float) -> list[FaceEvent]:
        # Whoever is looked for may be found yet.
        pending = self._searching or self._found is not None
        gone = self._tracker.expire(self._detected if pending else now)
        events = self._left(gone, now, wall)
        for track in self._tracker.tracks:
            person = self._people.get(track.id)
            if person is None or not track.confirmed:
                continue
            verdict = person.evidence.verdict
            if person.appeared is None:
                # The first verdict follows at once where the crops are good: one event, not two.
                if verdict is Verdict.UNCERTAIN and now - track.born < FIRST_VERDICT_SECONDS:
                    continue
                person.appeared = track.born
                person.tell(verdict, now)
                events.append(self._event(FaceEventKind.APPEARED, track.id, person, now, wall))
            elif verdict is not person.told:
                before = person.told
                person.tell(verdict, now)
                events.append(
                    self._event(FaceEventKind.CHANGED, track.id, person, now, wall, before)
                )
        return events

    def _left(self, gone: Sequence[Track], now: float, wall: float) -> list[FaceEvent]:
        events = []
        for track in gone:
            person = self._people.pop(track.id, None)
            if person is not None and person.appeared is not None:
                events.append(self._event(FaceEventKind.LEFT, track.id, person, now, wall))
        return events

    def _event(
        self,
        kind: FaceEventKind,
        track: int,
        person: Person,
        now: float,
        wall: float,
        previous: Verdict | None = None,
    ) -> FaceEvent:
        assert person.appeared is not None
        return FaceEvent(
            kind,
            self._name,
            track,
            wall,
            person.told,
            previous,
            person.evidence.confidence,
            now - person.appeared,
            person.counted(now),
        )

    def _hidden(self, now: float) -> Mapping[int, FaceBox]:
        if self._concealment is None:
            return {}
        return self._concealment.regions(self._tracker.tracks, now)

    def _faces(self, frame: Frame) -> tuple[Face, ...]:
        now, picture = frame.captured, frame.picture
        faces = []
        for track in self._tracker.tracks:
            box = _clipped(track.box, picture.width, picture.height)
            if box is None or not track.shown(now):
                continue
            person = self._people.get(track.id)
            if person is None:
                continue
            evidence = person.evidence
            faces.append(
                Face(
                    box,
                    evidence.verdict,
                    evidence.steady_confidence,
                    evidence.probabilities,
                    track.id,
                )
            )
        return tuple(faces)


def _clipped(box: FaceBox, width: int, height: int) -> FaceBox | None:
    """The part of the box that lies in the picture; None if that is next to nothing."""
    x0, x1 = max(box.x0, 0.0), min(box.x1, float(width))
    y0, y1 = max(box.y0, 0.0), min(box.y1, float(height))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    return FaceBox(x0, y0, x1, y1, box.score, box.landmarks)
