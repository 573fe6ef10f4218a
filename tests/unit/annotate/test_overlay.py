"""What is drawn: where, in which colour, on any picture, without touching the original."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.annotate import banner, caption, draw
from stream_server.annotate.overlay import INKS, WORDS, _tile
from stream_server.frames import Face, FaceBox, Picture, Pixels, Verdict
from tests.peers import ROOT


def grey(width: int, height: int, value: int = 130) -> Picture:
    return Picture.from_bgr(np.full((height, width, 3), value, np.uint8))


def face(
    x0: float, y0: float, x1: float, y1: float, verdict: Verdict = Verdict.WITH_MASK, **more: object
) -> Face:
    return Face(FaceBox(x0, y0, x1, y1, 0.9), verdict, 0.987, (0.987, 0.01, 0.003), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("size", [(320, 240), (640, 480), (1920, 1080)])
def test_box_has_the_colour_of_its_verdict(verdict: Verdict, size: tuple[int, int]) -> None:
    width, height = size
    picture = grey(width, height)
    drawn = draw(picture, [face(width / 4, height / 4, width / 2, height / 2, verdict)])
    ink = INKS[verdict]
    x, y = width // 4 & ~1, height * 3 // 8
    assert (drawn.y[y, x], drawn.u[y // 2, x // 2], drawn.v[y // 2, x // 2]) == (
        ink.y,
        ink.u,
        ink.v,
    )
    middle = np.s_[height * 3 // 8 - 8 : height * 3 // 8 + 8, width * 3 // 8 - 8 : width * 3 // 8]
    assert np.array_equal(drawn.y[middle], picture.y[middle]), "the face itself stays visible"
    far = np.s_[height * 3 // 4 :]
    assert np.array_equal(drawn.y[far], picture.y[far])


def test_a_hidden_face_is_a_mosaic_of_few_cells_and_keeps_its_box_and_label() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    picture, seen = Picture.from_bgr(noise), face(200, 150, 300, 270, Verdict.WITHOUT_MASK)
    drawn = draw(picture, [seen], [seen.box])
    inner = drawn.y[160:260, 210:290]
    assert len(np.unique(inner)) <= 8 * 8, "no more than the cells' colours are left"
    for plane, whole in ((drawn.u, picture.u), (drawn.v, picture.v)):
        assert len(np.unique(plane[80:130, 105:145])) <= 8 * 8 < len(np.unique(whole[80:130]))
    around = hidden_part(picture, drawn)
    assert around.shape[0] >= 120 * 1.5
    assert around.shape[1] >= 100 * 1.5
    assert drawn.y[210, 200] == INKS[Verdict.WITHOUT_MASK].y, "the box is still there"
    assert np.array_equal(drawn.y[400:], picture.y[400:])


def hidden_part(picture: Picture, drawn: Picture) -> Pixels:
    rows, columns = np.nonzero(drawn.y != picture.y)
    return drawn.y[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 60).map(lambda half: 2 * half),
    st.integers(1, 60).map(lambda half: 2 * half),
    st.tuples(*[st.floats(-200, 300)] * 4),
)
def test_nothing_of_a_hidden_box_stays_as_it_was(
    width: int, height: int, corners: tuple[float, float, float, float]
) -> None:
    """Any size and place, the picture's edges among them: at most 9 x 9 values are left."""
    noise = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    picture = Picture.from_bgr(noise)
    drawn = draw(picture, [], [FaceBox(*corners, 0.5)])
    x0, y0, x1, y1 = (int(max(corner, 0)) for corner in corners)
    inside = drawn.y[y0 : max(y1, 0), x0 : max(x1, 0)]
    assert len(np.unique(inside)) <= 9 * 9
    if inside.size > 200:
        assert (inside != picture.y[y0:y1, x0:x1]).mean() > 0.8


@pytest.mark.parametrize("file", ["frontend/src/view/words.ts", "docs/guide.md"])
def test_picture_page_and_guide_say_the_same_words(file: str) -> None:
    text = (ROOT / file).read_text()
    for verdict, words in WORDS.items():
        row = rf'(  {verdict}: "|`{verdict}` \| ){words}("| \|)'
        assert re.search(row, text), f"{file} has another word than {words!r} for {verdict}"


def test_original_stays_as_it_was() -> None:
    picture = grey(320, 240)
    before = picture.i420.copy()
    draw(picture, [face(10, 40, 90, 120)])
    banner(picture, "No picture for 12 s")
    assert np.array_equal(picture.i420, before)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60).map(lambda half: 2 * half),
    st.integers(1, 60).map(lambda half: 2 * half),
    st.lists(st.tuples(*[st.floats(-200, 300, width=32)] * 4), max_size=5),
)
def test_any_picture_and_any_faces(
    width: int, height: int, boxes: list[tuple[float, float, float, float]]
) -> None:
    drawn = draw(grey(width, height), [face(*box) for box in boxes])
    assert drawn.i420.shape == (height * 3 // 2, width)
    assert banner(drawn, "No picture for 12 s").i420.shape == drawn.i420.shape


def test_face_outside_leaves_no_trace() -> None:
    picture = grey(64, 48)
    for box in ((-50, -50, -1, -1), (64, 0, 90, 20), (10, 10, 10, 40), (5, 5, float("nan"), 9)):
        assert np.array_equal(draw(picture, [face(*box)]).i420, picture.i420)


@pytest.mark.parametrize(
    ("verdict", "confidence", "track", "text"),
    [
        (Verdict.WITH_MASK, 0.987, None, "Mask 98 %"),
        (Verdict.WITHOUT_MASK, 0.9999, None, "No mask 99 %"),
        (Verdict.INCORRECT, 0.88, 7, "#7 Worn wrong 88 %"),
        (Verdict.UNCERTAIN, 0.51, None, "Uncertain"),
        (Verdict.WITH_MASK, 1.0, None, "Mask 100 %"),
    ],
)
def test_caption(verdict: Verdict, confidence: float, track: int | None, text: str) -> None:
    assert caption(Face(FaceBox(0, 0, 9, 9, 1), verdict, confidence, (), track)) == text


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("size", [12, 18, 36])
def test_letters_can_be_told_from_their_ground(verdict: Verdict, size: int) -> None:
    """The text is there, whole (blank margins all around), and at least 90 steps of luma away."""
    tile = _tile("No mask 97 %", size, INKS[verdict])
    inner = tile.y[1:-1, 1:-1].astype(int)
    letters = np.abs(inner - INKS[verdict].y) > 90
    assert 0.08 < letters.mean() < 0.5
    rows, columns = np.flatnonzero(letters.any(1)), np.flatnonzero(letters.any(0))
    assert rows[0] > 0
    assert rows[-1] < inner.shape[0] - 1
    assert columns[0] > 0
    assert columns[-1] < inner.shape[1] - 1
    assert rows[-1] - rows[0] + 1 >= 0.6 * size


def test_verdicts_differ_for_those_who_cannot_tell_red_from_green() -> None:
    """Blue against yellow (U) or lightness (Y) must part each pair."""
    inks = list(INKS.values())
    for index, one in enumerate(inks):
        for two in inks[index + 1 :]:
            assert abs(one.y - two.y) + abs(one.u - two.u) >= 20


def test_banner_is_grey_and_says_so() -> None:
    picture = Picture.from_bgr(np.full((240, 320, 3), (20, 60, 220), np.uint8))
    stale = banner(picture, "No picture for 12 s")
    assert (stale.u == 128).all()
    assert (stale.v == 128).all()
    assert stale.y[0, 0] < picture.y[0, 0]
    assert stale.y[100:140].max() == 235, "white letters across the middle"
    assert stale.y[:60].max() < 200


def test_tiles_are_kept_but_not_for_ever() -> None:
    info = _tile.cache_info()
    assert info.maxsize is not None
    assert info.maxsize <= 1024
    picture = grey(640, 480)
    draw(picture, [face(100, 100, 200, 220)])
    misses = _tile.cache_info().misses
    draw(picture, [face(300, 100, 400, 220)])
    assert _tile.cache_info().misses == misses
