"""The trainer's commands of `maskstream`; heavy libraries are imported inside them."""

import importlib.util

from models.errors import InputError


def need(*modules: str, extra: str = "train") -> None:
    """Raise InputError that names the extra to install unless all `modules` are there."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} is not installed: run pip install 'maskstream[{extra}]'"
        )
