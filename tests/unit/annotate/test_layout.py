"""Geometry of boxes and labels: even, inside, apart."""

import math
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from stream_server.annotate.layout import (
    Rect,
    box_lines,
    even_box,
    font_size,
    line_width,
    place_labels,
)

SIDES = st.integers(8, 1100).map(lambda half: 2 * half)
WILD = st.floats(-3000, 6000) | st.sampled_from([math.nan, math.inf, -math.inf])
SIZES = st.tuples(st.integers(4, 200), st.integers(4, 40)).map(lambda s: (2 * s[0], 2 * s[1]))


def inside(rect: Rect, width: int, height: int) -> bool:
    return 0 <= rect.x0 < rect.x1 <= width and 0 <= rect.y0 < rect.y1 <= height


def even(rect: Rect) -> bool:
    return not (rect.x0 | rect.y0 | rect.x1 | rect.y1) & 1


@given(WILD, WILD, WILD, WILD, SIDES, SIDES)
def test_boxes_are_even_and_inside_or_none(
    x0: float, y0: float, x1: float, y1: float, width: int, height: int
) -> None:
    box = even_box(x0, y0, x1, y1, width, height)
    sound = all(map(math.isfinite, (x0, y0, x1, y1))) and x0 < x1 and y0 < y1
    touches = sound and x1 > 0 and y1 > 0 and x0 < width and y0 < height
    assert (box is not None) == touches
    if box is not None:
        assert even(box)
        assert inside(box, width, height)
        # It covers what lies in the picture and not a sample more than evenness needs.
        assert box.x0 <= max(x0, 0) < box.x0 + 2
        assert box.y1 - 2 < min(y1, height) <= box.y1


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Rect], list[tuple[int, int]], int, int]:
    width, height = draw(SIDES), draw(SIDES)
    boxes = []
    for _ in range(draw(st.integers(0, 12))):
        x, y = draw(st.integers(0, width // 2 - 1)) * 2, draw(st.integers(0, height // 2 - 1)) * 2
        wide = draw(st.integers(1, (width - x) // 2)) * 2
        high = draw(st.integers(1, (height - y) // 2)) * 2
        boxes.append(Rect(x, y, x + wide, y + high))
    return boxes, [draw(SIZES) for _ in boxes], width, height


@given(scenes())
def test_labels_are_even_and_inside(
    scene: tuple[list[Rect], list[tuple[int, int]], int, int],
) -> None:
    boxes, sizes, width, height = scene
    labels = place_labels(boxes, sizes, width, height)
    assert len(labels) == len(boxes)
    for label, size in zip(labels, sizes, strict=True):
        assert even(label)
        assert inside(label, width, height)
        assert (label.width, label.height) == (min(size[0], width), min(size[1], height))


@given(scenes(), st.integers(1, 8).map(lambda half: 2 * half))
def test_lines_cover_the_rim_and_nothing_else(
    scene: tuple[list[Rect], list[tuple[int, int]], int, int], thickness: int
) -> None:
    for box in scene[0]:
        lines = box_lines(box, thickness)
        hole = max(box.width - 2 * thickness, 0) * max(box.height - 2 * thickness, 0)
        assert sum(line.width * line.height for line in lines) == box.width * box.height - hole
        assert all(even(line) and line.width > 0 and line.height > 0 for line in lines)


def test_label_sits_above_its_box() -> None:
    assert place_labels([Rect(100, 100, 200, 220)], [(80, 20)], 640, 480) == [
        Rect(100, 80, 180, 100)
    ]


def test_label_goes_below_where_there_is_no_room_above() -> None:
    assert place_labels([Rect(100, 4, 200, 120)], [(80, 20)], 640, 480) == [
        Rect(100, 120, 180, 140)
    ]


def test_label_goes_inside_a_face_that_fills_the_picture() -> None:
    assert place_labels([Rect(0, 0, 640, 480)], [(80, 20)], 640, 480) == [Rect(0, 0, 80, 20)]


def test_label_is_shifted_into_the_picture() -> None:
    (label,) = place_labels([Rect(600, 100, 640, 160)], [(120, 20)], 640, 480)
    assert (label.x1, label.y1) == (640, 100)


def test_labels_of_a_row_of_faces_do_not_overlap() -> None:
    boxes = [Rect(x, 100, x + 60, 180) for x in range(0, 600, 70)]
    labels = place_labels(boxes, [(100, 18)] * len(boxes), 640, 480)
    for one, two in combinations(labels, 2):
        apart = one.x1 <= two.x0 or two.x1 <= one.x0 or one.y1 <= two.y0 or two.y1 <= one.y0
        assert apart, (one, two)


@given(SIDES, SIDES, st.floats(0, 4000))
def test_sizes_follow_the_picture(width: int, height: int, face: float) -> None:
    size = font_size(width, height, face)
    assert size >= 12
    assert size % 2 == 0
    assert font_size(width, height, face * 2) >= size
    assert line_width(width, height) % 2 == 0
    assert line_width(width * 4, height * 4) >= line_width(width, height) >= 2


def test_boxes_grow_to_even_corners() -> None:
    assert even_box(3.2, 5.7, 10.5, 12.1, 64, 48) == Rect(2, 4, 12, 14)
    assert even_box(2.0, 4.0, 12.0, 14.0, 64, 48) == Rect(2, 4, 12, 14)
    assert even_box(-9, -9, 63.5, 99, 64, 48) == Rect(0, 0, 64, 48)
