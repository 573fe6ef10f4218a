import pytest

from stream_server.frames import FaceBox
from stream_server.track.cadence import (
    LONGEST_SECONDS,
    Effort,
    classification_due,
    detection_due,
)
from stream_server.track.tracker import KEPT_SECONDS, Track

BOX = FaceBox(0, 0, 10, 10, 0.9)
STILL, MOVING = 0.0, 0.02
FULL = Effort()


def track(hits: int = 2, *, missed: bool = False) -> Track:
    return Track(1, BOX, 0.0, 0.0, 0.0, BOX, hits, missed)


def first_due(tracks: list[Track], change: float, *, lost: bool, effort: Effort = FULL) -> float:
    """Hundredths of a second until a detection."""
    return next(n for n in range(200) if detection_due(tracks, n / 100, change, lost, effort))


@pytest.mark.parametrize(
    ("tracks", "change", "lost", "hundredths"),
    [
        ([], STILL, False, 25),
        ([], MOVING, False, 10),
        ([track()], STILL, False, 20),
        ([track()], MOVING, False, 20),
        ([track()], MOVING, True, 10),
        ([track(), track(missed=True)], STILL, False, 10),
        ([track(), track(hits=1)], STILL, False, 4),
    ],
    ids=["empty", "somebody comes", "steady", "steady moves", "flow lost", "missed", "new"],
)
def test_detection_comes_sooner_where_more_is_unknown(
    tracks: list[Track], change: float, lost: bool, hundredths: float
) -> None:
    assert first_due(tracks, change, lost=lost) == hundredths


def test_load_makes_detection_rarer() -> None:
    assert first_due([track()], STILL, lost=False, effort=Effort(detect=2)) == 40


def test_other_streams_detections_make_it_rarer_too_but_not_without_end() -> None:
    def first(least: float, effort: Effort = FULL) -> float:
        return next(
            n for n in range(500) if detection_due([track()], n / 100, STILL, False, effort, least)
        )

    assert first(0.1) == 20
    assert first(0.5) == 50
    assert first(0.5, Effort(detect=2)) == 100
    assert first(9.0) == 100 * LONGEST_SECONDS < 100 * KEPT_SECONDS


def test_a_camera_of_a_frame_a_second_is_not_left_alone_for_longer_than_ids_are_kept() -> None:
    def gap(every: float) -> float:
        """Seconds between two detections, the last of which comes with the frame after it."""
        times = [every * n * 0.98 for n in range(1, 100)]
        due = (t for t in times if detection_due([track()], t, STILL, False, FULL, 9.0, every))
        return next(due)

    assert all(gap(every) <= LONGEST_SECONDS for every in (0.03, 0.2, 0.5, 1.0, 1.5, 2.0))


def test_the_first_frame_is_always_looked_at() -> None:
    assert detection_due([], float("inf"), STILL, False, Effort(detect=3))
    assert classification_due(False, 1.0, float("inf"), Effort(recheck=3))


def test_only_a_settled_face_that_looks_as_before_waits_for_its_next_crop() -> None:
    assert not classification_due(True, 1.0, 0.15, FULL)
    assert classification_due(True, 1.0, 0.2, FULL)
    assert classification_due(False, 1.0, 0.001, FULL)
    assert classification_due(True, 0.5, 0.001, FULL)


def test_load_makes_only_repeated_classifications_rarer() -> None:
    less = Effort(recheck=3)
    assert not classification_due(True, 1.0, 0.5, less)
    assert classification_due(True, 1.0, 0.6, less)
    assert classification_due(False, 1.0, 0.001, less)
    assert classification_due(True, 0.5, 0.001, less)
