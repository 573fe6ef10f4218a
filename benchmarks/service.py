"""The service as its own process, watched from outside: its metrics, its CPU time, its memory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.errors import MeasureError
from benchmarks.processes import usage

START_SECONDS = 120
STOP_SECONDS = 10

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one instant: `at` in monotonic seconds, CPU seconds used, bytes of RSS.

    `all_cpu_seconds` and `all_rss` are those of its processes for viewers too.
    """

    at: float
    cpu_seconds: float
    rss: int
    series: Series
    all_cpu_seconds: float = 0.0
    all_rss: int = 0

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of this name that carry these labels."""
        wanted = set(labels.items())
        return sum(
            value
            for (known, pairs), value in self.series.items()
            if known == name and wanted <= set(pairs)
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the values of one label."""
        found: dict[str, float] = {}
        for (known, pairs), value in self.series.items():
            if known == name:
                key = dict(pairs)[label]
                found[key] = found.get(key, 0.0) + value
        return found


@dataclass(frozen=True, slots=True)
class Service:
    """A running `maskstream serve`."""

    url: str
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> Any:
        """JSON of an API path."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def sample(self) -> Sample:
        """What it has done so far."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        process = psutil.Process(self.process.pid)
        spent = process.cpu_times()
        series = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        used, whole = spent.user + spent.system, usage(self.process.pid)
        rss = process.memory_info().rss
        return Sample(time.monotonic(), used, rss, series, whole.cpu_seconds, whole.rss)


@contextmanager
def service(sources: Mapping[str, str], *, slow: float = 1.0, **settings: Any) -> Iterator[Service]:
    """`maskstream serve` with these cameras, ready; `settings` are keys of its configuration.

    Its models take `slow` times as long as they need.
    """
    with tempfile.TemporaryDirectory(prefix="maskstream-bench-") as folder:
        config = Path(folder) / "config.yaml"
        port = free_port()
        wanted = {
            **settings,
            "server": {"host": "127.0.0.1", "port": port},
            "log": {"level": "warning"},
            "state_dir": folder,
            "sources": dict(sources),
        }
        config.write_text(yaml.safe_dump(wanted))
        entry = ["stream_server"] if slow == 1 else ["benchmarks.slow_service", str(slow)]
        words = [sys.executable, "-m", *entry, "serve", "--config", str(config)]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            running = Service(f"http://127.0.0.1:{port}", process)
            _wait_ready(running, Path(folder) / "log")
            yield running
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(running: Service, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            running.get("/readyz")
            return
        except (urllib.error.URLError, OSError):
            ended = running.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise MeasureError(f"the service did not start:\n{log.read_text()}") from None
            time.sleep(0.2)


def latency_quantile(before: Sample, after: Sample, name: str, share: float) -> float | None:
    """A quantile (seconds) of a latency histogram between two samples, all streams together.

    Interpolated inside its bucket, as Prometheus does; None when nothing was observed.
    """
    counts: dict[float, float] = {}
    for sample, sign in ((after, 1), (before, -1)):
        for text, value in sample.by(f"{name}_bucket", "le").items():
            counts[float(text)] = counts.get(float(text), 0.0) + sign * value
    bounds = sorted(counts)
    if not bounds or counts[bounds[-1]] <= 0:
        return None
    rank = share * counts[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= rank:
            if bound == float("inf"):
                return low
            inside = counts[bound] - below
            return low + (bound - low) * (rank - below) / max(inside, 1e-9)
        low, below = bound, counts[bound]
    return low


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
