"""`maskstream bench` as a shell sees it."""

from __future__ import annotations

import json
import sys
import wave
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import benchmarks.cameras
import benchmarks.compare
from benchmarks.cameras import FlooredWall
from benchmarks.floor import Floor, Shares
from stream_server import cli

KEYS_OF_THE_ISSUE = {
    "cameras",
    "analysed_fps_min",
    "arrival_to_verdict_p50_ms",
    "arrival_to_verdict_p95_ms",
    "cpu_cores",
    "rss_mb",
    "dropped",
}
WALL = FlooredWall(
    *(2, 5.0, 14.5, 14.0, 6.0, 40.0, 90.0, 120.0, 1.5, 400.0, 3, {"superseded": 3}, 0, 1, 30.0),
    *(Shares(2.0, 0.4, 0.3), 1.5, Floor(3.0, 20.0, 2.0), 2.0),
)


@pytest.mark.parametrize("command", ["cameras", "viewers", "soak", "roundtrip"])
@pytest.mark.parametrize("missing", ["httpx", "playwright", "psutil", "skimage"])
def test_a_library_that_is_missing_is_one_line_that_names_the_extra(
    command: str, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.run(["bench", command, "--clip", "/no/such.mp4"]) == 2
    assert capsys.readouterr().err == (
        f"maskstream: {missing} is not installed: run pip install 'maskstream[bench]'\n"
    )


@pytest.mark.parametrize("command", ["cameras", "viewers", "soak", "roundtrip"])
def test_a_clip_that_is_not_there_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", command, "--clip", "/no/such.mp4"]) == 2
    assert capsys.readouterr().err == "maskstream: --clip: there is no file /no/such.mp4\n"


@pytest.mark.parametrize("command", ["cameras", "viewers", "soak", "roundtrip"])
def test_a_clip_that_is_no_video_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junk, sound = tmp_path / "junk.mp4", tmp_path / "sound.wav"
    junk.write_text("not a video")
    with wave.open(str(sound), "wb") as tone:
        tone.setparams((1, 2, 8000, 0, "NONE", "NONE"))
        tone.writeframes(bytes(8000))
    assert cli.run(["bench", command, "--clip", str(junk)]) == 2
    assert cli.run(["bench", command, "--clip", str(sound)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "--clip" in first
    assert "junk.mp4 is not a video" in first
    assert "sound.wav" in second
    assert "no video in it" in second


def test_what_cannot_be_measured_here_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.cameras, "available", lambda: False)
    assert cli.run(["bench", "cameras"]) == 1
    assert capsys.readouterr().err.startswith("maskstream: no RTSP server: install ")


@pytest.mark.parametrize("command", ["cameras", "viewers", "soak", "roundtrip"])
def test_a_folder_that_is_not_there_is_told_before_measuring(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", command, "--json", "/no/such/out.json"]) == 2
    assert capsys.readouterr().err == "maskstream: --json: there is no folder /no/such\n"


@pytest.mark.parametrize(
    "words",
    [
        ["cameras", "--cameras", "0"],
        ["viewers", "--viewers", "-1"],
        ["roundtrip", "--slow", "0.5"],
        ["roundtrip", "--seconds", "501"],
        ["soak", "--peers"],
    ],
)
def test_nonsense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_figures_of_cameras_have_the_promised_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def measure(*words: Any) -> FlooredWall:
        asked.append(words)
        return WALL

    monkeypatch.setattr(benchmarks.cameras, "measure", measure)
    out = tmp_path / "out.json"
    words = ["bench", "cameras", "--cameras", "2", "--seconds", "5", "--json", str(out)]
    assert cli.run(words) == 0
    assert asked == [(2, 5.0, None)]
    found = json.loads(out.read_text())
    assert found.keys() >= KEYS_OF_THE_ISSUE
    assert found["arrival_to_verdict_p95_ms"] == 90
    assert found["cpu_per_analysed_frame_ratio"] == 2
    assert found["floor"] == {"decode_cpu_ms": 3, "detect_cpu_ms": 20, "classify_cpu_ms": 2}
    assert "analysed_fps_min                 14.50" in capsys.readouterr().out


def test_with_peers_the_table_is_shown_and_the_keys_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compared(*words: Any) -> tuple[dict[str, Any], str]:
        return asdict(WALL) | {"peers": {"it": [{"not_measured": "no network"}]}}, "| a table |"

    monkeypatch.setattr(benchmarks.compare, "compare_cameras", compared)
    out = tmp_path / "out.json"
    assert cli.run(["bench", "cameras", "--peers", "--json", str(out)]) == 0
    assert json.loads(out.read_text()).keys() >= KEYS_OF_THE_ISSUE | {"peers"}
    shown = capsys.readouterr().out
    assert shown.endswith("\n| a table |\n")
    assert "not_measured" not in shown
