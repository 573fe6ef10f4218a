"""Which precision OpenVINO may use here: found in a child process, remembered for this machine.

What the CPU lists and what a library defaults to are no guide: on some machines bf16 ends in an
illegal instruction that kills the process. So a child tries it, and only what ran there, gave the
same answers and was faster is used here.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import openvino as ov
import structlog

from models.registry import Weights
from stream_server.errors import ModelError

log = structlog.get_logger(__name__)

AGREE = 1e-2
# What somebody who asks for a precision by name may be given; more is a broken kernel.
USABLE = 5e-2
FASTER = 0.9
TIMEOUT = 60.0
CAPABILITY = {"bf16": "BF16", "fp16": "FP16"}


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """The precision to use and, for people, why."""

    precision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Trial:
    """How a precision did beside fp32: did it run, the largest difference, ms for a batch of 8."""

    ran: bool
    detail: str
    difference: float = 1.0
    fp32_ms: float = 0.0
    other_ms: float = 0.0

    @property
    def better(self) -> bool:
        return self.ran and self.difference <= AGREE and self.other_ms < FASTER * self.fp32_ms


def choose_precision(weights: Weights, wanted: str, cache_dir: Path | None) -> PrecisionChoice:
    """fp32, unless `wanted` ("auto", "bf16" or "fp16") works here; "auto" also wants it faster.

    Raises ModelError when a precision asked for by name does not work on this machine.
    """
    candidate = "bf16" if wanted == "auto" else wanted
    if candidate not in CAPABILITY:
        raise ModelError(f"precision {wanted!r} is not known to OpenVINO here: use fp32 or auto")
    trial = _remembered(weights, candidate, cache_dir)
    said = f"{candidate} {_told(trial)}"
    log.info("precision_tried", precision=candidate, **asdict(trial))
    if wanted == "auto":
        return PrecisionChoice(candidate if trial.better else "fp32", said)
    # A NaN is no agreement either.
    if not (trial.ran and trial.difference <= USABLE):
        raise ModelError(f"precision {said}: set classifier.precision to fp32 or auto")
    return PrecisionChoice(candidate, f"the precision asked for; {said}")


def _told(trial: Trial) -> str:
    if not trial.ran:
        return f"does not run on this machine ({trial.detail})"
    if not trial.difference <= AGREE:
        return f"differs from fp32 by {trial.difference:.3f}, more than {AGREE}"
    return f"takes {trial.other_ms:.1f} ms for 8 crops, fp32 {trial.fp32_ms:.1f} ms"


def _remembered(weights: Weights, candidate: str, cache_dir: Path | None) -> Trial:
    if cache_dir is None:
        return try_precision(weights, candidate)
    file = cache_dir / f"precision-{_machine(weights, candidate)}.json"
    try:
        return Trial(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        log.debug("precision_not_tried_before", precision=candidate)
    except (OSError, ValueError, TypeError) as error:
        log.warning("precision_cache_unreadable", file=str(file), error=str(error))
    trial = try_precision(weights, candidate)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(asdict(trial)), encoding="utf-8")
        scratch.replace(file)
    except OSError as error:
        log.warning("precision_not_remembered", file=str(file), error=str(error))
    return trial


def _machine(weights: Weights, candidate: str) -> str:
    """A key that changes with the machine, its boot, OpenVINO, the weights and the precision.

    Machines that list the same CPU and flags differ in what they run, and a disk may move from
    one to another; a boot does not.
    """
    cpu = ov.Core().get_property("CPU", "FULL_DEVICE_NAME")
    network = weights.card.files.get(weights.openvino_path.with_suffix(".bin").name, "")
    what = [cpu, _boot(), ov.get_version(), network, candidate]
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def _boot() -> str:
    """The kernel's name for this boot; empty where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def try_precision(
    weights: Weights,
    candidate: str,
    *,
    command: Callable[[Path, str], Sequence[str]] | None = None,
    timeout: float = TIMEOUT,
) -> Trial:
    """Run both precisions in a child process; whatever happens to it is the finding."""
    if CAPABILITY[candidate] not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return Trial(False, "OpenVINO does not offer it on this CPU")
    words = (command or _probe_command)(weights.openvino_path.with_suffix(".json"), candidate)
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


def _probe_command(card: Path, candidate: str) -> Sequence[str]:
    return sys.executable, "-m", "stream_server.classify.probe", str(card), candidate
