"""Label and field selectors, parsed once and asked many times."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from kubeapi import metadata as rules
from kubeapi.errors import bad_request
from kubeapi.resources import Resource
from kubeapi.stored import ADDED, BOOKMARK, DELETED, MODIFIED, Event

Match = Callable[[dict[str, Any]], bool]
_SET = re.compile(r"(?P<key>\S+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_COMPARE = re.compile(r"(?P<key>[^\s=!<>]+)\s*(?P<op>==|!=|=|>|<)\s*(?P<value>[^\s=!<>]*)")
_EXISTS = re.compile(r"(?P<absent>!?)\s*(?P<key>[^\s=!<>()]+)")
MAX_SELECTOR = 8192  # characters


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    out, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            out.append(text[start:i])
            start = i + 1
    return [part.strip() for part in (*out, text[start:])]


LabelTest = Callable[[dict[str, str]], bool]


def _label_test(term: str) -> LabelTest:
    if found := _SET.fullmatch(term):
        key, values = found["key"], frozenset(v.strip() for v in found["values"].split(","))
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _COMPARE.fullmatch(term):
        key, op, value = found["key"], found["op"], found["value"]
        if op in "<>":
            return _number_test(key, op, value)
        if op == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    found = _EXISTS.fullmatch(term)
    if found is None:
        raise bad_request(
            f"unable to parse the label selector at {term!r}: terms are key, !key, key=value, key!=value, "
            "key in (a,b), key notin (a,b), separated by commas"
        )
    key, absent = found["key"], bool(found["absent"])
    return lambda labels: (key in labels) != absent


def _number_test(key: str, op: str, value: str) -> LabelTest:
    try:
        bound = int(value)
    except ValueError as error:
        raise bad_request(f"label selector {key}{op}{value}: the value after {op} must be an integer") from error

    def test(labels: dict[str, str]) -> bool:
        text = labels.get(key, "")
        number = int(text) if text.lstrip("-").isdigit() else None
        return number is not None and (number > bound if op == ">" else number < bound)

    return test


def label_selector(text: str) -> Match | None:
    """Return a test of objects; None selects everything. Raises 400."""
    if not text.strip():
        return None
    if len(text) > MAX_SELECTOR:
        raise bad_request(f"the label selector is longer than {MAX_SELECTOR} characters")
    tests = [_label_test(term) for term in _split(text)]
    for term in _split(text):
        key = term.lstrip("! ").split("=")[0].split("!")[0].split(" ")[0].split("<")[0].split(">")[0]
        if rules.key_causes("selector", key):
            raise bad_request(f"unable to parse the label selector: {rules.key_causes('selector', key)[0]}")

    def match(obj: dict[str, Any]) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return match


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether every pair of an equality selector is among ``labels``; an empty one selects nothing."""
    return bool(selector) and all(labels.get(k) == v for k, v in selector.items())


def field_value(obj: dict[str, Any], path: str) -> str:
    """Return what a field selector compares: the value as text, "" when absent."""
    at: Any = obj
    for part in path.split("."):
        at = at.get(part) if isinstance(at, dict) else None
    if isinstance(at, dict):  # Event's ``source`` selects by its component
        at = at.get("component")
    if at is None:
        return "false" if path in ("spec.unschedulable", "spec.hostNetwork") else ""
    return str(at).lower() if isinstance(at, bool) else str(at)


def _unescape(value: str) -> str:
    return re.sub(r"\\([\\,=])", r"\1", value)


def field_terms(res: Resource, text: str) -> list[tuple[str, bool, str]]:
    """Return (path, wanted equal, value) of each term. Raises 400 for a field that this kind does not select by."""
    out = []
    for term in re.split(r"(?<!\\),", text):
        if not term.strip():
            continue
        found = re.fullmatch(r"\s*([^=!\s]+)\s*(==|!=|=)\s*(.*?)\s*", term)
        if found is None:
            raise bad_request(f"invalid field selector {term!r}: expected field=value, field==value or field!=value")
        path, op, value = found.groups()
        allowed = ("metadata.name", *(("metadata.namespace",) if res.namespaced else ()), *res.fields)
        if path not in allowed:
            raise bad_request(f"field label not supported: {path} (supported for {res.plural}: {', '.join(allowed)})")
        out.append((path, op != "!=", _unescape(value)))
    return out


def field_selector(res: Resource, text: str) -> Match | None:
    """Return a test of objects; None selects everything. Raises 400."""
    terms = field_terms(res, text) if text.strip() else []
    if not terms:
        return None
    return lambda obj: all((field_value(obj, path) == value) == equal for path, equal, value in terms)


def selector(res: Resource, labels: str, fields: str) -> Match | None:
    """Return one test for both selectors; None selects everything. Raises 400."""
    tests = [t for t in (label_selector(labels), field_selector(res, fields)) if t is not None]
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda obj: all(test(obj) for test in tests)


def select_event(event: Event, match: Match | None) -> Event | None:
    """Return what a watcher with selector ``match`` sees of ``event``: entering is ADDED, leaving is DELETED."""
    if match is None or event.type == BOOKMARK:
        return event
    now = match(event.object)
    if event.type == DELETED:
        before = event.previous
        return event if now or (before is not None and match(before)) else None
    before = event.previous
    was = before is not None and match(before)
    if now:
        return event.as_type(MODIFIED if was else ADDED)
    return event.as_type(DELETED) if was else None


def select_events(events: Sequence[Event], match: Match | None) -> list[Event]:
    """As ``select_event``, for a batch."""
    if match is None:
        return list(events)
    return [seen for event in events if (seen := select_event(event, match)) is not None]
