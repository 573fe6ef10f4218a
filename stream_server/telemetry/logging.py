"""Structured logs through one formatter, with every credential taken out on the way.

structlog and the standard library's loggers (uvicorn, aiortc, libav, asyncio, warnings) share the
same chain, and so do exceptions that nobody caught, in the main thread and in others.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "***"
Format = Literal["auto", "console", "json"]

# "://" as it is written, percent-encoded once or twice, or as JSON in PHP's manner.
_SCHEME = re.compile(
    r"[a-z][a-z0-9+.-]{0,19}(?P<mark>:\\/\\/|(?:[:]|%3a|%253a)(?://|%2f%2f|%252f%252f))",
    re.IGNORECASE,
)
# A second URL in the same run of characters, as in a list: only after one of these.
_NEXT_URL = re.compile(r"[,;\"'|<>()\[\]{}][a-z][a-z0-9+.-]{0,19}://", re.IGNORECASE)
_GAP = re.compile(r"\s|$")
_ENCODED_GAP = re.compile(r"[\s&\"'<>]|$")
_AT = re.compile(r"@|%40|%2540", re.IGNORECASE)
# What can only be "user:password" before an '@' that is missing or lies behind white space.
_NOT_A_PORT = re.compile(r"[^\s:/?#\[\]@]*:(?!\d{0,5}(?:[/?#\s.,;\"')\]}<>&:]|$))")
_SECRET_NAMES = (
    r"(?:password|passwd|passphrase|token|secret|credentials?|signature|api_?key"
    r"|(?<![a-z0-9])(?:pass|pwd|sig|auth))"
)
_PARAMETER = re.compile(rf"(?P<name>{_SECRET_NAMES}(?:=|%3d))[^\s&]+", re.IGNORECASE)
_HEADER = re.compile(r"(?P<name>authorization[\"']?\s*[:=]\s*)[^\r\n]+", re.IGNORECASE)
_SECRET_KEY = re.compile(rf"(?:{_SECRET_NAMES}|authorization)$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def redact(text: str) -> str:
    """`text` without the user and password of any URL, secret query parameter or authorization.

    Rather hides too much than too little: a password may hold '@', '/', '#' or a blank.
    """
    if "=" in text or "%3" in text:
        text = _PARAMETER.sub(lambda m: f"{m['name']}{HIDDEN}", text)
    if "uthorization" in text or "UTHORIZATION" in text:
        text = _HEADER.sub(lambda m: f"{m['name']}{HIDDEN}", text)
    parts: list[str] = []
    done = 0
    bare_until = {True: 0, False: 0}  # No '@' before this index; keeps hostile text linear.
    while (scheme := _SCHEME.search(text, done)) is not None:
        start = scheme.end()
        encoded = scheme["mark"] not in ("://", r":\/\/")
        end = start
        if start >= bare_until[encoded]:
            run_end = _run_end(text, start, encoded=encoded)
            end = _userinfo_end(text, start, run_end, encoded=encoded)
            bare_until[encoded] = 0 if end > start else run_end
        if end == start and not encoded and _NOT_A_PORT.match(text, start):
            end = _line_userinfo_end(text, start)
        parts += [text[done:start], HIDDEN] if end > start else [text[done:start]]
        done = end
    parts.append(text[done:])
    return "".join(parts)


def _run_end(text: str, start: int, *, encoded: bool) -> int:
    """Where the characters that a URL may be made of end."""
    gap = (_ENCODED_GAP if encoded else _GAP).search(text, start)
    return gap.start() if gap else len(text)


def _userinfo_end(text: str, start: int, run_end: int, *, encoded: bool) -> int:
    """Where the user and password after `start` end (at their '@'); `start` if there are none."""
    if encoded:
        last = start
        for at in _AT.finditer(text, start, run_end):
            last = at.start()
        return last
    last = text.rfind("@", start, run_end)
    if last < 0:
        return start
    following = _NEXT_URL.search(text, start, run_end)
    before = text.rfind("@", start, following.start()) if following else -1
    return before if before >= 0 else last


def _line_userinfo_end(text: str, start: int) -> int:
    """The end of a user and password that hold blanks, or whose '@' was cut off."""
    line_end = text.find("\n", start)
    at = text.rfind("@", start, line_end if line_end >= 0 else len(text))
    return at if at >= 0 else _run_end(text, start, encoded=False)


def _redact_value(value: object, depth: int = 0) -> object:
    """A loggable twin of `value`: numbers stay, containers are walked, the rest becomes text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact(str(value))
    if depth < 6 and isinstance(value, Mapping):
        return {
            redact(str(key)): _redact_item(str(key), item, depth + 1) for key, item in value.items()
        }
    if depth < 6 and isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item, depth + 1) for item in value]
    return redact(str(value) if isinstance(value, BaseException) else repr(value))


def _redact_item(key: str, value: object, depth: int = 0) -> object:
    if _SECRET_KEY.search(key) and value not in (None, ""):
        return HIDDEN
    return _redact_value(value, depth)


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The structlog processor that applies `redact` to every key's value, however nested."""
    return {key: _redact_item(key, value) for key, value in event.items()}


def _drop_repetition(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn's event once more, with colours
    return event


def _one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Strangers' text must not move the cursor or forge a second log line on a terminal."""
    for key, value in event.items():
        if isinstance(value, str):
            kept = value if key in ("exception", "stack") else value.replace("\n", "\\n")
            event[key] = _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", kept)
    return event


def configure(
    fmt: Format = "auto", level: str = "info", stream: TextIO | None = None
) -> logging.Handler:
    """Send all logs to `stream` (standard error by default); calling again replaces the first.

    `auto` writes for people on a terminal and one JSON object a line elsewhere. `level` is
    debug, info, warning or error. Returns the handler, which is the only one of the root logger.
    """
    target = sys.stderr if stream is None else stream
    for_people = fmt == "console" or (fmt == "auto" and target.isatty())
    local_time = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        local_time if for_people else structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _drop_repetition],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact_event,
                *_rendering(for_people, colours=target.isatty()),
            ],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    _route_everything(handler, level)
    return handler


def _rendering(for_people: bool, *, colours: bool) -> list[Processor]:
    if not for_people:
        return [structlog.processors.JSONRenderer(ensure_ascii=False)]
    console = structlog.dev.ConsoleRenderer(
        # A traceback that shows local variables would show passwords.
        colors=colours,
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [_one_line, console]


def _route_everything(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # These report each connectivity check, which buries everything else.
    quiet = logging.INFO if level == "debug" else logging.WARNING
    for name in ("aioice", "aiortc", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(quiet)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("maskstream").critical("uncaught", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    logging.getLogger("maskstream").critical(
        "uncaught in thread %s",
        args.thread.name if args.thread else "?",
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )
