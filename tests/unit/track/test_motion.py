import cv2
import numpy as np
import pytest

from stream_server.frames import FaceBox, Picture
from stream_server.track.motion import Motion

WIDTH, HEIGHT = 640, 360
FACE = FaceBox(200, 100, 300, 220, 0.9)
OTHER = FaceBox(420, 120, 500, 220, 0.9)


def texture(seed: int, width: int, height: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(40, 210, (height // 12, width // 12, 3))
    return cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def scene(dx: float = 0.0, dy: float = 0.0, growth: float = 1.0, other: float = 0.0) -> Picture:
    """A still wall; `FACE` moved and grown about its middle, `OTHER` moved sideways."""
    canvas = texture(1, WIDTH, HEIGHT)
    for seed, box, x, y, grown in ((2, FACE, dx, dy, growth), (3, OTHER, other, 0.0, 1.0)):
        wide, high = int(box.x1 - box.x0), int(box.y1 - box.y0)
        middle = (box.x0 + box.x1) / 2 + x, (box.y0 + box.y1) / 2 + y
        matrix = np.array(
            [
                [grown, 0, middle[0] - grown * wide / 2],
                [0, grown, middle[1] - grown * high / 2],
            ]
        )
        cv2.warpAffine(
            texture(seed, wide, high),
            matrix,
            (WIDTH, HEIGHT),
            dst=canvas,
            borderMode=cv2.BORDER_TRANSPARENT,
        )
    return Picture.from_bgr(canvas)


def seen(*pictures: Picture) -> Motion:
    motion = Motion()
    for picture in pictures:
        motion.see(picture)
    return motion


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (6, 0), (-9, 4), (3, -12)])
def test_the_shift_of_each_face_is_found_by_itself(dx: float, dy: float) -> None:
    moves = seen(scene(), scene(dx, dy, other=5)).moves({7: FACE, 9: OTHER})
    assert (moves[7].dx, moves[7].dy) == pytest.approx((dx, dy), abs=1.0)
    assert (moves[9].dx, moves[9].dy) == pytest.approx((5, 0), abs=1.0)
    assert moves[7].followed > 0.85


def test_the_shift_since_an_earlier_picture_is_found_too() -> None:
    motion = seen(scene())
    earlier = motion.seen
    for dx in (6, 12, 18):
        motion.see(scene(dx))
    assert motion.moves({1: FACE}, since=earlier)[1].dx == pytest.approx(18, abs=1.5)
    assert motion.moves({1: FaceBox(212, 100, 312, 220, 0.9)})[1].dx == pytest.approx(6, abs=1.5)
    motion.see(Picture.from_bgr(texture(1, 320, 320)))
    assert motion.moves({1: FACE}, since=earlier) == {}


def test_a_face_that_comes_nearer_grows() -> None:
    moves = seen(scene(), scene(growth=1.025)).moves({1: FACE})
    assert moves[1].growth == pytest.approx(1.025, abs=0.008)


def test_before_the_second_picture_nothing_has_moved() -> None:
    motion = seen(scene())
    assert motion.moves({1: FACE}) == {}
    assert motion.change == 1.0


def test_no_boxes_no_moves() -> None:
    assert seen(scene(), scene(6)).moves({}) == {}


def test_a_change_of_size_starts_anew_but_a_change_of_scale_alone_does_not_matter() -> None:
    square = Picture.from_bgr(texture(1, 480, 480))
    motion = seen(scene(), square)
    assert motion.moves({1: FACE}) == {}
    assert motion.change == 1.0


def test_something_that_comes_before_half_the_face_shows_in_the_share_that_is_followed() -> None:
    before, after = scene(), scene().bgr()
    after[160:225, 190:310] = 250
    moves = seen(before, Picture.from_bgr(after)).moves({1: FACE})
    assert 1 not in moves or moves[1].followed < 0.85


def test_a_face_that_is_no_more_to_be_seen_is_left_out() -> None:
    after = scene().bgr()
    after[90:230, 190:310] = texture(8, 120, 140)
    assert 1 not in seen(scene(), Picture.from_bgr(after)).moves({1: FACE})


def test_pixels_that_two_boxes_share_move_neither() -> None:
    """The nearer face goes right; the farther stands, and half of it is behind the nearer."""
    near, far = FACE, FaceBox(250, 100, 350, 220, 0.9)
    moves = seen(scene(), scene(8)).moves({1: near, 2: far})
    assert moves[1].dx == pytest.approx(8, abs=1.0)
    assert 2 not in moves or moves[2].dx == pytest.approx(0, abs=1.0)
    assert seen(scene(), scene(8)).moves({1: near, 2: near}) == {}


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_flat_picture_moves_nothing_and_gives_no_nonsense(shade: int) -> None:
    flat = Picture.from_bgr(np.full((HEIGHT, WIDTH, 3), shade, np.uint8))
    motion = seen(flat, flat)
    assert motion.change == 0.0
    for move in motion.moves({1: FACE}).values():
        assert np.isfinite((move.dx, move.dy, move.growth, move.followed)).all()


@pytest.mark.parametrize(
    "box",
    [
        FaceBox(-80, -60, 20, 40, 0.5),
        FaceBox(600, 320, 760, 480, 0.5),
        FaceBox(-500, -500, -400, -400, 0.5),
        FaceBox(900, 900, 990, 990, 0.5),
        FaceBox(0, 0, WIDTH, HEIGHT, 0.5),
        FaceBox(10, 10, 11, 11, 0.5),
    ],
)
def test_boxes_at_the_border_or_outside_do_no_harm(box: FaceBox) -> None:
    moves = seen(scene(), scene(4)).moves({1: box, 2: FACE})
    for move in moves.values():
        assert np.isfinite((move.dx, move.dy, move.growth)).all()


@pytest.mark.parametrize("size", [(2, 2), (16, 400), (400, 16), (1920, 1080)])
def test_any_size_of_picture_can_be_followed(size: tuple[int, int]) -> None:
    picture = Picture.from_bgr(texture(1, max(24, size[0]), max(24, size[1]))[: size[1], : size[0]])
    motion = seen(picture, picture)
    assert motion.change == 0.0
    motion.moves({1: FaceBox(0, 0, size[0], size[1], 0.9)})


def test_change_is_the_share_of_the_scene_that_moves() -> None:
    still = scene()
    assert seen(still, still).change == 0.0
    walked = seen(still, scene(dx=20)).change
    part = 100 * 120 / (WIDTH * HEIGHT)
    assert 0.3 * part < walked < 2 * part


def test_noise_is_no_change() -> None:
    noise = np.random.default_rng(5).normal(0, 4, (HEIGHT, WIDTH, 3))
    noisy = np.clip(scene().bgr() + noise, 0, 255).astype(np.uint8)
    assert seen(scene(), Picture.from_bgr(noisy)).change < 0.004
