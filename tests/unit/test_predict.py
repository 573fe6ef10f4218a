"""Which files are meant, where results go, what is told; with an analysis of our own."""

import asyncio
import io
import json
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from stream_server.errors import InvalidPicture, SettingsError
from stream_server.frames import Face, FaceBox, Picture, Verdict
from stream_server.predict import Outcome, process, read_picture
from stream_server.predict.inputs import Item, find, replacing, targets
from stream_server.predict.progress import Progress
from stream_server.predict.records import Record
from stream_server.predict.video import Reader, Writer, annotate_video, count_frames

FACE = Face(FaceBox(20, 30, 60, 80, 0.9), Verdict.WITHOUT_MASK, 0.97, (0.01, 0.97, 0.02))


async def one_face(picture: Picture) -> Sequence[Face]:
    """Later pictures are ready sooner, so that only care keeps them in order."""
    await asyncio.sleep(float(picture.y.mean()) / 10_000)
    return (FACE,)


def write_picture(path: Path, width: int = 160, height: int = 120, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))
    return path


def write_video(
    path: Path, *, frames: int = 20, size: tuple[int, int] = (160, 120), sound: str | None = None
) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        tone = container.add_stream(sound, rate=48_000) if sound else None
        for number in range(frames):
            grey = np.full((size[1], size[0], 3), (240 - 8 * number) % 256, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="bgr24")))
            if tone is not None:
                container.mux(tone.encode(_tone(number)))
        container.mux(video.encode(None))
        if tone is not None:
            container.mux(tone.encode(None))
    return path


def _tone(number: int) -> av.AudioFrame:
    """A tenth of a second of 440 Hz."""
    at = (np.arange(4800) + 4800 * number) / 48_000
    samples = (np.sin(2 * np.pi * 440 * at) * 8000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.stack([samples, samples], 1).reshape(1, -1), "s16")
    frame.rate, frame.pts, frame.time_base = 48_000, 4800 * number, Fraction(1, 48_000)
    return frame


# --- inputs ---------------------------------------------------------------------------------------


def test_files_folders_and_globs(tmp_path: Path) -> None:
    write_picture(tmp_path / "in/a.jpg")
    write_picture(tmp_path / "in/deep/b.PNG")
    write_picture(tmp_path / "in/.hidden/c.jpg")
    (tmp_path / "in/notes.txt").write_text("not media")
    write_picture(tmp_path / "glob-1.jpg")
    write_picture(tmp_path / "glob-2.jpg")
    items, missing = find(
        [str(tmp_path / "in"), str(tmp_path / "glob-*.jpg"), str(tmp_path / "in/a.jpg"), "none.jpg"]
    )
    assert [item.place.as_posix() for item in items] == [
        "a.jpg", "deep/b.PNG", "glob-1.jpg", "glob-2.jpg",
    ]  # fmt: skip
    assert missing == ["none.jpg: no such file or folder"]


def test_nothing_to_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no picture or video in this folder"):
        find([str(tmp_path)])


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    write_picture(tmp_path / "a[1].jpg")
    assert [item.path.name for item in find([str(tmp_path / "a[1].jpg")])[0]] == ["a[1].jpg"]


def test_results_never_meet(tmp_path: Path) -> None:
    names = ["a/x.jpg", "b/x.jpg", "c.mov", "c.avi", "c.mp4"]
    items = [Item(tmp_path / name, Path(Path(name).name)) for name in names]
    found = [path.name for path in targets(items, tmp_path / "out") if path]
    assert found == ["x.jpg", "x-2.jpg", "c.mp4", "c-2.mp4", "c-3.mp4"]


def test_inputs_are_not_replaced(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mov"
    items = [Item(clip, Path("clip.mov"))]
    targets(items, tmp_path)
    with pytest.raises(SettingsError, match="would replace the input"):
        targets([*items, Item(tmp_path / "clip.mp4", Path("clip.mp4"))], tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SettingsError, match="would replace the input"):
        targets([Item(tmp_path / "a.jpg", Path("a.jpg"))], tmp_path / "link")


def test_unfinished_results_leave_nothing(tmp_path: Path) -> None:
    target = tmp_path / "deep/a.mp4"
    with pytest.raises(FileNotFoundError), replacing(target) as unfinished:
        unfinished.with_name("none").rename(unfinished)
    with pytest.raises(ZeroDivisionError), replacing(target) as unfinished:
        assert 1 / unfinished.write_bytes(b"")
    assert list(target.parent.iterdir()) == []
    with replacing(target) as unfinished:
        unfinished.write_text("whole")
    assert [path.name for path in target.parent.iterdir()] == ["a.mp4"]


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("size", [(160, 120), (161, 121)])
async def test_picture(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    source = write_picture(tmp_path / f"in{suffix}", *size)
    target = tmp_path / "out" / f"in{suffix}"
    told: list[Record] = []
    outcome = Outcome()
    await process([Item(source, Path())], [target], one_face, told.append, outcome)
    assert outcome.failures == []
    drawn = cv2.imread(str(target))
    assert drawn.shape == (size[1], size[0], 3)
    blue, green, red = (int(value) for value in drawn[55, 21])
    assert red > 150, "the box's left side is red"
    assert green < 90
    assert blue < 110
    assert abs(int(drawn[110, 150, 1]) - 90) < 8
    assert (told[0].width, told[0].height) == size


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("a.TIFF", "a.TIFF"),
        ("a.jfif", "a.jpg"),
        ("a.jpe", "a.jpg"),
        ("a.avif", "a.jpg"),
        ("a.jp2", "a.jpg"),
        ("a.ppm", "a.jpg"),
    ],
)
def test_rarer_pictures_in_a_folder_are_no_videos(tmp_path: Path, name: str, result: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    kind = {".jfif": "JPEG", ".jpe": "JPEG"}.get(Path(name).suffix)
    Image.new("RGB", (40, 30), (90, 90, 90)).save(folder / name, kind)
    items, _ = find([str(folder)])
    assert [item.is_video for item in items] == [False]
    assert targets(items, tmp_path / "out") == [tmp_path / "out" / result]
    assert np.abs(read_picture(folder / name).astype(int) - 90).max() < 4


def test_a_deep_tiff_that_lies_on_its_side(tmp_path: Path) -> None:
    deep = np.full((20, 40), 0x8000, np.uint16)
    deep[:, :20] = 0xFF00
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(deep).save(tmp_path / "a.tif", exif=exif)
    upright = read_picture(tmp_path / "a.tif")
    assert upright.shape == (40, 20, 3)
    assert (upright[0] == 255).all()
    assert (upright[-1] == 128).all()


def test_orientation_is_honoured(tmp_path: Path) -> None:
    """An EXIF orientation of 6: the file's left side is the picture's top."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :100] = 255
    done, plain = cv2.imencode(".jpg", pixels)
    assert done
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path = tmp_path / "turned.jpg"
    path.write_bytes(plain.tobytes()[:2] + segment + plain.tobytes()[2:])
    upright = read_picture(path)
    assert upright.shape == (200, 100, 3)
    assert upright[:90].mean() > 240
    assert upright[110:].mean() < 15


def test_too_many_pixels(tmp_path: Path) -> None:
    """A small file that would decode to 400 megapixels."""
    bomb = tmp_path / "bomb.png"
    done, data = cv2.imencode(".png", np.zeros((20_000, 20_000), np.uint8))
    assert done
    bomb.write_bytes(data.tobytes())
    with pytest.raises(InvalidPicture, match="scale it down"):
        read_picture(bomb)


async def test_results_keep_the_order_and_failures_are_named(tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / f"{n}.png", value=250 - 25 * n) for n in range(10)]
    paths[3].write_bytes(b"broken")
    paths[7].unlink()
    told: list[Record] = []
    outcome = Outcome()
    items = [Item(path, Path(path.name)) for path in paths]
    await process(items, [None] * 10, one_face, told.append, outcome)
    assert [Path(record.file).stem for record in told] == list("01245689")
    assert outcome.done == 8
    assert len(outcome.failures) == 2
    assert outcome.failures[0].startswith(f"{paths[3]}: ")
    assert "No such file" in outcome.failures[1]


# --- videos ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sound", "expected"),
    [("a.mp4", "aac", "aac"), ("a.mov", "pcm_s16le", "aac"), ("a.mkv", "libopus", "opus"),
     ("a.ts", "aac", "aac"), ("a.mp4", None, None)],
)  # fmt: skip
async def test_video_keeps_time_and_sound(
    tmp_path: Path, name: str, sound: str | None, expected: str | None
) -> None:
    source = write_video(tmp_path / name, sound=sound)
    target = tmp_path / "out.mp4"
    told: list[Record] = []
    assert abs(count_frames(source) - 20) <= 2
    await annotate_video(Item(source, Path()), target, one_face, told.append)
    assert [record.frame for record in told] == list(range(20))
    times = [record.time or 0.0 for record in told]
    assert np.diff(times) == pytest.approx(0.1, abs=2e-3)
    with av.open(str(target)) as result:
        pictures = [frame.to_ndarray(format="bgr24") for frame in result.decode(video=0)]
        assert result.streams.video[0].codec_context.name == "h264"
        names = [stream.codec_context.name for stream in result.streams.audio]
        assert names == ([expected] if expected else [])
        starts = [float((stream.start_time or 0) * stream.time_base) for stream in result.streams]
        assert max(starts) < 0.1, "sound and picture start together"
    assert len(pictures) == 20
    # Brightness says which frame it was: none lost, none out of order, each with its box.
    greys = [int(picture[110, 150, 1]) for picture in pictures]
    assert greys == pytest.approx([240 - 8 * number for number in range(20)], abs=8)
    assert all(picture[55, 21, 2] > 150 > picture[55, 21, 1] for picture in pictures)
    if expected:
        assert _loudness(target) == pytest.approx(_loudness(source), rel=0.1)


def _loudness(path: Path) -> float:
    """Root of the mean square of the sound between 0.5 and 1.5 s."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", 8000)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    assert len(samples) >= 15_000
    return float(np.sqrt(np.mean(samples[4000:12000] ** 2)))


async def test_odd_sized_video(tmp_path: Path) -> None:
    source = tmp_path / "odd.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 161, 121, "yuv444p"
        grey = av.VideoFrame.from_ndarray(np.full((121, 161, 3), 90, np.uint8), format="bgr24")
        for _ in range(3):
            container.mux(stream.encode(grey))
        container.mux(stream.encode(None))
    told: list[Record] = []
    await annotate_video(Item(source, Path()), tmp_path / "out.mp4", one_face, told.append)
    assert len(told) == 3
    assert count_frames(tmp_path / "out.mp4") == 3


async def test_damaged_video_is_done_as_far_as_it_goes(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.ts", frames=60)
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    told: list[Record] = []
    outcome = Outcome()
    target = tmp_path / "out.mp4"
    await process([Item(source, Path())], [target], one_face, told.append, outcome)
    assert 5 < len(told) < 60
    assert abs(count_frames(target) - len(told)) <= 1


@pytest.mark.parametrize("content", [b"", b"hello", bytes(10_000)])
async def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "a.mp4"
    source.write_bytes(content)
    with pytest.raises(InvalidPicture, match="not a picture or video that can be read"):
        await annotate_video(Item(source, Path()), tmp_path / "out.mp4", one_face, lambda _: None)
    assert not (tmp_path / "out.mp4").exists()


async def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    source = tmp_path / "a.m4a"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        container.mux(stream.encode(_tone(0)))
        container.mux(stream.encode(None))
    with pytest.raises(InvalidPicture, match="no video in it"):
        await annotate_video(Item(source, Path()), None, one_face, lambda _: None)


async def test_failing_analysis_leaves_no_half_video(tmp_path: Path) -> None:
    calls = 0

    async def fails(picture: Picture) -> Sequence[Face]:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise InvalidPicture("enough")
        return await one_face(picture)

    source = write_video(tmp_path / "a.mp4", sound="aac")
    with pytest.raises(InvalidPicture, match="enough"):
        await annotate_video(Item(source, Path()), tmp_path / "out/a.mp4", fails, lambda _: None)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("kind", "call"), [(Reader, "_next"), (Writer, "write")])
@pytest.mark.parametrize("cancels", [1, 2])
async def test_no_file_is_closed_while_a_thread_works_on_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Reader | Writer],
    call: str,
    cancels: int,
) -> None:
    """What a thread reads or writes would be freed under it: a crash on Ctrl-C."""
    steps: list[str] = []
    working, may_end = threading.Event(), threading.Event()
    works, closes = getattr(kind, call), kind.__exit__

    def works_long(self: Reader | Writer, *given: object) -> object:
        working.set()
        may_end.wait(10)
        done = works(self, *given)
        steps.append("worked")
        return done

    def tells_closing(self: Reader | Writer, *given: object) -> None:
        steps.append("closed")
        closes(self, *given)

    monkeypatch.setattr(kind, call, works_long)
    monkeypatch.setattr(kind, "__exit__", tells_closing)
    source, target = write_video(tmp_path / "a.mp4"), tmp_path / "out/a.mp4"
    job = asyncio.ensure_future(
        annotate_video(Item(source, Path()), target, one_face, lambda _: None)
    )
    assert await asyncio.to_thread(working.wait, 10)
    for _ in range(cancels):
        job.cancel()
        await asyncio.sleep(0.05)
    assert steps == []
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert steps[-1] == "closed"
    assert steps.count("closed") == 1
    assert list((tmp_path / "out").iterdir()) == []


# --- what is told ---------------------------------------------------------------------------------


def test_a_line_of_json() -> None:
    picture = json.loads(Record("ä.jpg", 160, 120, [FACE]).json_line())
    assert list(picture) == ["file", "width", "height", "faces"]
    assert picture["file"] == "ä.jpg"
    face = picture["faces"][0]
    assert face["box"] == [20, 30, 40, 50]
    assert face["label"] == "without_mask"
    assert face["probabilities"] == {"with_mask": 0.01, "without_mask": 0.97, "incorrect": 0.02}
    frame = json.loads(Record("a.mp4", 160, 120, [], 7, 0.28).json_line())
    assert (frame["frame"], frame["time"], frame["faces"]) == (7, 0.28, [])


def test_progress_says_rate_and_time_left() -> None:
    now = [0.0]
    screen = io.StringIO()
    with Progress(7300, screen, shown=True, clock=lambda: now[0]) as progress:
        for _ in range(50):
            now[0] += 0.5
            progress.advance("a/very/long/way/to/some/folder/clip.mp4")
        assert "50 of 7300, 2.0 a second, 1:00:25 left: " in screen.getvalue()
        lines = screen.getvalue().split("\r")[1:]
        assert max(map(len, lines)) <= 79
    assert screen.getvalue().endswith(" \r"), "the line is wiped at the end"


def test_progress_is_not_written_for_every_frame() -> None:
    now = [0.0]
    screen = io.StringIO()
    with Progress(1000, screen, shown=True, clock=lambda: now[0]) as progress:
        for _ in range(1000):
            now[0] += 0.001
            progress.advance("clip.mp4")
    assert 4 <= screen.getvalue().count("clip.mp4") <= 6


def test_progress_is_for_terminals() -> None:
    screen = io.StringIO()
    with Progress(2, screen, shown=False) as progress:
        progress.advance("a.jpg")
    assert screen.getvalue() == ""
