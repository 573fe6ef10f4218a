"""Credentials never reach a log, whoever logs them; lines stay readable and parseable."""

import io
import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from stream_server.telemetry.logging import configure, redact

PASSWORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Z", "Cc")), min_size=1, max_size=30
)
SCHEMES = st.sampled_from(["rtsp", "rtsps", "http", "https", "turn+tls", "RTSP"])


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    root.handlers[:], root.level = handlers, level
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://admin:secret@10.0.0.5:554/s1?x=1", "rtsp://***@10.0.0.5:554/s1?x=1"),
        ("rtsp://admin:p@ss/w#r?d@cam/s", "rtsp://***@cam/s"),
        ("rtsps://admin:p%40ss@cam/s", "rtsps://***@cam/s"),
        ("rtsp://only-a-user@cam/s", "rtsp://***@cam/s"),
        ("rtsp://admin:my pass word@cam/s failed", "rtsp://***@cam/s failed"),
        ("rtsp://u:a@h1/x and http://v:b@h2", "rtsp://***@h1/x and http://***@h2"),
        ('["rtsp://u:a@h1/x","rtsp://v:b@h2"]', '["rtsp://***@h1/x","rtsp://***@h2"]'),
        ("rtsp://u:a,http://b@h1", "rtsp://***@h1"),
        ("/x?url=rtsp%3A%2F%2Fu%3Ap%2540q%40cam&n=1", "/x?url=rtsp%3A%2F%2F***%40cam&n=1"),
        ("/x?url=rtsp://u:p@cam", "/x?url=rtsp://***@cam"),
        (r'{"url":"rtsp:\/\/u:p@cam\/s"}', r'{"url":"rtsp:\/\/***@cam\/s"}'),
        ("rtsp://admin:cut-off-secr", "rtsp://***"),
        ("http://cam/a?password=x&b=1&token=y#z", "http://cam/a?password=***&b=1&token=***"),
        ("http://cam/a?access_token=x&API_KEY=y", "http://cam/a?access_token=***&API_KEY=***"),
        ("Authorization: Basic dTpw\nnext", "Authorization: ***\nnext"),
        ("rtsp://cam:554/stream is dead", "rtsp://cam:554/stream is dead"),
        ("rtsp://[::1]:8554/cam", "rtsp://[::1]:8554/cam"),
        ("open http://127.0.0.1:8000.", "open http://127.0.0.1:8000."),
        ("mail bob@example.org, see http://h/x", "mail bob@example.org, see http://h/x"),
        ("a compass=north, 5 s: fine", "a compass=north, 5 s: fine"),
    ],
)
def test_redact(text: str, expected: str) -> None:
    assert redact(text) == expected


@given(SCHEMES, PASSWORDS, PASSWORDS)
def test_redacted_text_does_not_depend_on_the_password(scheme: str, one: str, two: str) -> None:
    """Stronger than "the password is not in it": nothing of it can be told, its length included."""

    def told(password: str) -> list[str]:
        whole, half = quote(password, safe=""), quote(password)
        return [
            redact(f"cannot open {scheme}://admin:{password}@cam.lan:554/live?x=1 now"),
            redact(f"cannot open {scheme}://admin:{whole}@cam.lan/live"),
            redact(f"cannot open {scheme}://{whole}@cam.lan/live, or {scheme}://a:{half}@b"),
            redact(f"GET /api?url={quote(f'{scheme}://admin:{whole}@cam/live', safe='')}&y=2"),
            redact(f"GET http://h/x?password={whole}&y=2"),
        ]

    assert told(one) == told(two)


@given(PASSWORDS.filter(lambda password: "@" not in password))
def test_password_with_blanks_between(password: str) -> None:
    text = redact(f"rtsp://admin:x{password} {password}@cam/s")
    assert text == "rtsp://***@cam/s"


def test_redact_is_quick_on_hostile_text() -> None:
    start = time.perf_counter()
    for piece in ("a://", "a", "a%3A//", "a://@", ",a://", "x_", "a://b:c ", "token=", "auth_"):
        redact(piece * 20_000)
        redact(piece * 20_000 + "@")
    assert time.perf_counter() - start < 5


def _fail(url: str) -> None:
    try:
        raise ValueError(f"inner {url}")
    except ValueError as error:
        raise ConnectionError(f"cannot open {url}") from error


SECRET = "hunter2@x"
URL = f"rtsp://admin:{SECRET}@cam/s"


@pytest.mark.parametrize("fmt", ["console", "json"])
def test_no_secret_reaches_the_log(fmt: str) -> None:
    out = io.StringIO()
    configure(fmt, "debug", out)  # type: ignore[arg-type]
    log = structlog.get_logger("ours")
    log.info("added", url=URL, nested={"a": [URL, (URL,)], "password": SECRET}, error=OSError(URL))
    log.info("with %s", URL, credential=SECRET, obj=type("T", (), {"__repr__": lambda _: URL})())
    logging.getLogger("uvicorn.error").warning("GET %s", URL, extra={"peer": URL})
    logging.getLogger("aiortc").error("bad %s", URL)
    warnings.warn(f"odd {URL}", stacklevel=1)
    try:
        _fail(URL)
    except ConnectionError:
        log.exception("lost", url=URL)
        logging.getLogger("libav").exception("lost")
    text = out.getvalue()
    assert "hunter2" not in text
    assert text.count("rtsp://***@cam/s") >= 12
    assert text.count("Traceback") == 4, "chained tracebacks must be there, in both loggers"


def test_uncaught_exceptions_are_logged_redacted() -> None:
    out = io.StringIO()
    configure("json", "info", out)
    thread = threading.Thread(target=_fail, args=(URL,), name="reader")
    thread.start()
    thread.join()
    try:
        _fail(URL)
    except ConnectionError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["uncaught in thread reader", "uncaught"]
    assert all("ConnectionError" in line["exception"] for line in lines)
    assert "hunter2" not in out.getvalue()


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    configure("auto", "info", out)
    structlog.get_logger("ours").info("two\nlines", count=3, ratio=0.5, on=True, none=None, ü="ß")
    logging.getLogger("uvicorn.access").info("%s asked", "peer")
    structlog.get_logger("ours").debug("not shown")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["event"] == "two\nlines"
    assert (first["count"], first["ratio"], first["on"], first["none"]) == (3, 0.5, True, None)
    assert (first["level"], first["logger"], first["ü"]) == ("info", "ours", "ß")
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["logger"]) == ("peer asked", "uvicorn.access")


def test_console_cannot_be_forged() -> None:
    out = io.StringIO()
    configure("console", "info", out)
    structlog.get_logger("ours").info("from\n12:00:00 [info] forged\x1b[2J", name="a\r\x9bb")
    text = out.getvalue()
    assert text.count("\n") == 1
    assert "\x1b[2J" not in text
    assert "\r" not in text
    assert "\x9b" not in text


def test_configure_twice_logs_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("json", "info", first)
    configure("json", "info", second)
    structlog.get_logger("ours").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_other_libraries_handlers_are_replaced() -> None:
    """uvicorn's own handler would print each line a second time, and not redacted."""
    theirs, out = io.StringIO(), io.StringIO()
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.addHandler(logging.StreamHandler(theirs))
    uvicorn.propagate = False
    configure("json", "info", out)
    logging.getLogger("uvicorn.error").info("GET %s", URL, extra={"color_message": URL, "n": 1})
    assert json.loads(out.getvalue()).keys() == {"event", "n", "level", "logger", "timestamp"}
    assert theirs.getvalue() == ""
    assert out.getvalue().count("rtsp://***@cam/s") == 1
