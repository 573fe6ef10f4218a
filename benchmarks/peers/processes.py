"""A peer as a process: started, spoken with in JSON lines, ended."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from benchmarks.peers.environments import PeerUnavailable

ROOT = Path(__file__).parent.parent.parent
STOP_SECONDS = 5.0


@dataclass(slots=True)
class Peer:
    """A running peer."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    lines: queue.SimpleQueue[str | None]

    def expect(self, event: str, seconds: float) -> dict[str, Any]:
        """The next line's figures if it says `event` in time, else PeerUnavailable with reason."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise PeerUnavailable(
                    f"{self.name} did not say {event!r} within {seconds:.0f} s"
                ) from None
            if line is None:
                raise PeerUnavailable(f"{self.name} ended: {self.last_words()}")
            figures = parse(line)
            if figures is not None:
                if figures.pop("event") != event:
                    raise PeerUnavailable(f"{self.name} said {line.strip()} instead of {event!r}")
                return figures

    def wait_for_page(self, url: str, seconds: float) -> None:
        """Until `url` answers; PeerUnavailable if it does not in time, or if the peer ends."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(url, timeout=5):
                return
            time.sleep(0.3)
        raise PeerUnavailable(f"{self.name} does not serve its page: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "without a word"


def parse(line: str) -> dict[str, Any] | None:
    """A peer's JSON line with its `event`; None for whatever else its libraries print."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None


@contextmanager
def running(name: str, words: Sequence[str]) -> Iterator[Peer]:
    """`words` as a process at the repository's root; it and its children are ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="maskstream-peer-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                words,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert process.stdout is not None
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            yield Peer(name, process, log, lines)
        finally:
            _end(process)
            reader.join(STOP_SECONDS)
            process.stdout.close()


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
