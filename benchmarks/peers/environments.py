"""Virtual environments of the peers whose packages contradict maskstream's own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"


class PeerUnavailable(Exception):
    """This peer cannot be measured here; the text is one line that says why."""


def cache_folder() -> Path:
    """Where the environments lie: $XDG_CACHE_HOME/maskstream/peers, else below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "maskstream" / "peers"


def peer_python(name: str) -> Path:
    """The Python that has what `requirements/NAME.txt` pins; made on first use, with pip.

    A changed file makes a new environment in the old one's place. Raises PeerUnavailable if pip
    cannot install it, as without a network.
    """
    wanted = (REQUIREMENTS / f"{name}.txt").read_bytes()
    digest = hashlib.sha256(wanted + sys.version.encode()).hexdigest()
    folder = cache_folder() / name
    python, stamp = folder / "bin" / "python", folder / "made-from"
    if stamp.is_file() and stamp.read_text() == digest:
        return python
    print(f"{name}: installing its pinned packages into {folder} (once)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    _run(name, [sys.executable, "-m", "venv", str(folder)])
    # The file is a whole environment: each package it names, and none that it leaves out.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(name, [*pip, "--no-deps", "-r", str(REQUIREMENTS / f"{name}.txt")])
    stamp.write_text(digest)
    return python


def _run(name: str, words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PeerUnavailable(f"{name} cannot be installed here: {reason}")
