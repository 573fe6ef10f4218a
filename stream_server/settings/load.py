"""The layers of the configuration: one YAML file, the environment, the command line.

The command line wins over the environment, that over the file, and that over the defaults. The
environment is read here and nowhere else; names that nobody knows are refused, not ignored.
"""

from __future__ import annotations

import difflib
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from stream_server.errors import SettingsError
from stream_server.settings.schema import Section, Settings, Source
from stream_server.telemetry.logging import redact

CONFIG_VARIABLE = "MASKSTREAM_CONFIG"
PREFIX = "MASKSTREAM__"
# Read by the test suite, which starts the service with its own environment.
_FOREIGN_VARIABLES = ("MASKSTREAM_SHARED", "MASKSTREAM_ARTIFACTS")

Location = tuple[str | int, ...]


def load(
    config: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings from `config` (or $MASKSTREAM_CONFIG), the environment and `overrides`.

    `overrides` maps dotted keys ("server.port", "sources.gate") to values of the command line.
    `environ` is os.environ if None. Raises SettingsError with one line for each thing wrong, which
    says where it stands (file and line, variable, or command line) and what was meant.
    """
    environ = os.environ if environ is None else environ
    if config is None and environ.get(CONFIG_VARIABLE):
        config = Path(environ[CONFIG_VARIABLE])
    layers = [_file_layer(config)] if config is not None else []
    layers += [_environment_layer(environ), _override_layer(overrides or {})]
    for layer in layers:
        _spell_out_sources(layer.values)
    merged: dict[str, object] = {}
    for layer in layers:
        merged = _merge(merged, layer.values)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        lines = [_explain(problem, layers) for problem in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from error


@dataclass(slots=True)
class _Layer:
    """Values of one origin, nested like the settings, and where each of them stands."""

    values: dict[str, object]
    places: dict[Location, str] = field(default_factory=dict)
    place: str = ""

    def find(self, location: Location) -> str | None:
        """Where the value at `location` stands; None if it does not come from here."""
        node: object = self.values
        for step in location:
            if isinstance(node, dict):
                if step not in node:
                    return None
                node = node[step]
        while location and location not in self.places:
            location = location[:-1]
        return self.places.get(location, self.place)


def _merge(low: Mapping[str, object], high: Mapping[str, object]) -> dict[str, object]:
    """`high` over `low`, table by table."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _spell_out_sources(values: dict[str, object]) -> None:
    """A bare URL and a table of one are the same, so that layers can add to each other."""
    sources = values.get("sources")
    if isinstance(sources, dict):
        for name, source in sources.items():
            if isinstance(source, str):
                sources[name] = {"url": source}


def _put(values: dict[str, object], path: Sequence[str], value: object) -> None:
    for step in path[:-1]:
        below = values.get(step)
        if not isinstance(below, dict):
            below = values[step] = {} if below is None else {"url": below}
        values = below
    values[path[-1]] = value


def _override_layer(overrides: Mapping[str, object]) -> _Layer:
    layer = _Layer({}, place="command line")
    for dotted, value in overrides.items():
        _put(layer.values, dotted.split(".", 2), value)
    return layer


# --- the environment ------------------------------------------------------------------------------


def _environment_layer(environ: Mapping[str, str]) -> _Layer:
    layer = _Layer({}, place="environment")
    problems = []
    for name in sorted(name for name in environ if name.upper().startswith("MASKSTREAM")):
        if name == CONFIG_VARIABLE or _is_foreign(name, environ[name]):
            continue
        path = tuple(name[len(PREFIX) :].lower().split("__"))
        kind = _type_at(path) if name.startswith(PREFIX) else None
        if kind is None:
            problems.append(f"{name}: no such setting{_suggest_variable(name)}")
            continue
        try:
            value = _from_text(environ[name], kind)
        except yaml.YAMLError:
            problems.append(f"{name}: the value is not YAML or JSON, e.g. {_sample(kind)}")
            continue
        _put(layer.values, path, value)
        layer.places[path] = name
    if problems:
        raise SettingsError("\n".join(problems))
    return layer


def _is_foreign(name: str, value: str) -> bool:
    """Kubernetes gives each pod such variables where a Service is called maskstream."""
    of_kubernetes = re.fullmatch(r"MASKSTREAM_(?:SERVICE|PORT)_[A-Z0-9_]+", name) is not None
    return name in _FOREIGN_VARIABLES or of_kubernetes or value.startswith(("tcp://", "udp://"))


def _type_at(path: Sequence[str]) -> Any:
    """The type of the setting at `path`; None where there is none."""
    kind: Any = Settings
    for step in path:
        if isinstance(kind, type) and issubclass(kind, Section) and step in kind.model_fields:
            kind = _bare(kind.model_fields[step].annotation)
        elif get_origin(kind) is dict and step:
            kind = _bare(get_args(kind)[1])
        else:
            return None
    return kind


def _bare(kind: Any) -> Any:
    """The type without Annotated and without "or None"."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return _bare(next(member for member in get_args(kind) if member is not types.NoneType))
    return kind


def _from_text(text: str, kind: Any) -> object:
    """A variable's value: lists and tables are YAML (so also JSON), the rest is taken as it is."""
    if kind is Source and not text.lstrip().startswith("{"):
        return text
    if get_origin(kind) in (tuple, dict) or (isinstance(kind, type) and issubclass(kind, Section)):
        return yaml.safe_load(text)
    return None if text.lower() == "null" else text


def _sample(kind: Any) -> str:
    return '["a", "b"]' if get_origin(kind) is tuple else '{"key": "value"}'


def _variables() -> Iterator[str]:
    yield CONFIG_VARIABLE
    for dotted in _dotted_keys():
        yield PREFIX + dotted.upper().replace(".", "__")


def _dotted_keys() -> Iterator[str]:
    for name, about in Settings.model_fields.items():
        kind = _bare(about.annotation)
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from (f"{name}.{key}" for key in kind.model_fields)
        else:
            yield name


def _suggest_variable(name: str) -> str:
    known = list(_variables())
    squashed = {variable.replace("_", ""): variable for variable in known}
    meant = difflib.get_close_matches(name.upper().replace("_", ""), squashed, n=1, cutoff=0.8)
    if meant:
        return f"; did you mean {squashed[meant[0]]}?"
    last = name.upper().removeprefix("MASKSTREAM").strip("_")
    same_end = [variable for variable in known if variable.endswith(f"__{last}")]
    if last and same_end:
        return f"; did you mean {same_end[0]}?"
    return f"; `maskstream config show` lists all (server.port is {PREFIX}SERVER__PORT)"


# --- the file -------------------------------------------------------------------------------------


def _file_layer(path: Path) -> _Layer:
    layer = _Layer({}, place=str(path))
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return layer
        if not isinstance(root, yaml.MappingNode):
            raise SettingsError(
                f"{path}:1: a table of settings is needed, e.g. server: {{port: 8000}}"
            )
        _note_lines(root, (), str(path), layer.places)
        values = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsError(_file_problem(path, error)) from error
    layer.values = {str(key): value for key, value in values.items() if value is not None}
    return layer


def _file_problem(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path}: the configuration file cannot be read ({error.strerror})"
    if isinstance(error, UnicodeDecodeError):
        return f"{path}: is not UTF-8 text; a YAML file is needed"
    if isinstance(error, RecursionError):
        return f"{path}: not YAML: nested too deeply"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"{path}:{mark.line + 1}" if mark else str(path)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    hint = '; quote a value with a colon, like "demo:"' if "mapping values" in problem else ""
    return redact(f"{place}: not YAML: {problem}{hint}")


def _note_lines(
    node: yaml.Node, location: Location, path: str, places: dict[Location, str]
) -> None:
    """Remember each value's line; a key that is there twice is refused (YAML keeps the last)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*location, str(key.value))
            if inner in places:
                raise SettingsError(
                    f"{path}:{key.start_mark.line + 1}: {'.'.join(map(str, inner))} is there twice "
                    f"(first in line {places[inner].rsplit(':', 1)[1]}); remove one"
                )
            places[inner] = f"{path}:{key.start_mark.line + 1}"
            _note_lines(value, inner, path, places)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*location, index)] = f"{path}:{value.start_mark.line + 1}"
            _note_lines(value, (*location, index), path, places)


# --- what is wrong, in one line -------------------------------------------------------------------


def _explain(problem: Mapping[str, Any], layers: Sequence[_Layer]) -> str:
    location: Location = tuple(problem["loc"])
    of_key = bool(location) and location[-1] == "[key]"
    location = location[:-1] if of_key else location
    place = _place_of(location, layers, whole_table=isinstance(problem["input"], Mapping))
    dotted = ".".join(str(step) for step in location)
    if problem["type"] == "extra_forbidden":
        return redact(f"{place}: unknown key {dotted!r}{_suggest_key(location)}")
    if problem["type"] == "missing":
        return f"{place}: {dotted} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = re.sub(r"^(?:Input|String|Tuple|Value) should", "must", message)
    message = message.split(", unable to parse")[0]
    shown = "" if of_key else _shown(problem["input"], location)
    meant = _suggest_choice(problem)
    return redact(f"{place}: {dotted}: {message}{shown}{meant}").replace("\n", " ")


def _place_of(location: Location, layers: Sequence[_Layer], *, whole_table: bool) -> str:
    """Where it stands. Of a table that several layers fill, the file is the best guess."""
    for around in (location, location[:-1]):
        for layer in layers if whole_table else reversed(layers):
            place = layer.find(around)
            if place:
                return place
    return "settings"


def _shown(value: object, location: Location) -> str:
    """The wrong value, unless it may be secret or is a whole table."""
    if location[:1] in (("sources",), ("webrtc",)):
        return ""
    if isinstance(value, str | int | float | bool) and len(str(value)) <= 80:
        return f", not {value!r}"
    return ""


def _suggest_key(location: Location) -> str:
    around = _type_at([str(step) for step in location[:-1] if not isinstance(step, int)])
    wrong = str(location[-1])
    if get_origin(around) is tuple:
        around = _bare(get_args(around)[0])
    known = list(around.model_fields) if hasattr(around, "model_fields") else []
    near = difflib.get_close_matches(wrong, known, n=1)
    if near:
        return f"; did you mean {'.'.join([*map(str, location[:-1]), near[0]])!r}?"
    elsewhere = [dotted for dotted in _dotted_keys() if dotted.split(".")[-1] == wrong]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _suggest_choice(problem: Mapping[str, Any]) -> str:
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    choices = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
    near = difflib.get_close_matches(problem["input"].lower(), choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
