"""The trainer's commands of `maskstream`; heavy libraries are imported inside them."""

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from models.errors import InputError


def need(*modules: str, extra: str = "train") -> None:
    """Raise InputError that names the extra to install unless all `modules` are there."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} is not installed: run pip install 'maskstream[{extra}]'"
        )


@contextmanager
def warnings_only() -> Iterator[None]:
    """Keep the service's log of what it loads off the terminal."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)
