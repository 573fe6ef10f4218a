"""Faces that nobody may see: where they were lost, and before they were found."""

import numpy as np
import pytest

from stream_server.frames import Analysis, FaceBox, Frame, Picture
from stream_server.track.conceal import HELD_SECONDS, LOST_SECONDS, Concealment, HoldBack
from stream_server.track.tracker import Move, Track, Tracker

BOX = FaceBox(10, 10, 50, 60, 0.45)


def track(number: int, box: FaceBox = BOX, *, missed: bool = False) -> Track:
    return Track(number, box, born=0.0, detected=0.0, at=0.0, sighted=box, missed=missed)


def moved(dx: float) -> FaceBox:
    return FaceBox(BOX.x0 + dx, BOX.y0, BOX.x1 + dx, BOX.y1, BOX.score)


def analysis(captured: float, hidden: dict[int, FaceBox], width: int = 64) -> Analysis:
    picture = Picture(np.full((width * 3 // 2, width), 100, np.uint8))
    return Analysis(Frame("ward", 1, captured, captured, None, picture), (), hidden)


def test_a_box_too_doubtful_to_be_shown_is_hidden() -> None:
    doubtful = track(1)
    assert not doubtful.shown(0.0)
    assert Concealment().regions([doubtful], 0.0) == {1: BOX}


def test_a_lost_face_is_hidden_where_it_was_and_where_it_may_have_gone() -> None:
    concealment = Concealment()
    concealment.regions([track(1)], 1.0)
    gone_on = concealment.regions([track(1, moved(80), missed=True)], 1.5)[1]
    assert (gone_on.x0, gone_on.x1) == (BOX.x0, BOX.x1 + 80)


def test_a_missed_face_is_hidden_on_the_way_that_its_pixels_went_too() -> None:
    """It sat still, so it has no pace; then it rose, and the detector lost it in the blur."""
    tracker, concealment = Tracker(), Concealment()
    for number in range(30):
        tracker.carry({1: Move(0.0, 0.0, 1.0)}, number / 30)
        tracker.update([BOX], number / 30)
    for number in range(30, 34):
        tracker.carry({1: Move(10.0, 0.0, 1.0)}, number / 30)
        concealment.regions(tracker.tracks, number / 30)
    for number in range(34, 44):
        tracker.carry({}, number / 30)
        tracker.update([], number / 30)
        (region,) = concealment.regions(tracker.tracks, number / 30).values()
        gone = 10.0 * (number - 29)
        assert region.x0 < BOX.x0 + 1
        assert region.x1 > BOX.x1 + gone - 0.2 * gone


def test_a_place_stays_hidden_for_a_second_after_its_track_is_given_up() -> None:
    concealment = Concealment()
    concealment.regions([track(1)], 1.0)
    assert concealment.regions([], 1.0 + LOST_SECONDS - 0.01) == {1: BOX}
    assert concealment.regions([], 1.0 + LOST_SECONDS + 0.01) == {}


def test_places_follow_the_pictures_size() -> None:
    concealment = Concealment()
    concealment.regions([track(1)], 1.0)
    concealment.rescale(2, 0.5)
    box = concealment.regions([], 1.1)[1]
    assert (box.x0, box.y0, box.x1, box.y1) == (20, 5, 100, 30)


def test_a_face_is_hidden_in_the_pictures_before_it_was_found() -> None:
    hold = HoldBack()
    times = [number / 30 for number in range(30)]
    found = 15
    shown = [
        due
        for number, at in enumerate(times)
        if (due := hold.pass_on(analysis(at, {7: BOX} if number >= found else {}))) is not None
    ]
    without = [due.frame.captured for due in shown if 7 not in due.hidden]
    assert max(without) < times[found] - HELD_SECONDS + 1 / 30
    assert shown[-1].frame.captured == pytest.approx(times[-1] - HELD_SECONDS, abs=1 / 30)


def test_what_was_known_of_a_face_in_its_own_picture_is_kept() -> None:
    hold = HoldBack()
    hold.pass_on(analysis(0.0, {1: BOX}))
    due = hold.pass_on(analysis(HELD_SECONDS, {1: moved(30), 2: moved(5)}))
    assert due is not None
    assert due.hidden == {1: BOX, 2: moved(5)}


def test_places_found_in_a_picture_of_another_size_are_scaled() -> None:
    hold = HoldBack()
    hold.pass_on(analysis(0.0, {}, width=128))
    due = hold.pass_on(analysis(HELD_SECONDS, {1: BOX}, width=64))
    assert due is not None
    assert (due.hidden[1].x0, due.hidden[1].x1) == (20, 100)


def test_pictures_do_not_gather() -> None:
    hold = HoldBack()
    for number in range(500):
        hold.pass_on(analysis(number * 1e-4, {}))
    assert len(hold._held) <= 31


@pytest.mark.parametrize("fps", [2, 9, 30, 90, 120, 240])
def test_pictures_are_shown_however_fast_they_come(fps: int) -> None:
    hold, times = HoldBack(), [number / fps for number in range(3 * fps)]
    shown = [due.frame.captured for at in times if (due := hold.pass_on(analysis(at, {})))]
    assert len(shown) >= 3 * min(fps, 60) - max(2, 0.6 * fps)
    assert shown == sorted(shown)
    assert max(shown) > times[-1] - HELD_SECONDS - 2.5 / fps


def test_what_came_just_before_a_silence_is_not_shown_after_it() -> None:
    """No detection has looked at it, and none will: it may show a face that nobody knows of."""
    hold = HoldBack()
    for number in range(15):
        hold.pass_on(analysis(number / 30, {}))
    assert hold.pass_on(analysis(60.0, {7: BOX})) is None
    shown = [hold.pass_on(analysis(60.0 + number / 30, {})) for number in range(1, 12)]
    assert next(due.frame.captured for due in shown if due) >= 60.0
