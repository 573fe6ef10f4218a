"""Which precision OpenVINO may use here: tried in a child process, remembered for this machine.

What the CPU lists and what a library defaults to are no guide: on some machines bf16 ends in an
illegal instruction that kills the process. So a child tries it, and only what ran there, gave the
same answers and was faster is used here.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import openvino as ov
import structlog

from stream_server.errors import ModelError

log = structlog.get_logger(__name__)

# Somebody who asks for a precision by name is given so many times what passes for agreement.
LENIENT = 5
FASTER = 0.9
# A trial takes some two seconds. A machine too busy for it keeps fp32 until the next boot.
TIMEOUT = 15.0
CAPABILITY = {"bf16": "BF16", "fp16": "FP16"}


class Probe(Protocol):
    """A module to run as `python -m MODULE ARGUMENTS... PRECISION` in the child process.

    It runs a network in fp32 and in PRECISION and prints one line of JSON: {"difference": largest
    difference of the answers, "fp32_ms": median ms, "other_ms": the same for PRECISION}.
    `network` changes with the network's file, `work` says what was timed, and a difference of up
    to `agree` is as good as none.
    """

    @property
    def module(self) -> str: ...

    @property
    def arguments(self) -> tuple[str, ...]: ...

    @property
    def network(self) -> str: ...

    @property
    def work(self) -> str: ...

    @property
    def agree(self) -> float: ...


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """The precision to use and, for people, why."""

    precision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Trial:
    """How a precision did beside fp32: did it run, the largest difference, ms for the work."""

    ran: bool
    detail: str
    difference: float = 1.0
    fp32_ms: float = 0.0
    other_ms: float = 0.0


def choose_precision(probe: Probe, wanted: str, cache_dir: Path | None) -> PrecisionChoice:
    """fp32, unless `wanted` ("auto", "bf16" or "fp16") works here; "auto" also wants it faster.

    fp32 itself works everywhere and is not tried.

    Raises ModelError when a precision asked for by name does not work on this machine.
    """
    if wanted == "fp32":
        return PrecisionChoice("fp32", "the precision asked for")
    candidate = "bf16" if wanted == "auto" else wanted
    if candidate not in CAPABILITY:
        raise ModelError(f"precision {wanted!r} is not known to OpenVINO here: use fp32 or auto")
    trial = _remembered(probe, candidate, cache_dir)
    said = f"{candidate} {_told(probe, trial)}"
    log.info("precision_tried", probe=probe.module, precision=candidate, **asdict(trial))
    if wanted == "auto":
        right = trial.ran and trial.difference <= probe.agree
        faster = trial.other_ms < FASTER * trial.fp32_ms
        return PrecisionChoice(candidate if right and faster else "fp32", said)
    # A NaN is no agreement either.
    if not (trial.ran and trial.difference <= LENIENT * probe.agree):
        raise ModelError(f"precision {said}: set it to fp32 or auto")
    return PrecisionChoice(candidate, f"the precision asked for; {said}")


def _told(probe: Probe, trial: Trial) -> str:
    if not trial.ran:
        return f"does not run on this machine ({trial.detail})"
    if not trial.difference <= probe.agree:
        return f"differs from fp32 by {trial.difference:.3f}, more than {probe.agree}"
    return f"takes {trial.other_ms:.1f} ms for {probe.work}, fp32 {trial.fp32_ms:.1f} ms"


def _remembered(probe: Probe, candidate: str, cache_dir: Path | None) -> Trial:
    if cache_dir is None:
        return try_precision(probe, candidate)
    file = cache_dir / f"precision-{_machine(probe, candidate)}.json"
    try:
        return Trial(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        log.debug("precision_not_tried_before", precision=candidate)
    except (OSError, ValueError, TypeError) as error:
        log.warning("precision_cache_unreadable", file=str(file), error=str(error))
    trial = try_precision(probe, candidate)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(asdict(trial)), encoding="utf-8")
        scratch.replace(file)
    except OSError as error:
        log.warning("precision_not_remembered", file=str(file), error=str(error))
    return trial


def _machine(probe: Probe, candidate: str) -> str:
    """A key that changes with the machine, its boot, OpenVINO, the network and the precision.

    Machines that list the same CPU and flags differ in what they run, and a disk may move from
    one to another; a boot does not.
    """
    cpu = ov.Core().get_property("CPU", "FULL_DEVICE_NAME")
    what = [cpu, _boot(), ov.get_version(), probe.module, probe.network, candidate]
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def _boot() -> str:
    """The kernel's name for this boot; empty where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def try_precision(
    probe: Probe,
    candidate: str,
    *,
    python: Sequence[str] = (sys.executable,),
    timeout: float = TIMEOUT,
) -> Trial:
    """Run both precisions in a child process; whatever happens to it is the finding."""
    if CAPABILITY[candidate] not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return Trial(False, "OpenVINO does not offer it on this CPU")
    words = [*python, "-m", probe.module, *probe.arguments, candidate]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return Trial(False, f"no answer within {timeout:.0f} s")
    if child.returncode < 0:
        return Trial(False, f"the trial was ended by signal {-child.returncode}")
    try:
        return Trial(True, "", **json.loads(child.stdout))
    except (ValueError, TypeError):
        last = (child.stderr.strip().splitlines() or ["no output"])[-1]
        return Trial(False, f"the trial ended with {child.returncode}: {last[:200]}")
