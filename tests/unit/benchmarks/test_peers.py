"""Peers as processes and in environments of their own, and what makes their models slow."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import slow_service
from benchmarks.clips import moving_portrait
from benchmarks.peers import environments
from benchmarks.peers.environments import PeerUnavailable, peer_python
from benchmarks.peers.model import Slowly
from benchmarks.peers.processes import parse, running
from benchmarks.processes import usage, watched
from stream_server.settings import Settings


def script(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    "line", ["", "2026 [info] precision_tried", "[1, 2]", "3", '{"figures": 1}', '{"event": 1}']
)
def test_what_libraries_print_is_no_message(line: str) -> None:
    assert parse(line) is None


def test_a_peers_line_is_told_by_its_event() -> None:
    assert parse('{"event": "measured", "fps": 3}\n') == {"event": "measured", "fps": 3}


def test_a_peer_says_its_figures_between_other_lines() -> None:
    code = """print('noise'); print('{"event": "measured", "fps": 3}', flush=True); input()"""
    with running("it", script(code)) as peer:
        assert peer.expect("measured", 20) == {"fps": 3}


def test_a_peer_that_ends_is_told_with_its_last_words() -> None:
    ended = pytest.raises(PeerUnavailable, match="it ended: no camera")
    with running("it", script("raise SystemExit('no camera')")) as peer, ended:
        peer.expect("measured", 20)


def test_a_silent_peer_is_not_waited_for_without_end() -> None:
    silent = pytest.raises(PeerUnavailable, match="'measured' within 0 s")
    with running("it", script("import time; time.sleep(60)")) as peer, silent:
        peer.expect("measured", 0.1)
    assert peer.process.returncode is not None


def test_a_page_that_never_comes_is_told() -> None:
    gone = pytest.raises(PeerUnavailable, match="does not serve its page: port in use")
    with running("it", script("raise SystemExit('port in use')")) as peer, gone:
        peer.wait_for_page("http://127.0.0.1:9/", 20)


def test_children_are_counted_and_ended() -> None:
    child = "import time; held = bytearray(b'x') * 80_000_000; print(1, flush=True); time.sleep(60)"
    code = f"""
import json, subprocess, sys
held = bytearray(b'x') * 50_000_000
child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(json.dumps({{'event': 'child', 'pid': child.pid}}), flush=True)
child.wait()
"""
    with running("it", script(code)) as peer:
        pid = int(peer.expect("child", 30)["pid"])
        assert usage(peer.process.pid).rss > 130_000_000
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.05)


def test_memory_is_sampled_while_something_runs() -> None:
    with watched(os.getpid()) as samples:
        time.sleep(1.5)
    assert len(samples) >= 2
    count = len(samples)
    time.sleep(1.2)
    assert len(samples) == count


# --- environments ---------------------------------------------------------------------------------


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pins of a peer "it"; a real environment would take a minute on a busy machine."""

    def run(name: str, words: list[str]) -> None:
        if "venv" in words:
            python = Path(words[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environments, "_run", run)
    return tmp_path / "it.txt"


def test_packages_that_cannot_be_had_are_one_line() -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "no-such-package-at-all==1"]
    with pytest.raises(PeerUnavailable, match="it cannot be installed here: ERROR: No ") as caught:
        environments._run("it", pip)
    assert "\n" not in str(caught.value)


def test_an_environment_is_made_once(requirements: Path, capfd: pytest.CaptureFixture[str]) -> None:
    requirements.write_text("# nothing\n")
    python = peer_python("it")
    assert python.is_file()
    assert "it: installing its pinned packages" in capfd.readouterr().err
    assert peer_python("it") == python
    assert capfd.readouterr().err == ""


def test_an_environment_that_was_not_finished_is_made_again(
    requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, words: list[str]) -> None:
        raise PeerUnavailable("no network")

    requirements.write_text("# nothing\n")
    with monkeypatch.context() as broken:
        broken.setattr(environments, "_run", fail)
        with pytest.raises(PeerUnavailable, match="no network"):
            peer_python("it")
    assert peer_python("it").is_file()


def test_changed_pins_make_a_new_environment(requirements: Path) -> None:
    requirements.write_text("# nothing\n")
    leftover = peer_python("it").with_name("leftover")
    leftover.touch()
    requirements.write_text("# something\n")
    assert peer_python("it").is_file()
    assert not leftover.exists()


def test_every_pin_is_exact() -> None:
    files = sorted((Path(environments.__file__).parent / "requirements").glob("*.txt"))
    assert [file.stem for file in files] == ["fastrtc", "inference", "streamlit"]
    for file in files:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert all(line.count("==") == 1 and "/" not in line for line in lines), file.name
        assert any(line.startswith("openvino==") for line in lines), file.name


# --- slow models ----------------------------------------------------------------------------------


def test_slow_work_takes_as_many_times_as_long() -> None:
    slowly = Slowly(5)
    slowly("a", lambda: time.sleep(0.02))
    started = time.perf_counter()
    slowly("a", lambda: time.sleep(0.02))
    assert time.perf_counter() - started > 0.099


def test_the_first_time_is_let_through() -> None:
    started = time.perf_counter()
    Slowly(100)("a", lambda: time.sleep(0.02))
    assert time.perf_counter() - started < 1


def test_a_stall_of_the_machine_is_not_multiplied() -> None:
    slowly = Slowly(10)
    for seconds in (0.001, 0.001):
        slowly("a", lambda seconds=seconds: time.sleep(seconds))  # type: ignore[misc]
    started = time.perf_counter()
    slowly("a", lambda: time.sleep(0.3))
    assert time.perf_counter() - started < 1


@dataclass
class Selected:
    classifier: Any


class Echo:
    name, labels, input_size = "echo", ("with_mask",), 96

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def detect(self, picture: Any, scale: float = 1.0) -> list[Any]:
        self.asked.append(scale)
        return ["face"]

    def classify(self, crops: Any) -> Any:
        self.asked.append(len(crops))
        return "rows"


def test_our_service_gets_the_slow_models_too() -> None:
    echo = Echo()
    load: Any = lambda settings: (echo, "why", Selected(echo), "card")  # noqa: E731
    slow: tuple[Any, ...] = slow_service.slowed(load, 3.0)(Settings())
    detector, reason, selected, card = slow
    assert (reason, card, detector.name) == ("why", "card", "echo")
    picture: Any = None
    assert detector.detect(picture, 0.5) == ["face"]
    crops: Any = np.zeros((2, 96, 96, 3), np.uint8)
    assert selected.classifier.classify(crops) == "rows"
    assert (selected.classifier.labels, selected.classifier.input_size) == (("with_mask",), 96)
    assert echo.asked == [0.5, 2]
    assert isinstance(detector, slow_service.SlowDetector)
    assert isinstance(selected.classifier, slow_service.SlowClassifier)


# --- a real peer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--latest"]])
def test_opencv_threads_judge_a_clip(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    clip = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(clip, cv2.VideoWriter.fourcc(*"MJPG"), 30, (640, 360))
    for _, picture in zip(range(45), moving_portrait(), strict=False):
        writer.write(cv2.resize(picture, (640, 360)))
    writer.release()
    words = [sys.executable, "-m", "benchmarks.peers.opencv_threads", clip, clip, *options]
    words += ["--cache", str(Settings().cache_dir), "--seconds", "2", "--warm-up", "0"]
    with running("OpenCV threads", words) as peer:
        peer.expect("measuring", 90)
        found = peer.expect("measured", 30)
    assert found["analysed_fps_min"] > 0, json.dumps(found)
    assert found["arrival_to_verdict_p95_ms"] >= found["decoded_to_verdict_p50_ms"] > 0
