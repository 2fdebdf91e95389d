"""Settings of a daemon: one frozen msgspec Struct; file, environment and ``--set`` over its defaults.

Order, later wins: defaults, YAML files in order, environment ``SKERRY_<KEY>`` (dots as ``__``), environment
``SKERRY_<PROGRAM>__<KEY>``, ``--set key=value``. An unknown key is an error that names it and the nearest known one; in the
environment, which daemons may share, one that only another of them knows is not ours to judge.
"""

import difflib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from proto.kit.errors import UsageError

S = TypeVar("S", bound=msgspec.Struct)
ENV_PREFIX = "SKERRY_"
PROGRAMS = ("cloudcore", "edgecore")
MAX_FILE_BYTES = 1 << 20
UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)  # the loader lets wrong dates and bottomless nesting out


class Doc(msgspec.Struct, frozen=True):
    """One setting as documentation shows it."""

    key: str
    type: str
    default: str
    text: str


def load(
    kind: type[S],
    *,
    file: Path | None = None,
    files: Iterable[Path] = (),
    env: Mapping[str, str] | None = None,
    sets: Iterable[str] = (),
    program: str = "",
    foreign: Iterable[str] = (),
) -> S:
    """Return ``kind`` filled from all sources. Raises UsageError naming the key and the nearest known one.

    ``foreign``: keys that another daemon knows and this one does not, a whole section with the dot at its end.
    """
    values: dict[str, Any] = {}
    known = known_keys(kind)
    for source in ([file] if file is not None else []) + list(files):
        for key, value in _flatten(_read_yaml(source)).items():
            _put(values, known, key, value, where=str(source))
    for name, key, text in _from_environment(os.environ if env is None else env, program, tuple(foreign)):
        _put(values, known, key, _scalar(text), where=f"environment {name}")
    for pair in sets:
        key, sep, text = pair.partition("=")
        if not sep:
            raise UsageError(f"--set {pair}: write it as key=value")
        _put(values, known, key.strip(), _scalar(text), where=f"--set {pair}")
    try:
        found = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"settings: {_sentence(str(error))}") from error
    _check_numbers(found)
    return found


def known_keys(kind: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """Return every leaf key of ``kind``, dotted, in declaration order."""
    out: list[str] = []
    for field in msgspec.structs.fields(kind):
        inner = _struct_of(field.type)
        key = prefix + field.name
        out += known_keys(inner, key + ".") if inner is not None else [key]
    return out


def describe(kind: type[msgspec.Struct], prefix: str = "") -> list[Doc]:
    """Return key, type, default and the ``Annotated[..., Meta(description=...)]`` text of every setting."""
    out: list[Doc] = []
    for field in msgspec.structs.fields(kind):
        inner = _struct_of(field.type)
        if inner is not None:
            out += describe(inner, prefix + field.name + ".")
            continue
        meta = [m for m in getattr(field.type, "__metadata__", ()) if isinstance(m, msgspec.Meta)]
        text = (meta[0].description or "") if meta else ""
        bare = getattr(field.type, "__origin__", field.type) if meta else field.type
        default = (
            field.default_factory()
            if field.default is msgspec.NODEFAULT and callable(field.default_factory)
            else field.default
        )
        out.append(Doc(prefix + field.name, getattr(bare, "__name__", str(bare)), str(default), text))
    return out


def to_yaml(settings: msgspec.Struct) -> str:
    """Return what ``--print-settings`` prints: the settings in force, as a file that can be read back."""
    return yaml.safe_dump(msgspec.to_builtins(settings), sort_keys=False)


def _sentence(text: str) -> str:
    """msgspec's words with the key first: ``api.port: expected `int` <= 65535``."""
    what, _, where = text.partition(" - at `$.")
    return f"{where.rstrip('`')}: {what[0].lower()}{what[1:]}" if where else text


def _check_numbers(settings: msgspec.Struct, prefix: str = "") -> None:
    """Every number here is an amount, a time or a port. Raises UsageError for one below 0, NaN and infinity."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, msgspec.Struct):
            _check_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not 0 <= value < math.inf:
            raise UsageError(f"settings: {prefix}{name}: {value} is no finite number from 0 on")


def _struct_of(annotation: Any) -> type[msgspec.Struct] | None:
    bare = getattr(annotation, "__origin__", annotation)
    return bare if isinstance(bare, type) and issubclass(bare, msgspec.Struct) else None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            text = handle.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"settings file {file}: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise UsageError(f"settings file {file} is larger than {MAX_FILE_BYTES} bytes")
    try:
        loaded = yaml.safe_load(text) or {}
    except UNREADABLE as error:
        raise UsageError(f"settings file {file} is not YAML: {_reason(error)}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"settings file {file}: the top level must be a mapping of settings")
    return loaded


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
    return (str(error).splitlines() or ["unreadable"])[0]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _from_environment(env: Mapping[str, str], program: str, foreign: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield (variable, key, text): those for all daemons first, those for this one alone come over them."""
    shared, own = [], []
    for name, text in sorted(env.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        key = name[len(ENV_PREFIX) :].lower().replace("__", ".")
        first, dot, rest = key.partition(".")
        if not dot or first not in PROGRAMS:
            if not any(key == each or (each.endswith(".") and key.startswith(each)) for each in foreign):
                shared.append((name, key, text))
        elif first == program:
            own.append((name, rest, text))
    yield from shared
    yield from own


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except UNREADABLE:
        return text


def _put(values: dict[str, Any], known: list[str], key: str, value: Any, *, where: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        hint = f"; the nearest known one is '{near[0]}'" if near else ""
        raise UsageError(f"unknown setting '{key}' in {where}{hint}")
    *path, leaf = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[leaf] = value
