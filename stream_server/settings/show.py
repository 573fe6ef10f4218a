"""The configuration as a person reads it: commented YAML without passwords."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from stream_server.settings.schema import Section, Settings
from stream_server.telemetry.logging import redact


def to_yaml(settings: Settings) -> str:
    """All settings as commented YAML that `load` takes; passwords are hidden."""
    return "\n".join(_yaml_lines(settings, 0)).lstrip() + "\n"


def _yaml_lines(section: Section, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, about in type(section).model_fields.items():
        value = getattr(section, name)
        if depth == 0:
            yield ""
        if isinstance(value, Section):
            yield f"{indent}# {(type(value).__doc__ or '').splitlines()[0]}"
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, depth + 1)
        elif name == "sources" and value:
            yield f"{indent}# {about.description}"
            yield f"{indent}{name}:"
            for stream, source in value.items():
                yield f"{indent}  {stream}: {_inline(source)}"
        else:
            yield f"{indent}# {about.description}"
            yield f"{indent}{name}: {_inline(value)}"


def _inline(value: object) -> str:
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, Section):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return redact(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)
