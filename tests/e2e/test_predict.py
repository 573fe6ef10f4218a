"""`maskstream predict` as it is installed, with the real detector, batcher and classifier."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import skimage.data

from stream_server.annotate.overlay import INKS
from stream_server.frames import Pixels, Verdict

Predict = Callable[..., subprocess.CompletedProcess[str]]
# Where the face of scikit-image's astronaut is, found with CenterFace and looked at.
FACE = (177.0, 75.0, 272.0, 185.0)


@pytest.fixture
def predict(tmp_path: Path, cache_dir: Path) -> Predict:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("maskstream")), "predict", *arguments],
            cwd=tmp_path,
            env={**os.environ, "MASKSTREAM__CACHE_DIR": str(cache_dir)},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    return run


def astronaut() -> Pixels:
    pixels: Pixels = np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])
    return pixels


def corners(face: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = face["box"]
    return x, y, x + width, y + height


def has_box(picture: Pixels, face: dict[str, Any], original: Pixels) -> bool:
    """The sides of the box are drawn in its verdict's colour, and the face itself is untouched."""
    x0, y0, x1, y1 = (round(value) for value in corners(face))
    middle = (y0 + y1) // 2
    ink = INKS[Verdict(face["label"])]
    planes = np.array([[[ink.y, ink.v, ink.u]]], np.uint8)
    colour = cv2.cvtColor(planes, cv2.COLOR_YCrCb2BGR)[0, 0].astype(int)
    inner = np.s_[middle - 20 : middle + 20, x0 + 20 : x1 - 20]
    left = picture[middle, x0 - 3 : x0 + 5].astype(int)
    right = picture[middle, x1 - 5 : x1 + 3].astype(int)
    drawn = all(np.abs(side - colour).sum(axis=1).min() < 120 for side in (left, right))
    untouched = np.abs(picture[inner].astype(int) - original[inner].astype(int)).mean() < 12
    return drawn and bool(untouched)


def test_picture(tmp_path: Path, predict: Predict) -> None:
    cv2.imwrite(str(tmp_path / "astronaut.png"), astronaut())
    done = predict("astronaut.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    (line,) = (tmp_path / "maskstream-out/faces.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["file"], record["width"], record["height"]) == ("astronaut.png", 512, 512)
    (face,) = record["faces"]
    assert np.abs(np.subtract(corners(face), FACE)).max() < 12
    assert face["label"] == "without_mask"
    assert face["confidence"] == max(face["probabilities"].values())
    drawn = cv2.imread(str(tmp_path / "maskstream-out/astronaut.png"))
    assert has_box(drawn, face, astronaut())
    assert not has_box(astronaut(), face, astronaut())
    far = np.abs(drawn[300:].astype(int) - astronaut()[300:].astype(int)).mean()
    assert far < 4, "the rest of the picture stays as it was"


def test_clip_with_sound(tmp_path: Path, predict: Predict, face_clip: Path) -> None:
    command = f"ffmpeg -v error -i {face_clip} -f lavfi -i sine=440 -t 2 -c:v copy -c:a aac"
    subprocess.run([*command.split(), str(tmp_path / "clip.mkv")], check=True, timeout=60)
    done = predict("clip.mkv", "--out", "seen", "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert (tmp_path / "seen/faces.jsonl").read_text() == done.stdout
    assert [record["frame"] for record in records] == list(range(len(records)))
    assert np.diff([record["time"] for record in records]) == pytest.approx(1 / 30, abs=2e-3)
    with av.open(str(face_clip)) as clip, av.open(str(tmp_path / "seen/clip.mp4")) as seen:
        assert [stream.codec_context.name for stream in seen.streams.audio] == ["aac"]
        assert seen.streams.video[0].codec_context.name == "h264"
        originals = [frame.to_ndarray(format="bgr24") for frame in clip.decode(video=0)]
        pictures = [frame.to_ndarray(format="bgr24") for frame in seen.decode(video=0)]
    assert 58 <= len(pictures) == len(records) <= 61
    labels = [record["faces"][0]["label"] for record in records if record["faces"]]
    assert len(labels) == len(records)
    assert labels.count("without_mask") > 0.9 * len(labels)
    for number in range(0, len(records), 10):
        assert has_box(pictures[number], records[number]["faces"][0], originals[number])


def test_the_rest_is_done_when_one_file_is_broken(tmp_path: Path, predict: Predict) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    cv2.imwrite(str(folder / "a.jpg"), astronaut())
    shutil.copy(folder / "a.jpg", folder / "deep" / "z.jpg")
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:5000])
    (folder / "broken.mp4").write_bytes(b"no video")
    done = predict("in", "--out", "out", "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("maskstream: ")]
    assert len(complaints) == 2
    assert "in/broken.jpg: the picture is broken or cut off" in complaints[0]
    assert "in/broken.mp4: not a picture or video that can be read" in complaints[1]
    files = [json.loads(line)["file"] for line in done.stdout.splitlines()]
    assert files == ["in/a.jpg", "in/deep/z.jpg"]
    results = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*"))
    assert [path.as_posix() for path in results] == ["a.jpg", "deep/z.jpg", "faces.jsonl"]


def test_ctrl_c_ends_it_at_once_without_half_videos(
    tmp_path: Path, cache_dir: Path, face_clip: Path
) -> None:
    command = [str(Path(sys.executable).with_name("maskstream")), "predict", str(face_clip)]
    # Whoever runs the tests in the background has it ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*command, "--out", "out", "--json"],
        cwd=tmp_path,
        env={**os.environ, "MASKSTREAM__CACHE_DIR": str(cache_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["frame"] == 0
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 130
    assert complaints == ""
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["faces.jsonl"]
