"""The media clock, the backlog of a live reader, and what a decoder that is behind leaves out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_server.ingest.pace import JUMP_SECONDS, Backlog, CatchUp, Timeline

STAMPS = st.one_of(st.none(), st.floats(-1e7, 1e7), st.integers(0, 8).map(float))


@given(st.lists(st.tuples(STAMPS, st.floats(0, 100)), max_size=50))
def test_media_time_never_runs_backwards_and_never_leaps(steps):
    timeline, last = Timeline(), None
    for stamp, elapsed in steps:
        media = timeline.place(stamp, elapsed)
        if last is not None:
            assert last <= media <= last + elapsed + JUMP_SECONDS + 1e-6
        last = media


def test_believable_time_stamps_are_kept_as_they_are():
    timeline = Timeline()
    assert [timeline.place(stamp, 0.0) for stamp in (7.0, 7.04, 7.08, 7.5)] == [
        7.0,
        7.04,
        7.08,
        7.5,
    ]


def test_a_jump_costs_as_much_time_as_has_passed():
    timeline = Timeline()
    for stamp, elapsed, expected in (
        (100.0, 0.0, 100.0),
        (90_000.0, 0.04, 100.04),
        (90_000.04, 0.04, 100.08),
        (3.0, 0.04, 100.12),
        (None, 0.04, 100.16),
        (3.08, 0.04, 100.24),
    ):
        assert abs(timeline.place(stamp, elapsed) - expected) < 1e-6


def test_packets_that_had_to_be_waited_for_are_never_behind():
    backlog = Backlog()
    # A network that gets ever slower: 20 ms more for each packet.
    for number in range(100):
        assert backlog.lag(number * 0.04, 10 + number * 0.06, waited=0.05) == 0.0


def test_a_decoder_slower_than_the_camera_falls_behind_and_catches_up():
    backlog = Backlog()
    backlog.lag(0.0, 10.0, waited=0.03)
    # Reads that had to wait for others of this process, not for the camera.
    lags = [backlog.lag(n * 0.04, 10 + n * 0.05, waited=0.02) for n in range(1, 101)]
    assert lags == sorted(lags)
    assert abs(lags[-1] - 1.0) < 0.01
    assert abs(backlog.lag(101 * 0.04, 15.1, waited=0.1) - (lags[-1] + 0.06 - 0.1)) < 0.001
    assert backlog.lag(102 * 0.04, 15.1, waited=1.0) == 0.0


def test_a_clock_that_drifts_is_no_backlog():
    backlog = Backlog()
    lags = [backlog.lag(n * 0.04 * 0.9995, 10 + n * 0.04, waited=0.0) for n in range(50_000)]
    assert max(lags) < 0.001


def test_a_fast_camera_whose_time_stamps_are_wrong_is_not_behind():
    backlog = Backlog()
    lags = [backlog.lag(n / 60 * 0.99, 10 + n / 60, waited=0.014) for n in range(6000)]
    assert max(lags) < 0.001


def test_pictures_that_are_shown_before_others_that_came_earlier_are_no_backlog():
    backlog = Backlog()
    order = [group + shown for group in range(0, 300, 3) for shown in (3, 1, 2)]
    lags = [backlog.lag(shown * 0.04, 10 + n * 0.04, waited=0.0) for n, shown in enumerate(order)]
    assert max(lags) < 0.001


def test_a_jump_of_the_cameras_clock_is_no_backlog():
    backlog = Backlog()
    backlog.lag(1000.0, 10.0, waited=0.03)
    assert backlog.lag(3.0, 10.04, waited=0.0) == 0.0
    assert abs(backlog.lag(3.04, 10.18, waited=0.0) - 0.1) < 0.001


def test_packets_without_time_stamps_are_not_behind():
    assert Backlog().lag(None, 10.0, waited=0.0) == 0.0


def admitted(catch_up: CatchUp, lags, keys=(), start=0.0) -> list[bool]:
    return [
        catch_up.admit(lag=lag, is_key=number in keys, now=start + number * 0.04)
        for number, lag in enumerate(lags)
    ]


def test_everything_is_decoded_on_time():
    catch_up = CatchUp()
    assert admitted(catch_up, [0.0, 0.1, 0.29] * 10) == [True] * 30
    assert not catch_up.skip_unreferenced


def test_a_little_behind_leaves_out_what_nothing_refers_to_until_it_has_caught_up():
    catch_up = CatchUp(soft=0.3)
    seen = []
    for lag in (0.2, 0.35, 0.2, 0.11, 0.09, 0.2):
        assert catch_up.admit(lag=lag, is_key=False, now=0.0)
        seen.append(catch_up.skip_unreferenced)
    assert seen == [False, True, True, True, False, False]


def test_far_behind_leaves_out_all_up_to_a_key_frame_that_is_on_time():
    lags = [0.0, 1.6, 1.6, 1.4, 1.4, 0.2, 0.2, 0.1, 0.1]
    keys = {3, 7}
    # The late key frame 3 gives a picture, but those after it would be late again.
    expected = [True, False, False, True, False, False, False, True, True]
    assert admitted(CatchUp(hard=1.5), lags, keys) == expected


def test_a_camera_that_sends_no_key_frames_is_not_left_out_for_ever():
    catch_up = CatchUp(hard=1.5, patience=2.0)
    given_up = admitted(catch_up, [1.6] + [0.0] * 60)
    assert given_up.index(True) == 50
    assert all(given_up[50:])


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200))
def test_a_key_frame_is_always_decoded(packets):
    catch_up = CatchUp()
    for number, (lag, is_key) in enumerate(packets):
        decoded = catch_up.admit(lag=lag, is_key=is_key, now=number * 0.04)
        assert decoded or not is_key or lag >= 1.5
