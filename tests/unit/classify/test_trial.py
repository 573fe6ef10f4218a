import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.registry import resolve
from stream_server.classify import trial as trials_module
from stream_server.classify.openvino import ClassifierProbe, OpenVinoClassifier
from stream_server.classify.openvino import precision_probe as classifier_probe
from stream_server.classify.trial import Probe, Trial, choose_precision, try_precision
from stream_server.detect.centerface import precision_probe as detector_probe
from stream_server.errors import ModelError

GOOD = Trial(True, "", difference=0.001, fp32_ms=10.0, other_ms=5.0)
DIED = Trial(False, "the trial was ended by signal 4")
PROBE = ClassifierProbe(("argument",), "network 1")


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Callable[[Trial], list[str]]:
    """Sets what a trial finds; returns the list of the trials held."""

    def given(trial: Trial) -> list[str]:
        held: list[str] = []

        def hold(probe: Probe, candidate: str) -> Trial:
            held.append(candidate)
            return trial

        monkeypatch.setattr(trials_module, "try_precision", hold)
        return held

    return given


def _child(code: str) -> tuple[str, ...]:
    """A Python that runs `code` instead of the module it is asked for."""
    return sys.executable, "-c", code


@pytest.mark.parametrize(
    ("code", "ran", "detail"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", False, "ended by signal 4"),
        ("import time; time.sleep(60)", False, "no answer within 1 s"),
        ("raise SystemExit('no such precision')", False, "ended with 1: no such precision"),
        ("print('not json')", False, "ended with 0: no output"),
        ("print('[1, 2]')", False, "ended with 0"),
        ("""print('{"difference": 0.5, "fp32_ms": 2.0, "other_ms": 1.0}')""", True, ""),
    ],
    ids=["illegal instruction", "hangs", "fails", "babbles", "wrong json", "works"],
)
def test_whatever_happens_to_the_child_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, code: str, ran: bool, detail: str
) -> None:
    monkeypatch.setitem(trials_module.CAPABILITY, "bf16", "FP32")
    timeout = 1.0 if "sleep" in code else 30.0
    trial = try_precision(PROBE, "bf16", python=_child(code), timeout=timeout)
    assert trial.ran is ran
    assert detail in trial.detail
    if ran:
        assert (trial.difference, trial.fp32_ms, trial.other_ms) == (0.5, 2.0, 1.0)


def test_no_child_is_born_where_the_cpu_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(trials_module.CAPABILITY, "bf16", "NO SUCH THING")
    trial = try_precision(PROBE, "bf16", python=_child("print('{}')"))
    assert not trial.ran
    assert "does not offer" in trial.detail


@pytest.mark.parametrize(
    "probe", [classifier_probe(resolve()), detector_probe()], ids=["classifier", "detector"]
)
def test_the_real_children_compare_and_time(probe: Probe) -> None:
    """fp32 against itself: right on every machine."""
    words = [sys.executable, "-m", probe.module, *probe.arguments, "fp32"]
    child = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    found = json.loads(child.stdout)
    assert found["difference"] < 1e-5
    assert found["fp32_ms"] > 0
    assert found["other_ms"] > 0


def test_the_classifier_takes_what_the_trial_finds(trials: Callable[[Trial], list[str]]) -> None:
    trials(DIED)
    classifier = OpenVinoClassifier(resolve(), precision="auto")
    assert classifier.precision == "fp32"
    assert "does not run on this machine" in classifier.reason
    with pytest.raises(ModelError, match="precision bf16"):
        OpenVinoClassifier(resolve(), precision="bf16")


@pytest.mark.parametrize(
    ("trial", "chosen", "said"),
    [
        (GOOD, "bf16", "bf16 takes 5.0 ms for 8 crops, fp32 10.0 ms"),
        (DIED, "fp32", "does not run on this machine (the trial was ended by signal 4)"),
        (Trial(True, "", 0.009, 10.0, 5.0), "fp32", "differs from fp32 by 0.009, more than 0.002"),
        (Trial(True, "", 0.001, 10.0, 9.5), "fp32", "takes 9.5 ms"),
        (Trial(True, "", float("nan"), 10.0, 5.0), "fp32", "bf16"),
    ],
)
def test_auto_takes_the_lower_precision_only_if_it_is_right_and_faster(
    trials: Callable[[Trial], list[str]],
    trial: Trial,
    chosen: str,
    said: str,
) -> None:
    trials(trial)
    choice = choose_precision(PROBE, "auto", None)
    assert choice.precision == chosen
    assert said in choice.reason


@pytest.mark.parametrize(
    "trial", [DIED, Trial(True, "", 0.2, 10.0, 1.0), Trial(True, "", float("nan"), 10.0, 1.0)]
)
def test_a_precision_asked_for_that_does_not_work_is_an_error(
    trials: Callable[[Trial], list[str]], trial: Trial
) -> None:
    trials(trial)
    with pytest.raises(ModelError, match=r"precision bf16 .* set it to fp32"):
        choose_precision(PROBE, "bf16", None)


def test_a_precision_asked_for_may_be_slower(trials: Callable[[Trial], list[str]]) -> None:
    trials(Trial(True, "", 0.009, 10.0, 12.0))
    assert choose_precision(PROBE, "fp16", None).precision == "fp16"


def test_fp32_needs_no_trial(trials: Callable[[Trial], list[str]]) -> None:
    held = trials(DIED)
    assert choose_precision(PROBE, "fp32", None).precision == "fp32"
    assert held == []


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(ModelError, match="'int3'"):
        choose_precision(PROBE, "int3", None)


def test_the_finding_is_remembered_for_this_boot_and_these_weights(
    trials: Callable[[Trial], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = trials(GOOD)
    cache = tmp_path / "cache"
    for _ in range(3):
        assert choose_precision(PROBE, "auto", cache).precision == "bf16"
    assert held == ["bf16"]
    choose_precision(replace(PROBE, network="network 2"), "auto", cache)
    assert held == ["bf16", "bf16"]
    monkeypatch.setattr(trials_module, "_boot", lambda: "another")
    choose_precision(PROBE, "auto", cache)
    choose_precision(PROBE, "fp16", cache)
    assert held == ["bf16", "bf16", "bf16", "fp16"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ran": true, "more": 1}'])
def test_a_broken_memory_is_replaced(
    trials: Callable[[Trial], list[str]], tmp_path: Path, content: str
) -> None:
    held = trials(GOOD)
    choose_precision(PROBE, "auto", tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    choose_precision(PROBE, "auto", tmp_path)
    choose_precision(PROBE, "auto", tmp_path)
    assert held == ["bf16", "bf16"]


def test_no_place_to_remember_is_no_reason_to_fail(
    trials: Callable[[Trial], list[str]], tmp_path: Path
) -> None:
    trials(GOOD)
    occupied = tmp_path / "file"
    occupied.write_text("")
    assert choose_precision(PROBE, "auto", occupied / "cache").precision == "bf16"
