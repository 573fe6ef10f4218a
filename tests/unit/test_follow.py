from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_server.errors import Overloaded
from stream_server.flow.share import DetectionShare
from stream_server.flow.shedding import Step
from stream_server.follow import Follower, Sight
from stream_server.frames import (
    FaceBox,
    FaceEvent,
    FaceEventKind,
    Frame,
    Picture,
    Pixels,
    Privacy,
    Verdict,
)
from stream_server.telemetry.metrics import Metrics
from stream_server.track.tracker import KEPT_SECONDS
from tests.fakes.camera import FakeAnalyser

APPEARED, CHANGED, LEFT = FaceEventKind.APPEARED, FaceEventKind.CHANGED, FaceEventKind.LEFT
MASK, BARE = (0.94, 0.03, 0.03), (0.03, 0.94, 0.03)
UNSURE = (0.4, 0.35, 0.25)
SLOTS = tuple(FaceBox(x, 20, x + 40, 60, 0.9) for x in (10.0, 110.0, 210.0))
EPOCH = 1_000_000.0


def still(width: int = 320, height: int = 96) -> Picture:
    noise = np.random.default_rng(4).integers(60, 200, (height // 8, width // 8, 3), np.uint8)
    return Picture.from_bgr(np.repeat(np.repeat(noise, 8, 0), 8, 1))


class CountingAnalyser(FakeAnalyser):
    """Counts detections with the scale of each, and the crops of each classification."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: list[float] = []
        self.crops: list[int] = []

    async def search(self, picture: Picture, scale: float, *, stream: str) -> list[FaceBox]:
        self.scales.append(scale)
        return await super().search(picture, scale, stream=stream)

    def crop(self, picture: Picture, boxes: Sequence[FaceBox]) -> list[Pixels]:
        self.crops.append(len(boxes))
        return super().crop(picture, boxes)


class Watch:
    """A follower and its frames: `look(seconds later)`."""

    def __init__(self, privacy: Privacy = "none") -> None:
        self.analyser = CountingAnalyser()
        self.analyser.boxes = [SLOTS[0]]
        self.analyser.probabilities = BARE
        self.analyser.workers = self._pool = ThreadPoolExecutor(1)
        metrics = Metrics()
        stream = metrics.stream("gate")
        self.follower = Follower("gate", self.analyser, metrics, stream, privacy=privacy)  # type: ignore[arg-type]
        self.now, self.number, self.picture = 100.0, 0, still()
        self.events: list[FaceEvent] = []
        self._runner = asyncio.Runner()

    def look(self, after: float = 0.1, step: Step = Step.NOTHING) -> Sight:
        self.now += after
        self.number += 1
        frame = Frame("gate", self.number, self.now, EPOCH + self.now, None, self.picture)
        sight = self._runner.run(self._looked(frame, step))
        self.events += sight.events
        return sight

    async def _looked(self, frame: Frame, step: Step) -> Sight:
        """With all answers in before the next frame."""
        async with self.follower:
            return await self.follower.look(frame, step)

    def looks(self, seconds: float, every: float = 0.1, step: Step = Step.NOTHING) -> Sight:
        for _ in range(round(seconds / every)):
            sight = self.look(every, step)
        return sight

    def leave(self, *, all_faces: bool = False) -> None:
        self.events += self.follower.leave(self.now, EPOCH + self.now, all_faces=all_faces)

    def close(self) -> None:
        self._runner.close()
        self._pool.shutdown()

    def told(self) -> list[tuple[FaceEventKind, int, Verdict]]:
        return [(event.kind, event.track, event.verdict) for event in self.events]


@pytest.fixture
def watch() -> Iterator[Watch]:
    watching = Watch()
    yield watching
    watching.close()


@pytest.fixture
def private() -> Iterator[Watch]:
    watching = Watch("blur")
    yield watching
    watching.close()


def test_hidden_faces_are_looked_for_sooner_and_never_in_a_smaller_picture(
    watch: Watch, private: Watch
) -> None:
    for watching in (watch, private):
        watching.looks(1, 1 / 30)
        watching.analyser.scales.clear()
        watching.looks(3, 1 / 30, Step.FEWER_FRAMES)
    assert len(private.analyser.scales) >= 3 * 10
    assert set(private.analyser.scales) == {1.0}
    assert set(watch.analyser.scales) == {0.75}


def test_hidden_is_what_may_be_a_face_long_after_it_is_not_drawn_any_more(private: Watch) -> None:
    private.analyser.boxes = [FaceBox(10, 20, 50, 60, 0.42)]
    doubtful = private.look()
    assert (doubtful.faces, len(doubtful.hidden)) == ((), 1)
    private.analyser.boxes = [SLOTS[0]]
    private.looks(1)
    private.analyser.boxes = []
    lost = private.looks(1.5)
    assert (lost.faces, len(lost.hidden)) == ((), 1)
    assert not private.looks(2).hidden


def test_nothing_is_hidden_unless_asked_for(watch: Watch) -> None:
    sight = watch.looks(1)
    assert sight.faces
    assert not sight.hidden


def test_a_face_appears_once_with_its_verdict_and_leaves_once(watch: Watch) -> None:
    watch.looks(2)
    watch.analyser.boxes = []
    watch.looks(4)
    watch.leave(all_faces=True)
    assert watch.told() == [
        (APPEARED, 1, Verdict.WITHOUT_MASK),
        (LEFT, 1, Verdict.WITHOUT_MASK),
    ]
    appeared, left = watch.events
    assert appeared.wall < EPOCH + 100.5
    missed_for = left.wall - EPOCH - 102
    assert KEPT_SECONDS - 0.2 <= missed_for <= KEPT_SECONDS + 0.2
    assert left.counted is Verdict.WITHOUT_MASK
    assert appeared.confidence == pytest.approx(0.94)


@pytest.mark.parametrize("every", [1 / 10, 1 / 30])
def test_a_true_change_is_told_once_within_half_a_second(watch: Watch, every: float) -> None:
    watch.looks(2, every)
    put_on = watch.now + every
    watch.analyser.probabilities = MASK
    watch.looks(2, every)
    assert watch.told() == [
        (APPEARED, 1, Verdict.WITHOUT_MASK),
        (CHANGED, 1, Verdict.WITH_MASK),
    ]
    change = watch.events[-1]
    assert change.previous is Verdict.WITHOUT_MASK
    assert change.wall - EPOCH - put_on <= 0.5 + 1e-6


def test_one_odd_answer_is_not_told(watch: Watch) -> None:
    watch.looks(2)
    for _ in range(5):
        watch.analyser.probabilities = MASK
        watch.look()
        watch.analyser.probabilities = BARE
        sight = watch.looks(0.7)
        assert sight.faces[0].verdict is Verdict.WITHOUT_MASK
    assert len(watch.events) == 1


def test_the_verdict_that_stood_longest_counts(watch: Watch) -> None:
    watch.looks(1)
    watch.analyser.probabilities = MASK
    watch.looks(6)
    watch.analyser.probabilities = BARE
    watch.looks(1.5)
    watch.leave(all_faces=True)
    assert [event.verdict for event in watch.events][-1] is Verdict.WITHOUT_MASK
    assert watch.events[-1].counted is Verdict.WITH_MASK


def test_a_face_nobody_can_judge_appears_as_uncertain_after_half_a_second(watch: Watch) -> None:
    watch.analyser.probabilities = UNSURE
    watch.looks(0.4)
    assert watch.events == []
    watch.looks(1)
    watch.leave(all_faces=True)
    assert [event.kind for event in watch.events] == [APPEARED, LEFT]
    assert watch.events[-1].counted is Verdict.UNCERTAIN


def test_a_box_seen_once_is_no_event(watch: Watch) -> None:
    watch.look()
    watch.analyser.boxes = []
    watch.looks(3)
    assert watch.events == []


def test_a_settled_face_is_detected_and_classified_rarely_and_drawn_always(watch: Watch) -> None:
    watch.looks(1, 1 / 30)
    watch.analyser.scales.clear()
    watch.analyser.crops.clear()
    for _ in range(60):
        assert len(watch.look(1 / 30).faces) == 1
    assert 8 <= len(watch.analyser.scales) <= 11
    assert 8 <= sum(watch.analyser.crops) <= 11


@pytest.mark.parametrize("step", [Step.NOTHING, Step.FEWER_FRAMES])
def test_where_others_need_the_detector_too_faces_are_found_later_and_drawn_always(
    watch: Watch, step: Step
) -> None:
    watch.analyser.share = DetectionShare(2)
    watch.looks(1.0, step=step)
    watch.analyser.scales.clear()
    for _ in range(60):
        for other in range(8):
            watch.analyser.share.took(f"camera {other}", 0.1, time.monotonic())
        assert watch.look(step=step).faces
    # In 6 s: 8 detections of 0.1 s on half of two threads leave room each 0.8 s; under load at
    # least each 2 s.
    assert len(watch.analyser.scales) in ((6, 7, 8) if step is Step.NOTHING else (2, 3))


def test_hidden_faces_are_looked_for_as_often_whatever_others_need(private: Watch) -> None:
    for _ in range(2):
        private.analyser.share.took("another", 1e9, time.monotonic())
    private.looks(1.0)
    private.analyser.scales.clear()
    private.looks(1.0)
    assert len(private.analyser.scales) >= 9


class Slow:
    """Runs a Watch in one block, with a detector that answers when it is told to."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.analyser = watch, watch.analyser
        self.answers: asyncio.Queue[None] = asyncio.Queue()
        self.analyser.search = self._search  # type: ignore[method-assign]
        self.under_way = 0

    async def _search(self, picture: Picture, scale: float, *, stream: str) -> list[FaceBox]:
        self.under_way += 1
        boxes = list(self.analyser.boxes)
        await self.answers.get()
        self.answers.task_done()
        self.under_way -= 1
        return boxes

    async def look(self, picture: Picture | None = None) -> Sight:
        if picture is not None:
            self.watch.picture = picture
        frame = _frame(self.watch)
        return await self.watch.follower.look(frame, Step.NOTHING)

    async def answer(self) -> None:
        self.answers.put_nowait(None)
        await self.answers.join()


def moved_by(x: int) -> Picture:
    """The still picture with everything in it moved to the right."""
    return Picture.from_bgr(np.roll(still().bgr(), x, axis=1))


async def _late(slow: Slow) -> None:
    async with slow.watch.follower:
        assert not (await slow.look(moved_by(0))).faces
        assert not (await slow.look(moved_by(8))).faces
        assert slow.under_way == 1, "one at a time"
        slow.analyser.boxes = [FaceBox(70, 20, 110, 60, 0.9)]
        await slow.answer()
        # Found where it was 16 px before, shown where it is now.
        (face,) = (await slow.look(moved_by(16))).faces
        assert face.box.x0 == pytest.approx(10 + 16, abs=2)
        # The next one was begun with that frame, and finds it 60 px further: as it was then.
        assert slow.under_way == 1
        await slow.look(moved_by(24))
        await slow.answer()
        (face,) = (await slow.look(moved_by(24))).faces
        # It has jumped to 70 there, and moved on by 8.
        assert face.box.x0 == pytest.approx(70 + 8, abs=2)
        assert (face.track, slow.under_way) == (1, 0)


def test_what_a_slow_detector_found_is_carried_to_the_frame_that_has_come_meanwhile(
    watch: Watch,
) -> None:
    watch._runner.run(_late(Slow(watch)))


def test_no_frame_waits_long_for_a_slow_detector(watch: Watch) -> None:
    slow = Slow(watch)

    async def looks() -> float:
        async with watch.follower:
            started = time.monotonic()
            await slow.look()
            passed = time.monotonic() - started
            await slow.answer()
        return passed

    assert 0.2 * 0.15 <= watch._runner.run(looks()) < 1.0


def test_where_frames_are_rare_each_waits_for_its_own_detection(watch: Watch) -> None:
    """The next one, a second later, would tell it a second later."""
    slow = Slow(watch)

    async def looks() -> Sight:
        async with watch.follower:
            watch.now += 0.9
            first = asyncio.create_task(slow.look())
            await asyncio.sleep(0.1)
            await slow.answer()
            await first
            watch.now += 0.9
            second = asyncio.create_task(slow.look())
            await asyncio.sleep(0.15)
            assert not second.done()
            await slow.answer()
            return await second

    (face,) = watch._runner.run(looks()).faces
    assert face.box.x0 == pytest.approx(SLOTS[0].x0, abs=2)


def test_a_face_does_not_leave_while_it_is_looked_for(watch: Watch) -> None:
    watch.looks(1)
    (face,) = watch.look().faces
    slow = Slow(watch)

    async def looks() -> Sight:
        async with watch.follower:
            watch.now += KEPT_SECONDS - 0.2
            await slow.look()
            watch.now += 0.3
            watch.leave()
            sight = await slow.look()
            await slow.answer()
            assert not sight.events
            sight = await slow.look()
            if slow.under_way:
                await slow.answer()
            return sight

    sight = watch._runner.run(looks())
    assert [seen.track for seen in sight.faces] == [face.track]
    assert FaceEventKind.LEFT not in [kind for kind, _, _ in watch.told()]


def test_where_faces_are_hidden_a_frame_waits_for_its_own_detection(private: Watch) -> None:
    slow = Slow(private)

    async def looks() -> Sight:
        async with private.follower:
            looking = asyncio.create_task(slow.look())
            await asyncio.sleep(0.3)
            assert not looking.done()
            await slow.answer()
            return await looking

    assert len(private._runner.run(looks()).hidden) == 1


def test_what_was_found_in_a_picture_of_another_size_is_let_go(watch: Watch) -> None:
    slow = Slow(watch)

    async def looks() -> None:
        async with watch.follower:
            await slow.look()
            await slow.answer()
            assert not (await slow.look(still(640, 192))).faces
            await slow.answer()
            assert (await slow.look()).faces
            await slow.answer()

    watch._runner.run(looks())


def test_an_error_of_the_detector_ends_the_block_and_the_next_one_looks_again(
    watch: Watch,
) -> None:
    search = watch.analyser.search

    async def broken(picture: Picture, scale: float, *, stream: str) -> list[FaceBox]:
        raise RuntimeError("the detector broke")

    watch.analyser.search = broken  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup, match="unhandled errors") as caught:
        watch.look()
    assert caught.group_contains(RuntimeError, match="the detector broke")
    watch.analyser.search = search  # type: ignore[method-assign]
    assert watch.looks(0.5).faces


def test_a_face_that_looks_changed_is_classified_at_once(watch: Watch) -> None:
    watch.looks(1.2, 1 / 30)
    while watch.analyser.crops[-1]:
        watch.look(1 / 30)
    changed = watch.picture.bgr()
    changed[40:64, 8:54] = 250
    watch.picture = Picture.from_bgr(changed)
    watch.analyser.crops.clear()
    watch.look(1 / 30)
    assert watch.analyser.crops == [1]


def test_each_step_of_shedding_leaves_out_more(watch: Watch) -> None:
    seen = []
    for step in Step:
        watch.looks(1, 1 / 30, step)
        watch.analyser.scales.clear()
        watch.analyser.crops.clear()
        watch.looks(6, 1 / 30, step)
        seen.append(
            (len(watch.analyser.scales), watch.analyser.scales[0], sum(watch.analyser.crops))
        )
    detections, scales, crops = zip(*seen, strict=True)
    assert detections[0] > 1.5 * detections[1]
    assert detections[1] == pytest.approx(detections[3], abs=1)
    assert detections[3] > 1.3 * detections[4]
    assert scales == (1.0, 1.0, 0.75, 0.75, 0.75)
    assert crops[2] > 2 * crops[3]
    assert len(watch.events) == 1


def test_a_change_of_picture_size_keeps_the_face(watch: Watch) -> None:
    watch.looks(1)
    watch.picture = still(640, 192)
    watch.analyser.boxes = [FaceBox(20, 40, 100, 120, 0.9)]
    sight = watch.look()
    assert sight.faces[0].box.x0 == pytest.approx(20, abs=1)
    watch.looks(1)
    assert len(watch.events) == 1


def test_boxes_are_drawn_inside_the_picture(watch: Watch) -> None:
    watch.analyser.boxes = [FaceBox(-20, 30, 30, 90, 0.9), FaceBox(290, 40, 340, 100, 0.9)]
    for face in watch.looks(1).faces:
        assert 0 <= face.box.x0 < face.box.x1 <= 320
        assert 0 <= face.box.y0 < face.box.y1 <= 96


def test_an_overloaded_batcher_costs_crops_and_no_face(watch: Watch) -> None:
    watch.looks(1)
    watch.analyser.error = Overloaded("256 crops wait")
    sight = watch.looks(2)
    assert sight.faces[0].verdict is Verdict.WITHOUT_MASK
    watch.analyser.error = None
    watch.looks(1)
    assert len(watch.events) == 1


def test_faces_of_a_silent_source_leave(watch: Watch) -> None:
    watch.looks(1)
    watch.now += KEPT_SECONDS - 0.3
    watch.leave()
    assert len(watch.events) == 1
    watch.now += 0.6
    watch.leave()
    watch.leave(all_faces=True)
    assert [event.kind for event in watch.events] == [APPEARED, LEFT]


def test_nothing_is_kept_of_faces_that_have_gone(watch: Watch) -> None:
    """Else a door that thousands pass would fill the memory."""
    watch.looks(1)
    watch.leave(all_faces=True)
    assert watch.follower._people == {}


def test_nobody_leaves_while_a_frame_is_looked_at(watch: Watch) -> None:
    watch.looks(1)

    async def both() -> list[FaceEvent]:
        watch.analyser.seconds = 0.2
        watch.analyser.probabilities = MASK
        frame = Frame("gate", 99, watch.now + 0.3, EPOCH, None, watch.picture)
        looking = asyncio.create_task(watch._looked(frame, Step.NOTHING))
        await asyncio.sleep(0)
        gone = watch.follower.leave(watch.now, EPOCH, all_faces=True)
        await looking
        return gone

    assert watch._runner.run(both()) == []


def _frame(watch: Watch) -> Frame:
    watch.now += 0.1
    return Frame("gate", 1000, watch.now, EPOCH + watch.now, None, watch.picture)


def test_no_frame_waits_for_a_settled_face_and_it_is_asked_about_once(watch: Watch) -> None:
    watch.looks(1)

    async def looks_while_the_classifier_thinks() -> list[int]:
        watch.analyser.seconds = 3600
        watch.analyser.crops.clear()
        try:
            async with asyncio.timeout(10), watch.follower:
                for _ in range(8):
                    sight = await watch.follower.look(_frame(watch), Step.NOTHING)
                    assert sight.faces[0].verdict is Verdict.WITHOUT_MASK
                asked = list(watch.analyser.crops)
                assert len(asyncio.all_tasks()) == 2
                raise StopAsyncIteration
        except* StopAsyncIteration:
            assert len(asyncio.all_tasks()) == 1
        return asked

    assert sum(watch._runner.run(looks_while_the_classifier_thinks())) == 1
    watch.analyser.seconds = 0
    watch.analyser.crops.clear()
    watch.looks(1)
    assert 4 <= sum(watch.analyser.crops) <= 6, "asked again after the block had ended"


def test_a_recheck_that_was_shed_is_asked_for_again(watch: Watch) -> None:
    watch.looks(1)
    watch.analyser.error = Overloaded("too many faces wait")
    watch.analyser.crops.clear()
    watch.looks(1)
    assert sum(watch.analyser.crops) >= 8
    assert len(watch.events) == 1


def test_an_error_in_a_recheck_ends_the_block(watch: Watch) -> None:
    watch.looks(1)
    watch.analyser.error = RuntimeError("the runtime broke")
    with pytest.raises(ExceptionGroup, match="unhandled errors") as caught:
        watch.looks(1)
    assert caught.group_contains(RuntimeError, match="the runtime broke")


def test_the_answer_of_an_earlier_frame_changes_nothing_after_a_later_one(watch: Watch) -> None:
    watch.looks(1)

    async def overtaken() -> None:
        async with watch.follower:
            watch.analyser.seconds, watch.analyser.probabilities = 0.2, MASK
            await watch.follower.look(_frame(watch), Step.NOTHING)
            await watch.follower.look(_frame(watch), Step.NOTHING)
            await asyncio.sleep(0.05)
            watch.analyser.seconds, watch.analyser.probabilities = 0, BARE
            changed = watch.picture.bgr()
            changed[40:64, 8:54] = 250
            watch.picture = Picture.from_bgr(changed)
            await watch.follower.look(_frame(watch), Step.NOTHING)

    seen = watch.follower._people[1].evidence
    watch._runner.run(overtaken())
    before = seen.seen
    watch.analyser.crops.clear()
    watch.look(0.05)
    assert seen.seen == before + sum(watch.analyser.crops)


class Sequences(RuleBasedStateMachine):
    """Whatever comes, in whatever order, each face has one story."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = Watch()
        self.watch.analyser.boxes = []
        self.checked = 0
        self.told: dict[int, Verdict] = {}
        self.gone: set[int] = set()

    @rule(slots=st.sets(st.integers(0, 2)), row=st.sampled_from([MASK, BARE, UNSURE]))
    def people_come_and_go(self, slots: set[int], row: tuple[float, ...]) -> None:
        self.watch.analyser.boxes = [SLOTS[slot] for slot in sorted(slots)]
        self.watch.analyser.probabilities = row

    @rule(
        frames=st.integers(1, 12),
        every=st.sampled_from([0.033, 0.1, 0.4, 2.0]),
        step=st.sampled_from(list(Step)),
    )
    def frames_come(self, frames: int, every: float, step: Step) -> None:
        for _ in range(frames):
            faces = self.watch.look(every, step).faces
            assert len({face.track for face in faces}) == len(faces)

    @rule(overloaded=st.booleans())
    def load(self, overloaded: bool) -> None:
        self.watch.analyser.error = Overloaded("too much") if overloaded else None

    @rule(size=st.sampled_from([(320, 96), (640, 192)]))
    def size_changes(self, size: tuple[int, int]) -> None:
        self.watch.picture = still(*size)

    @rule(silence=st.floats(0, 5))
    def source_is_silent(self, silence: float) -> None:
        self.watch.now += silence
        self.watch.leave()

    @precondition(lambda self: self.told)
    @rule()
    def source_ends(self) -> None:
        self.watch.leave(all_faces=True)
        self._check()
        assert set(self.told) == self.gone

    @invariant()
    def _check(self) -> None:
        events, self.checked = self.watch.events[self.checked :], len(self.watch.events)
        for event in events:
            assert event.track not in self.gone
            if event.kind is APPEARED:
                assert event.track not in self.told
            else:
                before = self.told[event.track]
                assert (event.kind is CHANGED) == (event.verdict is not before)
                assert event.previous is (before if event.kind is CHANGED else None)
            self.told[event.track] = event.verdict
            if event.kind is LEFT:
                self.gone.add(event.track)
            assert event.seconds >= 0
            assert 0 <= event.confidence <= 1

    def teardown(self) -> None:
        self.watch.leave(all_faces=True)
        self._check()
        assert set(self.told) == self.gone
        self.watch.close()


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
