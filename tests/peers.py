"""The real programs that the tests run: the service, an RTSP server, Prometheus, Chromium."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parent.parent
START_SECONDS = 60
STOP_SECONDS = 5


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program(name: str) -> str:
    """Path of a program, also of one that `make test` unpacked into .venv."""
    unpacked = ROOT / ".venv" / "prometheus" / "usr" / "bin" / name
    found = shutil.which(name) or (str(unpacked) if unpacked.is_file() else None)
    assert found, f"{name} is missing: `make test` installs it"
    return found


def wait_until(check: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true answer of `check`, asked ten times a second."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return answer


def answers(url: str) -> bool:
    """Whether an HTTP GET gets a 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def end(process: subprocess.Popen[Any], seconds: float) -> float:
    """SIGTERM; returns how long it took. Kills and raises TimeoutExpired if it takes longer."""
    started = time.monotonic()
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    return time.monotonic() - started


@dataclass
class Service:
    """A running `maskstream serve`. Whoever ends it in a test does so by `stop`."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    state_dir: Path
    stopped: bool = False

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def text(self, path: str) -> str:
        """The text of the answer to a GET."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def ask(self, method: str, path: str, body: object = None) -> int:
        """The status of a request with a JSON body."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def stop(self) -> float:
        """SIGTERM; checks that it ends in time and well. Returns the seconds it took."""
        self.stopped = True
        took = end(self.process, STOP_SECONDS)
        assert self.process.returncode == 0, f"exit code {self.process.returncode}"
        return took


MASKSTREAM = (str(Path(sys.executable).parent / "maskstream"),)


def start_service(
    folder: Path,
    cache: Path,
    *args: str,
    env: Mapping[str, str],
    command: Sequence[str] = MASKSTREAM,
) -> Service:
    """Start the installed `maskstream serve` with its state in `folder`; waits for /readyz."""
    port = free_port()
    log = folder / f"serve-{port}.log"
    state = folder / "state"
    clean = {name: text for name, text in os.environ.items() if not name.startswith("MASKSTREAM")}
    given = {"MASKSTREAM__STATE_DIR": str(state), "MASKSTREAM__CACHE_DIR": str(cache)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "serve", "--port", str(port), *args],
            env=clean | given | env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = Service(f"http://127.0.0.1:{port}", port, process, log, state)

    def ready() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}:\n{log.read_text()}"
        return answers(service.url + "/readyz")

    try:
        wait_until(ready, START_SECONDS, f"/readyz of maskstream serve {' '.join(args)}")
    except BaseException:
        process.kill()
        process.wait()
        print(log.read_text())
        raise
    return service


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str
    process: subprocess.Popen[bytes]

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The instant vector of a query: [{"metric": labels, "value": [time, text]}]."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{promql}: {error.read().decode()}") from error
        return result

    def value(self, promql: str) -> float | None:
        """The only value of a query; None if there is none yet."""
        result = self.query(promql)
        assert len(result) <= 1, f"{promql} has {len(result)} series"
        return float(result[0]["value"][1]) if result else None


def start_prometheus(folder: Path, config: Path) -> Prometheus:
    """Start a Prometheus of the tests' own with its data in `folder`; waits until it is ready."""
    port = free_port()
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                find_program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}", process)
    try:
        wait_until(lambda: answers(prometheus.url + "/-/ready"), 30, "Prometheus is ready")
    except BaseException:
        process.kill()
        process.wait()
        print(log.read_text())
        raise
    return prometheus


CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextmanager
def open_chromium(camera: Path | None = None, *, flags: tuple[str, ...] = ()) -> Iterator[Browser]:
    """Debian's Chromium, headless; `camera` is the MJPEG file that it has for a camera."""
    given = [*CHROMIUM_FLAGS, *flags]
    if camera is not None:
        given.append(f"--use-file-for-fake-video-capture={camera}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_program("chromium"), headless=True, args=given
        )
        try:
            yield browser
        finally:
            browser.close()
