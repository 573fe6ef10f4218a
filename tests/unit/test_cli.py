"""The command line as a shell sees it: exit codes, one line for each mistake, help at once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stream_server import cli
from stream_server.errors import InvalidPicture, SettingsError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("MASKSTREAM__")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("MASKSTREAM_CONFIG", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def maskstream(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from stream_server.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=60,
        check=False,
    )


BAD = {
    "no such command": ["serv"],
    "no such option": ["serve", "--prot", "80"],
    "no such config command": ["config", "shw"],
    "port not a number": ["serve", "--port", "http"],
    "port too high": ["serve", "--port", "70000"],
    "port negative": ["serve", "--port", "-1"],
    "port without value": ["serve", "--port"],
    "empty host": ["serve", "--host", ""],
    "stray argument": ["serve", "gate"],
    "source without name": ["serve", "--source", "rtsp://admin:hunter2@cam/s"],
    "source with a query for a name": ["serve", "--source", "rtsp://admin:hunter2@cam/s?a=b"],
    "source without URL": ["serve", "--source", "gate="],
    "source name not valid": ["serve", "--source", "Gate 1=demo:"],
    "source name twice": ["serve", "--source", "a=demo:", "--source", "a=demo:"],
    "source scheme unknown": ["serve", "--source", "a=ftp://admin:hunter2@cam/s"],
    "source without host": ["serve", "--source", "a=rtsp://admin:hunter2@/s"],
    "source port not a number": ["serve", "--source", "a=rtsp://admin:hunter2@cam:x/s"],
    "source with a blank": ["serve", "--source", "a=rtsp://admin:hunter2 @cam/s"],
    "certificate without key": ["serve", "--tls-cert", "cert.pem"],
    "certificate not there": ["serve", "--tls-cert", "cert.pem", "--tls-key", "key.pem"],
    "log format unknown": ["serve", "--log-format", "xml"],
    "log level unknown": ["serve", "--log-level", "loud"],
    "state folder empty": ["serve", "--state-dir", ""],
    "config not there": ["serve", "--config", "none.yaml"],
    "config a folder": ["serve", "--config", "."],
    "config not YAML": ["config", "check", "--config", "broken.yaml"],
    "config with an unknown key": ["config", "check", "--config", "unknown.yaml"],
    "config with unknown weights": ["config", "check", "--config", "weights.yaml"],
    "config a binary": ["config", "show", "--config", "binary.yaml"],
    "predict without input": ["predict"],
    "predict what is not there": ["predict", "none.jpg"],
    "predict an empty folder": ["predict", "empty"],
    "predict a glob without match": ["predict", "*.jpeg"],
    "predict onto its input": ["predict", "picture.jpg", "--out", "."],
    "predict into a file": ["predict", "picture.jpg", "--out", "broken.yaml"],
    "predict with a wrong config": ["predict", "picture.jpg", "--config", "unknown.yaml"],
    "predict with an unknown option": ["predict", "picture.jpg", "--jsn"],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_exit_code_2_and_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.yaml").write_text("server: [")
    (tmp_path / "unknown.yaml").write_text("server: {prot: 80}")
    (tmp_path / "weights.yaml").write_text("classifier: {weights: none-such}")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "picture.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert cli.run(BAD[case]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("maskstream: ")
    assert told.err.count("\n") == 1
    assert len(told.err) > 30
    assert "Traceback" not in told.err
    assert "hunter2" not in told.err


BAD_VARIABLES = {
    "MASKSTREAM__SERVER__PORT": "http",
    "MASKSTREAM__SERVER__PROT": "80",
    "MASKSTREAM_PORT": "80",
    "MASKSTREAM_CONFIG": "none.yaml",
    "MASKSTREAM__API__SOURCE_SCHEMES": "[",
    "MASKSTREAM__SOURCES__GATE": "rtsp://admin:hunter2@/s",
}


@pytest.mark.parametrize("name", BAD_VARIABLES)
def test_bad_variables(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, BAD_VARIABLES[name])
    assert cli.run(["config", "check"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert name in told or BAD_VARIABLES[name] in told
    assert "hunter2" not in told


def test_real_process_says_one_line_and_no_traceback() -> None:
    done = maskstream("serve", "--port", "70000")
    assert done.returncode == 2
    assert done.stderr == (
        "maskstream: command line: server.port: must be less than or equal to 65535, not 70000\n"
    )


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = maskstream("serve", "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"server.port {port}: cannot listen there" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["config"]])
def test_no_arguments_show_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.startswith("Usage: maskstream")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], ["serve", "predict", "config", "maskstream serve --source demo=demo:"]),
        (["serve", "--help"], ["--source", "--tls-cert", "Examples:", "rtsp://"]),
        (["predict", "--help"], ["--out", "--json", "Examples:", "exit code is 1"]),
        (["config", "--help"], ["show", "check"]),
        (["serve", "-h"], ["--log-level"]),
        (["--version"], ["maskstream "]),
    ],
)
def test_help(arguments: list[str], says: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 0
    text = capsys.readouterr().out
    assert [word for word in says if word not in text] == []


def test_help_loads_nothing_heavy() -> None:
    """So that it comes at once: in 0.2 to 0.3 s, where torch alone takes more than 2."""
    assert maskstream("--help").returncode == 0
    code = (
        "import sys; from stream_server.cli import run; run(['--help']); "
        "print([m for m in ('torch', 'cv2', 'numpy', 'av', 'openvino', 'fastapi') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_config_show_hides_passwords_and_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["config", "show", "--source", "gate=rtsp://admin:hunter2@cam/s"]) == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert "rtsp://***@cam/s" in shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert cli.run(["config", "show", "--config", "shown.yaml"]) == 0
    assert capsys.readouterr().out == shown


def test_config_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", "check", "--source", "demo=demo:"]) == 0
    assert capsys.readouterr().out == "The configuration is right: 1 stream.\n"


def test_serve_hands_over_settings_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from stream_server import app
    from stream_server.telemetry import logging

    seen = []

    def serve(settings: object) -> int:
        seen.append(settings)
        return 1

    monkeypatch.setattr(app, "serve", serve)
    monkeypatch.setattr(logging, "configure", lambda fmt, level: seen.append((fmt, level)))
    arguments = ["--host", "::1", "--port", "0", "--source", "a=demo:", "--source", "b=rtsp://h/"]
    assert cli.run(["serve", *arguments, "--log-format", "json", "--log-level", "debug"]) == 1
    assert seen[0] == ("json", "debug")
    assert (seen[1].server.host, seen[1].server.port) == ("::1", 0)  # type: ignore[attr-defined]
    assert list(seen[1].sources) == ["a", "b"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (SettingsError("two\nlines"), 2, "maskstream: two\nmaskstream: lines\n"),
        (InvalidPicture("rtsp://u:hunter2@h is bad"), 1, "maskstream: rtsp://***@h is bad\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_of_the_work(
    error: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_settings", fail)
    assert cli.run(["config", "show"]) == code
    assert capsys.readouterr().err == told


def test_a_bug_is_one_line_too() -> None:
    code = (
        "import stream_server.cli as c, sys\n"
        "def fail(*_): raise KeyError('rtsp://u:hunter2@h')\n"
        "c._settings = fail; sys.argv = ['maskstream', 'config', 'show']; c.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("maskstream: this is a bug: KeyError")
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("arguments", [["config", "show"], ["--version"]])
def test_a_closed_pipe_is_no_drama(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from stream_server.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""
