"""Cameras, addresses, the window, and an end that is asked for."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_server.errors import InvalidPicture, SettingsError
from stream_server.frames import Face, Picture
from stream_server.predict import Outcome, fetch, process, show
from stream_server.predict.fetch import fetched
from stream_server.predict.inputs import Item, find, targets
from stream_server.predict.progress import Progress
from stream_server.predict.records import Record
from stream_server.predict.show import Stop, Window
from stream_server.predict.video import Lateness, annotate_video, count_frames
from tests.unit.test_predict import one_face, write_picture, write_video

GREY = Picture.from_bgr(np.full((120, 160, 3), 90, np.uint8))


# --- which are meant ------------------------------------------------------------------------------


def test_addresses_and_cameras_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").touch()
    items, missing = find(["rtsp://u:secret@cam/live/main", "http://h/a%20b.jpg", "7", "99"])
    assert [(item.live, item.is_video) for item in items] == [
        (True, True), (False, False), (False, True),
    ]  # fmt: skip
    assert "secret" not in items[0].name
    assert [path.name for path in targets(items, tmp_path / "out") if path] == [
        "main.mp4", "a_b.jpg", "7.mp4",
    ]  # fmt: skip
    assert missing == ["99: no such camera on this machine"]


def test_a_camera_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/video3")
    for text in ("3", "/dev/video3"):
        (item,) = find([text])[0]
        assert (item.path, item.live, item.is_camera) == (Path("/dev/video3"), True, True)
        assert item.place == Path("camera-3")


# --- what is fetched ------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """Serves tmp_path/site; asks for u:p%40ss below /locked/."""
    root = tmp_path / "site"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if "/locked/" in self.path and self.headers["Authorization"] != "Basic dTpwQHNz":
                self.send_error(401)
                return
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().do_GET()

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_picture_is_fetched_with_its_password(site: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "site/locked/a.png")
    (item,) = find([f"http://u:p%40ss@{site}/locked/a.png"])[0]
    found = fetched(item, tmp_path)
    assert found.path.read_bytes() == (tmp_path / "site/locked/a.png").read_bytes()
    assert (found.place.name, found.is_video) == ("a.png", False)
    assert "p%40ss" not in found.name
    (other,) = find([f"http://u:wrong@{site}/locked/a.png"])[0]
    with pytest.raises(InvalidPicture, match=r"cannot be fetched \(HTTP 401"):
        fetched(other, tmp_path)


def test_nothing_there_and_too_much(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "site/a.png")
    monkeypatch.setattr(fetch, "MAX_BYTES", 10)
    with pytest.raises(InvalidPicture, match="larger than"):
        fetched(find([f"http://{site}/a.png"])[0][0], tmp_path)
    with pytest.raises(InvalidPicture, match="HTTP 404"):
        fetched(find([f"http://{site}/none.png"])[0][0], tmp_path)
    with pytest.raises(InvalidPicture, match="cannot be fetched"):
        fetched(find(["http://127.0.0.1:1/a.png"])[0][0], tmp_path)


async def test_a_video_is_read_from_its_address(site: str, tmp_path: Path) -> None:
    write_video(tmp_path / "site/a.mp4", sound="aac")
    item = fetched(find([f"http://{site}/a.mp4"])[0][0], tmp_path)
    told: list[Record] = []
    await annotate_video(item, tmp_path / "out.mp4", one_face, told.append)
    assert len(told) == 20
    assert json.loads(told[0].json_line())["file"] == f"http://{site}/a.mp4"


# --- the end --------------------------------------------------------------------------------------


async def test_an_asked_for_end_keeps_what_was_seen(tmp_path: Path) -> None:
    video = Item(write_video(tmp_path / "a.mp4", frames=60), Path("a.mp4"))
    never = Item(write_video(tmp_path / "b.mp4"), Path("b.mp4"))
    told: list[Record] = []
    stop, outcome = Stop(), Outcome()

    def tell(record: Record) -> None:
        told.append(record)
        if len(told) == 10:
            stop.ask()

    outputs = [tmp_path / "out/a.mp4", tmp_path / "out/b.mp4"]
    await process([video, never], outputs, one_face, tell, outcome, stop=stop)
    assert 10 <= len(told) <= 14
    assert abs(count_frames(outputs[0]) - len(told)) <= 1
    assert not outputs[1].exists()
    assert (outcome.done, outcome.failures) == (1, [])


async def test_pictures_end_when_asked(tmp_path: Path) -> None:
    items = [Item(write_picture(tmp_path / f"{n}.png"), Path(f"{n}.png")) for n in range(9)]
    stop, outcome = Stop(), Outcome()
    seen: list[bool] = []

    def look(picture: Picture, faces: Sequence[Face], *, still: bool) -> None:
        seen.append(still)
        if len(seen) == 3:
            stop.ask()

    await process(items, [None] * 9, one_face, lambda _: None, outcome, look, stop)
    assert seen == [True] * 3
    assert outcome.done == 3


def test_what_is_live_leaves_late_frames_out() -> None:
    now = [100.0]
    late = Lateness(lambda: now[0])
    assert late.keeps_up(5.0)
    now[0] = 100.9
    assert late.keeps_up(5.5)
    assert not late.keeps_up(5.3)
    assert late.keeps_up(5.9)


async def test_late_frames_of_a_live_source_are_not_analysed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lateness, "keeps_up", lambda _self, time: round(10 * time) % 2 == 0)
    video = write_video(tmp_path / "a.mp4")
    for live, frames in ((True, 10), (False, 20)):
        told: list[Record] = []
        item = Item(video, Path("a.mp4"), address=str(video), live=live)
        await annotate_video(item, None, one_face, told.append)
        assert len(told) == frames


# --- the window -----------------------------------------------------------------------------------


class Screen:
    """OpenCV's windows, as far as they are used."""

    def __init__(self, keys: Sequence[int] = (), *, open_for: int = 99) -> None:
        self.keys, self.open_for = list(keys), open_for
        self.shown: list[tuple[int, ...]] = []

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(show, "_TRY", "pass")
        for name in ("namedWindow", "destroyAllWindows"):
            monkeypatch.setattr(cv2, name, lambda *_: None)
        monkeypatch.setattr(cv2, "resizeWindow", lambda *size: self.shown.append(size[1:]))
        monkeypatch.setattr(cv2, "imshow", lambda _, pixels: self.shown.append(pixels.shape))
        monkeypatch.setattr(cv2, "waitKey", lambda _: self.keys.pop(0) if self.keys else -1)
        monkeypatch.setattr(cv2, "getWindowProperty", self.visible)

    def visible(self, *_: object) -> float:
        self.open_for -= 1
        return 1.0 if self.open_for > 0 else 0.0


@pytest.mark.parametrize(
    ("screen", "still", "ended"),
    [
        (Screen([-1]), False, False),
        (Screen([ord("q")]), False, True),
        (Screen([27]), True, True),
        (Screen([-1, -1, ord("n")]), True, False),
        (Screen(open_for=3), True, True),
        (Screen([-1], open_for=0), False, True),
    ],
)
def test_keys(monkeypatch: pytest.MonkeyPatch, screen: Screen, still: bool, ended: bool) -> None:
    screen.patch(monkeypatch)
    stop = Stop()
    with Window(stop) as window:
        window(GREY, (), still=still)
    assert screen.shown == [(160, 120), (120, 160, 3)]
    assert stop.wanted is ended
    assert screen.keys == []


def test_a_large_picture_fits_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen([-1, -1])
    screen.patch(monkeypatch)
    large = Picture.from_bgr(np.zeros((2000, 1600, 3), np.uint8))
    with Window(Stop()) as window:
        window(large, (), still=False)
        window(large, (), still=False)
    assert screen.shown == [(576, 720), (2000, 1600, 3), (2000, 1600, 3)]


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "import os; os.abort()"])
def test_no_display_is_one_line(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(show, "_TRY", code)
    with pytest.raises(SettingsError, match="leave --show out"):
        Window(Stop())


def test_progress_without_a_total_says_the_rate() -> None:
    progress = Progress(0, None, shown=False, clock=lambda: 0.0)  # type: ignore[arg-type]
    for _ in range(30):
        progress.advance("x")
    assert progress.line("camera-0", 2.0) == "30, 15.0 a second: camera-0"
