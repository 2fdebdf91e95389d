"""The JSONPath that printer columns are written in: ``.a.b``, ``['a.b']``, ``[0]``, ``[*]``, ``[?(@.a=="b")]``."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(
    r"""\.\.|\.?\*
      | \.(?P<name>(?:\\.|[^.\[\]\\*])+)
      | \[(?P<quote>['"])(?P<quoted>(?:\\.|(?!(?P=quote)).)*)(?P=quote)\]
      | \[(?P<index>-?\d+)\]
      | \[(?P<from>-?\d*):(?P<to>-?\d*)\]
      | \[\*\]
      | \[\?\(\s*@(?P<path>[^=!<>\s]+)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>[^)]+?))?\s*\)\]
    """,
    re.VERBOSE,
)
MAX_PATH = 1024

Step = Callable[[Any], Iterable[Any]]


class BadPath(ValueError):
    """The text is no JSONPath that we read."""


@lru_cache(maxsize=1024)
def compile_path(text: str) -> tuple[Step, ...]:
    """Return the steps of ``text`` (with or without braces and ``$``). Raises BadPath."""
    path = text.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    if len(path) > MAX_PATH:
        raise BadPath(f"a JSONPath is at most {MAX_PATH} characters")
    if path and path[0] not in ".[":
        path = "." + path
    steps: list[Step] = []
    at = 0
    while at < len(path):
        found = _TOKEN.match(path, at)
        if found is None or found.group() == "..":
            raise BadPath(f"cannot read JSONPath {text!r} from position {at}")
        steps.append(_step(found))
        at = found.end()
    return tuple(steps)


def find(value: Any, text: str) -> list[Any]:
    """Return what ``text`` selects in ``value``, in document order; nothing is missing silently but absent fields."""
    found = [value]
    for step in compile_path(text):
        found = [hit for one in found for hit in step(one)]
    return found


def _step(token: re.Match[str]) -> Step:
    if token["name"] is not None:
        return _field(re.sub(r"\\(.)", r"\1", token["name"]))
    if token["quoted"] is not None:
        return _field(re.sub(r"\\(.)", r"\1", token["quoted"]))
    if token["index"] is not None:
        return _index(int(token["index"]))
    if token["from"] is not None:
        start, stop = (int(t) if t else None for t in (token["from"], token["to"]))
        return lambda value: value[start:stop] if isinstance(value, list) else ()
    if token["path"] is not None:
        return _filter(token["path"], token["op"], token["value"])
    return _each


def _field(name: str) -> Step:
    def step(value: Any) -> Iterable[Any]:
        return (value[name],) if isinstance(value, dict) and name in value else ()

    return step


def _index(index: int) -> Step:
    def step(value: Any) -> Iterable[Any]:
        return (value[index],) if isinstance(value, list) and -len(value) <= index < len(value) else ()

    return step


def _each(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _filter(path: str, operator: str | None, text: str | None) -> Step:
    steps = compile_path(path)
    wanted = _literal(text) if text is not None else None

    def matches(value: Any) -> bool:
        found = [value]
        for step in steps:
            found = [hit for one in found for hit in step(one)]
        return bool(found) if operator is None else any(_compare(hit, operator, wanted) for hit in found)

    return lambda value: [one for one in _each(value) if matches(one)]


def _literal(text: str) -> Any:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    known = {"true": True, "false": False, "null": None, "nil": None}
    if text in known:
        return known[text]
    try:
        return float(text)
    except ValueError:
        raise BadPath(f"cannot read the value {text!r}: quote a string") from None


def _compare(left: Any, operator: str, right: Any) -> bool:
    if operator == "==":
        return bool(left == right)
    if operator == "!=":
        return bool(left != right)
    if (
        isinstance(left, bool)
        or not isinstance(left, (int, float, str))
        or isinstance(left, str) != isinstance(right, str)
    ):
        return False
    answers = {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}
    return bool(answers[operator])
