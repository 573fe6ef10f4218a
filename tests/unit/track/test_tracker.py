from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.frames import FaceBox
from stream_server.track.tracker import (
    KEPT_SECONDS,
    SHOWN_SECONDS,
    Earlier,
    Move,
    Tracker,
    distance_iou,
    iou,
    match,
    moved,
    scaled,
)

EVERY = 0.2
NOTHING: Mapping[int, Move] = {}


def face(x: float, y: float = 100.0, side: float = 60.0, score: float = 0.9) -> FaceBox:
    """A face whose centre is at (x, y)."""
    return FaceBox(x - side / 2, y - side / 2, x + side / 2, y + side / 2, score)


def centre(box: FaceBox) -> float:
    return (box.x0 + box.x1) / 2


def watch(tracker: Tracker, detections: Iterable[list[FaceBox]]) -> list[set[int]]:
    """Detections each 0.2 s, carried between by speed alone; the ids after each."""
    ids = []
    for number, boxes in enumerate(detections):
        now = number * EVERY
        tracker.carry(NOTHING, now)
        tracker.update(boxes, now)
        tracker.expire(now)
        ids.append({track.id for track in tracker.tracks})
    return ids


def flow(tracker: Tracker, speed: Mapping[int, float], seconds: float) -> dict[int, Move]:
    """What optical flow would say of faces that go at these speeds (px/s)."""
    return {t.id: Move(speed[t.id] * seconds, 0.0, 1.0) for t in tracker.tracks if t.id in speed}


def test_a_face_keeps_its_id() -> None:
    assert watch(Tracker(), [[face(100 + 10 * n)] for n in range(20)]) == [{1}] * 20


def test_two_faces_side_by_side_stay_apart_whatever_the_order_of_detections() -> None:
    tracker = Tracker()
    pairs = [[face(100), face(158)], [face(158), face(100)]]
    assert watch(tracker, [pairs[n % 2] for n in range(20)]) == [{1, 2}] * 20
    assert [round(centre(track.box)) for track in tracker.tracks] == [100, 158]


def test_a_face_that_comes_gets_a_new_id_and_disturbs_nobody() -> None:
    ids = watch(Tracker(), [[face(100)], [face(100)], [face(100), face(400)]])
    assert ids == [{1}, {1}, {1, 2}]


def test_missed_detections_do_not_cost_the_id() -> None:
    seen = [[face(100)]] * 3
    assert watch(Tracker(), seen + [[]] * 5 + seen)[-1] == {1}


def test_a_face_that_has_gone_is_returned_once_and_its_id_never_used_again() -> None:
    tracker = Tracker()
    watch(tracker, [[face(100)]] * 3)
    tracker.update([], 1.0)
    assert tracker.expire(1.0) == []
    gone = tracker.expire(0.4 + KEPT_SECONDS + 0.01)
    assert [track.id for track in gone] == [1]
    assert tracker.expire(99.0) == []
    tracker.update([face(100)], 99.0)
    assert [track.id for track in tracker.tracks] == [2]


def test_a_box_seen_once_is_dropped_at_the_first_miss() -> None:
    tracker = Tracker()
    tracker.update([face(100)], 0.0)
    tracker.update([], 0.1)
    assert [track.id for track in tracker.expire(0.1)] == [1]


def test_only_sure_or_confirmed_faces_are_shown_and_not_long_after_the_last_detection() -> None:
    tracker = Tracker()
    tracker.update([face(100, score=0.5), face(300, score=0.7)], 0.0)
    assert [track.shown(0.0) for track in tracker.tracks] == [False, True]
    tracker.update([face(100, score=0.5), face(300, score=0.7)], 0.1)
    tracker.carry(NOTHING, 0.2)
    assert all(track.shown(0.1 + SHOWN_SECONDS - 0.01) for track in tracker.tracks)
    assert not any(track.shown(0.1 + SHOWN_SECONDS + 0.01) for track in tracker.tracks)


def test_a_face_whose_pixels_are_followed_is_shown_until_a_detection_misses_it() -> None:
    tracker = Tracker()
    for now in (0.0, 0.1):
        tracker.update([face(100)], now)
    still = {1: Move(0.0, 0.0, 1.0)}
    tracker.carry(still, 0.1 + KEPT_SECONDS - 0.01)
    (track,) = tracker.tracks
    assert track.shown(0.1 + KEPT_SECONDS - 0.01)
    assert not track.shown(0.1 + KEPT_SECONDS + 0.01)
    tracker.update([], 0.1 + KEPT_SECONDS - 0.01)
    assert not track.shown(0.1 + KEPT_SECONDS - 0.01)


def test_what_was_found_in_an_earlier_frame_is_brought_to_this_one() -> None:
    tracker = Tracker()
    for now in (0.0, 0.1):
        tracker.update([face(100), face(300)], now)
    places = tracker.places
    tracker.carry({1: Move(30.0, 0.0, 1.2), 2: Move(0.0, 0.0, 1.0)}, 0.3)
    # Of the frame of 0.1: the first face a little further than thought, the second gone, a new one.
    found = [face(110), face(500)]
    tracker.update(found, 0.3, Earlier(0.1, places, {1: Move(-20.0, 0.0, 1.0)}))
    first, second, new = tracker.tracks
    assert centre(first.box) == pytest.approx(100 + 0.7 * 10 + 30)
    assert first.box.x1 - first.box.x0 == pytest.approx(60 * 1.2)
    assert (first.hits, first.detected, first.missed) == (3, 0.1, False)
    assert second.missed
    assert (centre(new.box), new.born, new.detected, new.at) == (480, 0.1, 0.1, 0.3)


def test_a_face_that_has_come_since_an_earlier_frame_is_not_missed_in_it() -> None:
    tracker = Tracker()
    places = tracker.places
    tracker.update([face(100)], 0.2)
    tracker.update([], 0.3, Earlier(0.1, places, {}))
    assert not tracker.tracks[0].missed


def test_a_face_too_fast_to_be_followed_is_judged_when_its_place_is_known() -> None:
    """Each search takes 0.15 s. The background where the face was can be followed perfectly."""
    tracker, still = Tracker(), {1: Move(0.0, 0.0, 1.0)}
    known = []
    for searched in (0.0, 0.2, 0.4):
        tracker.carry(still, searched)
        places = tracker.places
        tracker.carry(still, searched + 0.15)
        found = [face(100 + 400 * searched)]
        tracker.update(found, searched + 0.15, Earlier(searched, places, {}))
        (track,) = tracker.tracks
        known.append((track.in_sight, centre(track.box) - 100 - 400 * (searched + 0.15)))
    # Late by the search at first; then as its pace makes it; then there, to be followed.
    assert [in_sight for in_sight, _ in known] == [False, False, True]
    assert known[0][1] == pytest.approx(-60)
    assert all(abs(off) < 20 for _, off in known[1:])
    tracker.carry({1: Move(20.0, 0.0, 1.0)}, 0.6)
    assert tracker.tracks[0].followed == 1


def test_a_box_that_has_jumped_is_no_jitter() -> None:
    tracker = Tracker()
    watch(tracker, [[face(100)]] * 3)
    tracker.update([face(150)], 0.6)
    assert [(track.id, centre(track.box)) for track in tracker.tracks] == [(1, 150)]


def test_faces_that_cross_keep_their_ids() -> None:
    """The nearer one, a little larger, hides the other for half a second of its way."""
    tracker, speed = Tracker(), {1: 150.0, 2: -150.0}
    for number in range(76):
        now = number / 25
        apart = 225 - 150 * now  # of each from the middle, signed
        tracker.carry(flow(tracker, speed, 1 / 25), now)
        if number % 5 == 0:
            near, far = face(400 - apart, side=70), face(400 + apart)
            hidden = abs(2 * apart) < 40
            tracker.update([near] if hidden else [near, far], now)
            tracker.expire(now)
    places = {track.id: centre(track.box) for track in tracker.tracks}
    assert places == {1: pytest.approx(625, abs=12), 2: pytest.approx(175, abs=12)}


def test_a_face_that_passes_behind_a_pillar_is_the_same_afterwards() -> None:
    tracker = Tracker()
    for number in range(60):
        now, x = number / 25, 100 + 120 * number / 25
        tracker.carry(flow(tracker, {1: 120.0}, 1 / 25), now)
        if number % 5 == 0:
            tracker.update([] if 180 <= x <= 270 else [face(x)], now)
            tracker.expire(now)
    assert [track.id for track in tracker.tracks] == [1]


def test_a_much_larger_face_in_the_same_place_is_another_one() -> None:
    tracker = Tracker()
    watch(tracker, [[face(100, side=40)]] * 3)
    tracker.update([face(100, side=100)], 1.0)
    assert [track.id for track in tracker.tracks] == [1, 2]


def test_a_change_of_picture_size_keeps_ids_places_and_speeds() -> None:
    tracker = Tracker()
    tracker.update([face(100)], 0.0)
    tracker.carry({1: Move(8.0, 0.0, 1.0)}, 0.04)
    tracker.update([face(108)], 0.04)
    speed, pace = tracker.tracks[0].velocity[0], tracker.tracks[0].pace[0]
    assert speed > 0
    assert pace > 0
    tracker.rescale(0.5, 0.5)
    (track,) = tracker.tracks
    assert track.velocity[0] == pytest.approx(speed / 2)
    assert track.pace[0] == pytest.approx(pace / 2)
    assert centre(track.sighted) == pytest.approx(54)
    tracker.update([face(54, 50, 30)], 0.05)
    assert (track.id, track.hits) == (1, 3)
    assert centre(track.box) == pytest.approx(54)


def test_between_detections_boxes_go_with_their_pixels() -> None:
    tracker = Tracker()
    tracker.update([face(100), face(300)], 0.0)
    tracker.carry({1: Move(5.0, -2.0, 1.1, 0.7)}, 0.04)
    first, second = tracker.tracks
    assert (centre(first.box), first.box.x1 - first.box.x0) == pytest.approx((105, 66))
    assert (first.followed, second.followed) == (0.7, 0.0)
    assert centre(second.box) == 300


def test_a_missed_face_does_not_go_with_the_pixels_that_hide_it() -> None:
    tracker = Tracker()
    watch(tracker, [[face(100)]] * 2)
    tracker.update([], 0.3)
    tracker.carry({1: Move(20.0, 0.0, 1.0)}, 0.34)
    assert centre(tracker.tracks[0].box) == 100


@pytest.mark.parametrize("late", [0.0, 0.12])
def test_a_face_that_was_followed_into_whoever_hid_it_goes_on_at_its_own_pace(late: float) -> None:
    tracker = Tracker()
    for number in range(11):
        now = number / 10
        tracker.carry(flow(tracker, {1: 100.0}, 0.1), now)
        tracker.update([face(100 + 100 * now)], now)
    tracker.carry(flow(tracker, {1: -300.0}, 0.1), 1.1)
    places = tracker.places
    tracker.carry(flow(tracker, {1: -300.0}, late), 1.1 + late)
    tracker.update([], 1.1 + late, Earlier(1.1, places, {}))
    (track,) = tracker.tracks
    assert track.missed
    assert centre(track.box) == pytest.approx(100 + 100 * (1.1 + late), abs=3)
    assert track.velocity[0] == pytest.approx(100, rel=0.15)


def test_a_missed_face_goes_on_evenly_however_often_it_is_looked_for() -> None:
    tracker, once = Tracker(), Tracker()
    for each in (tracker, once):
        watch(each, [[face(100 + 20 * n)] for n in range(8)])
        each.update([], 1.4)
    for now in (1.5, 1.6, 1.7, 1.8, 1.9):
        tracker.carry(NOTHING, now)
    once.carry(NOTHING, 1.9)
    carried = centre(tracker.tracks[0].box)
    assert carried == pytest.approx(centre(once.tracks[0].box))
    tracker.update([], 1.9)
    assert centre(tracker.tracks[0].box) == pytest.approx(carried)


def test_the_jitter_of_detections_close_together_is_no_pace() -> None:
    tracker = Tracker()
    for number in range(40):
        now = number * 0.04
        tracker.carry({1: Move(0.0, 0.0, 1.0)}, now)
        tracker.update([face(100 + 3 * (-1) ** number)], now)
    assert abs(tracker.tracks[0].pace[0]) < 40  # 3 px to and fro at 25 detections/s: 105 px/s
    assert centre(tracker.tracks[0].box) == pytest.approx(100, abs=3)


def test_without_a_look_at_the_picture_a_face_slows_down() -> None:
    tracker = Tracker()
    tracker.update([face(100)], 0.0)
    for number in range(1, 26):
        tracker.carry({1: Move(4.0, 0.0, 1.0)}, number / 25)
    at, speed = centre(tracker.tracks[0].box), tracker.tracks[0].velocity[0]
    assert speed == pytest.approx(100, rel=0.01)
    tracker.carry(NOTHING, 1.2)
    assert at + 0.18 * speed < centre(tracker.tracks[0].box) < at + 0.2 * speed
    assert 0 < tracker.tracks[0].velocity[0] < speed


def test_at_a_time_that_stands_still_or_goes_back_boxes_go_with_their_pixels_all_the_same() -> None:
    """Pictures between others (B-frames) arrive after the ones that are shown before them."""
    tracker = Tracker()
    for number in range(40):
        now = (number if number % 3 else number - 1) / 25
        tracker.carry({1: Move(4.0, 0.0, 1.0)}, now)
        if number == 0:
            tracker.update([face(100)], now)
    (track,) = tracker.tracks
    assert centre(track.box) == pytest.approx(100 + 39 * 4)
    assert track.velocity[0] == pytest.approx(100, rel=0.5)
    assert track.at == 38 / 25


def test_a_detection_pulls_the_box_and_brings_its_score_and_landmarks() -> None:
    tracker = Tracker()
    tracker.update([face(100)], 0.0)
    found = FaceBox(80, 70, 140, 130, 0.55, ((90.0, 80.0),))
    tracker.update([found], 0.2)
    box = tracker.tracks[0].box
    assert 100 < centre(box) < 110
    assert (box.score, box.landmarks) == (0.55, found.landmarks)


COORDINATE = st.floats(-500, 2000)
BOX = st.builds(
    lambda x, y, wide, high: FaceBox(x, y, x + wide, y + high, 0.7),
    COORDINATE,
    COORDINATE,
    st.floats(1, 800),
    st.floats(1, 800),
)


@settings(deadline=None)
@given(st.lists(BOX, max_size=8), st.lists(BOX, max_size=8))
def test_nobody_is_matched_twice(tracks: list[FaceBox], boxes: list[FaceBox]) -> None:
    pairs = match(tracks, boxes)
    assert len(set(pairs.values())) == len(pairs)
    assert set(pairs) <= set(range(len(tracks)))
    assert set(pairs.values()) <= set(range(len(boxes)))


@settings(deadline=None)
@given(BOX, BOX)
def test_overlap_is_a_share_and_distance_only_lowers_it(a: FaceBox, b: FaceBox) -> None:
    assert 0 <= iou(a, b) <= 1 + 1e-9
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert -1 - 1e-9 <= distance_iou(a, b) <= iou(a, b)
    assert distance_iou(a, a) == pytest.approx(1)


@settings(deadline=None)
@given(BOX, st.floats(0.2, 5), st.floats(0.2, 5))
def test_scaling_there_and_back_is_nothing(box: FaceBox, x: float, y: float) -> None:
    back = scaled(scaled(box, x, y), 1 / x, 1 / y)
    assert (back.x0, back.y1) == pytest.approx((box.x0, box.y1))


def test_landmarks_move_with_their_box() -> None:
    box = FaceBox(0, 0, 10, 10, 0.9, ((5.0, 5.0), (10.0, 0.0)))
    assert moved(box, Move(3, 1, 2)).landmarks == ((8.0, 6.0), (18.0, -4.0))


STEP = st.tuples(
    st.lists(BOX, max_size=5), st.floats(0.0, 2.0), st.booleans(), st.floats(-1e3, 1e3)
)


@settings(deadline=None)
@given(st.lists(STEP, max_size=30))
def test_ids_are_unique_and_rise_and_nothing_stops_being_a_number(steps: list[tuple]) -> None:
    tracker, now, ever = Tracker(), 0.0, list[int]()
    for boxes, after, detect, dx in steps:
        now += after
        tracker.carry({t.id: Move(dx, -dx, 1.03) for t in tracker.tracks[::2]}, now)
        if detect:
            tracker.update(boxes, now)
        tracker.expire(now)
        ids = [track.id for track in tracker.tracks]
        new = [one for one in ids if one not in ever]
        assert len(set(ids)) == len(ids)
        assert all(one > max(ever, default=0) for one in new)
        ever += sorted(new)
        for track in tracker.tracks:
            box = track.box
            assert np.isfinite((box.x0, box.y0, box.x1, box.y1, *track.velocity)).all()
            assert box.x1 > box.x0
            assert now - track.detected <= KEPT_SECONDS
