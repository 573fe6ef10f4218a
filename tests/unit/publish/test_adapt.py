"""The size that a viewer's reports lead to; one report of each kind a second."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from stream_server.publish.adapt import DOWN_SECONDS, UP_SECONDS, RenditionChoice
from stream_server.publish.rendition import SIZES

RATES = {"full": 2_000_000.0, "half": 500_000.0, "thumb": 150_000.0}


def play(
    choice: RenditionChoice,
    seconds: int,
    line: Callable[[float], tuple[float, float]],
    start: float = 0.0,
) -> list[str]:
    """The size after each second, for `line(rate)`: what it makes of (estimate, loss)."""
    sizes = []
    for second in range(seconds):
        rate = RATES[choice.size]
        estimate, loss = line(rate)
        choice.heard(estimate, None, rate=rate, now=start + second)
        sizes.append(choice.heard(None, loss, rate=rate, now=start + second + 0.5))
    return sizes


def narrow(bits: float) -> Callable[[float], tuple[float, float]]:
    """A line of so many bits/s, as Chromium reports it."""
    return lambda rate: (
        (0.85 * bits, 1 - bits / rate) if rate > bits else (min(1.5 * rate, bits), 0.0)
    )


def good(rate: float) -> tuple[float, float]:
    return 1.3 * rate, 0.0


def test_a_line_that_takes_it_gets_the_full_picture_for_ever() -> None:
    assert set(play(RenditionChoice(), 300, good)) == {"full"}


def test_a_narrow_line_goes_down_within_seconds_and_no_further_than_needed() -> None:
    sizes = play(RenditionChoice(), 9, narrow(800_000))
    assert sizes.index("half") <= DOWN_SECONDS + 1
    assert sizes[-1] == "half"
    assert "thumb" in play(RenditionChoice(), 9, narrow(200_000))


def test_one_bad_report_changes_nothing() -> None:
    choice = RenditionChoice()
    play(choice, 5, good)
    choice.heard(100_000.0, 0.5, rate=RATES["full"], now=5.0)
    assert set(play(choice, 20, good, start=6.0)) == {"full"}


def test_it_comes_back_once_the_line_is_good_again() -> None:
    choice = RenditionChoice()
    assert play(choice, 10, narrow(100_000))[-1] == "thumb"
    sizes = play(choice, 60, good, start=10)
    assert sizes[-1] == "full"
    assert sizes.index("half") >= UP_SECONDS - 1


def test_trials_on_a_line_that_stays_narrow_grow_rare() -> None:
    choice = RenditionChoice()
    sizes = play(choice, 900, narrow(800_000))
    up = [n for n in range(1, len(sizes)) if sizes[n] == "full" and sizes[n - 1] != "full"]
    early, late = [n for n in up if n < 300], [n for n in up if n >= 600]
    assert early
    assert len(late) <= 3
    assert sizes[600:].count("full") < 0.05 * 300


def test_little_loss_neither_helps_nor_hurts() -> None:
    choice = RenditionChoice("half")
    assert set(play(choice, 60, lambda rate: (1.3 * rate, 0.05))) == {"half"}


def test_a_still_picture_with_a_low_rate_is_no_sign_of_a_narrow_line() -> None:
    """The receiver's estimate follows what it is sent."""
    choice = RenditionChoice()
    for second in range(60):
        assert choice.heard(60_000, 0.0, rate=50_000, now=float(second)) == "full"


@given(
    st.lists(
        st.tuples(st.none() | st.floats(0, 1e8), st.none() | st.floats(0, 1), st.floats(0, 1e7)),
        max_size=60,
    )
)
def test_any_reports_move_by_one_size_at_a_time(
    reports: list[tuple[float | None, float | None, float]],
) -> None:
    choice = RenditionChoice()
    for second, (estimate, loss, rate) in enumerate(reports):
        before = SIZES.index(choice.size)
        after = SIZES.index(choice.heard(estimate, loss, rate=rate, now=float(second)))
        assert abs(after - before) <= 1
