"""CPU and memory of a process and all its children, seen from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and all its children used: CPU seconds so far, bytes of memory now."""

    at: float
    cpu_seconds: float
    rss: int


def usage(pid: int) -> Usage:
    """Of the whole process tree; a child that has ended meanwhile is left out."""
    cpu, rss = 0.0, 0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            cpu += spent.user + spent.system
            rss += process.memory_info().rss
    return Usage(time.monotonic(), cpu, rss)


@contextmanager
def watched(pid: int) -> Iterator[list[Usage]]:
    """The list to which a sample of the process tree is added each second until the block ends."""
    samples = [usage(pid)]
    over = threading.Event()

    def sample() -> None:
        with suppress(psutil.NoSuchProcess):
            while not over.wait(SAMPLE_SECONDS):
                samples.append(usage(pid))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
