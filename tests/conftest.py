"""Fixtures for all tests. Real peers run on 127.0.0.1, on free ports; the tests end them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import structlog
from playwright.sync_api import Browser

from tests import peers
from tests.media import clips

IN_CI = os.environ.get("CI") == "true"
REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()
LEFT_OUT = pytest.StashKey[int]()


# --- the real data --------------------------------------------------------------------------------


def shared_folder() -> Path:
    """Where the real data lies: $MASKSTREAM_SHARED, or shared/ beside the repository."""
    given = os.environ.get("MASKSTREAM_SHARED")
    return Path(given) if given else peers.ROOT.parent / "shared"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without the real data its tests are left out, except in CI, where its absence is an error."""
    if (shared_folder() / "data").is_dir():
        return
    if IN_CI:
        raise pytest.UsageError(f"{shared_folder()} is missing; set MASKSTREAM_SHARED")
    needing = [item for item in items if _needs_shared(item)]
    config.stash[LEFT_OUT] = len(needing)
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if item not in needing]


def _needs_shared(item: pytest.Item) -> bool:
    return "shared_data" in getattr(item, "fixturenames", ()) or "shared" in item.keywords


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was left out and why."""
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{left_out} tests on real pictures were left out: {shared_folder()} is not there"
        )


@pytest.fixture(autouse=True)
def logs_as_ever() -> Iterator[None]:
    """What a command that was tried makes of the logs is undone for the next test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data: face-mask-12k/, face-mask-detection/, video/."""
    return shared_folder() / "data"


# --- reports --------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the reports for the fixtures; in CI a skipped or expectedly failing test has failed."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped or may fail: in CI every test runs"
    item.stash.setdefault(REPORTS, {})[report.when or ""] = report
    return report


def _failed(request: pytest.FixtureRequest) -> bool:
    report = request.node.stash.get(REPORTS, {}).get("call")
    return report is None or report.failed


# --- the service ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all services of a run, so that each precision is probed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def server(
    request: pytest.FixtureRequest, tmp_path: Path, cache_dir: Path
) -> Iterator[Callable[..., peers.Service]]:
    """`server("--source", "demo=demo:", env={...})` starts the installed service and waits.

    At the end each is sent SIGTERM and has to be gone in 5 seconds with exit code 0. The log of a
    failed test is printed.
    """
    running: list[peers.Service] = []

    def start(*args: str, env: dict[str, str] | None = None) -> peers.Service:
        running.append(peers.start_service(tmp_path, cache_dir, *args, env=env or {}))
        return running[-1]

    yield start
    problems = []
    for service in running:
        if not service.stopped and service.process.poll() is not None:
            problems.append(f"it ended by itself with {service.process.returncode}")
        elif not service.stopped:
            try:
                service.stop()
            except (AssertionError, subprocess.TimeoutExpired) as error:
                problems.append(f"SIGTERM: {error}")
        if problems or _failed(request):
            print(f"--- {service.log.name}\n{service.log.read_text()[-8000:]}")
    assert not problems, problems


# --- peers ----------------------------------------------------------------------------------------


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives TCP ports of 127.0.0.1 that nobody listens on."""
    return peers.free_port


@pytest.fixture
def free_udp_port() -> Callable[[], int]:
    """Gives UDP ports of 127.0.0.1 that nobody listens on."""
    return lambda: peers.free_port(socket.SOCK_DGRAM)


@pytest.fixture
def chromium() -> Callable[..., AbstractContextManager[Browser]]:
    """`with chromium(camera=PATH) as browser:` a real, headless Chromium."""
    return peers.open_chromium


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[Path], peers.Prometheus]]:
    """`prometheus(CONFIG)`: a real Prometheus."""
    running: list[peers.Prometheus] = []

    def start(config: Path) -> peers.Prometheus:
        running.append(peers.start_prometheus(tmp_path, config))
        return running[-1]

    yield start
    for process in running:
        peers.end(process.process, 20)


# --- clips ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def face_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An H.264 clip of a known bare face, 640x480 at 30 frames/s."""
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "bare.mp4", masked=False)


@pytest.fixture(scope="session")
def masked_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same face with a mask drawn on."""
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "masked.mp4", masked=True)


@pytest.fixture(scope="session")
def fake_camera(tmp_path_factory: pytest.TempPathFactory, face_clip: Path) -> Path:
    """`face_clip` as the file that Chromium takes for its camera."""
    target = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    return clips.write_fake_camera(face_clip, target)


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """A folder for what a person should look at: screenshots. CI keeps it."""
    folder = Path(os.environ.get("MASKSTREAM_ARTIFACTS", peers.ROOT / "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
