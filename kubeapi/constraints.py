"""The value rules of a schema node, each compiled to a function that explains itself."""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from kubeapi.errors import INVALID, NOT_SUPPORTED, TOO_LONG

# Returns (reason, message) when the value breaks the rule; the message does not repeat the field.
Verdict = tuple[str, str]
Constraint = Callable[[Any, str], Verdict | None]


def show(value: Any) -> str:
    """Return a value as messages quote it: JSON, cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


@lru_cache(maxsize=512)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text.replace(r"\z", r"\Z"))


def _bad(value: Any, field: str, text: str) -> Verdict:
    return (INVALID, f"Invalid value: {show(value)}: {field or 'it'} in body {text}")


def _enum(allowed: list[Any]) -> Constraint:
    listed = ", ".join(show(v) for v in allowed)

    def check(value: Any, _field: str) -> Verdict | None:
        if any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
            return None
        return (NOT_SUPPORTED, f"Unsupported value: {show(value)}: supported values: {listed}")

    return check


def _text_pattern(pattern: str) -> Constraint:
    def check(value: Any, field: str) -> Verdict | None:
        if not isinstance(value, str) or _pattern(pattern).search(value):
            return None
        return _bad(value, field, f"should match '{pattern}'")

    return check


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bounds(schema: Mapping[str, Any]) -> list[Constraint]:
    out: list[Constraint] = []
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        strict = bool(schema.get("exclusiveMinimum"))
        text = f"should be greater than {'' if strict else 'or equal to '}{low}"
        out.append(lambda v, f: _bad(v, f, text) if _number(v) and (v <= low if strict else v < low) else None)
    if high is not None:
        strict_high = bool(schema.get("exclusiveMaximum"))
        high_text = f"should be less than {'' if strict_high else 'or equal to '}{high}"
        out.append(
            lambda v, f: _bad(v, f, high_text) if _number(v) and (v >= high if strict_high else v > high) else None
        )
    step = schema.get("multipleOf")
    if step:
        out.append(lambda v, f: _bad(v, f, f"should be a multiple of {step}") if _number(v) and v % step else None)
    return out


def _sizes(schema: Mapping[str, Any]) -> list[Constraint]:
    out: list[Constraint] = []
    for kind, json_type, unit in (
        ("Length", str, "chars long"),
        ("Items", list, "items"),
        ("Properties", dict, "properties"),
    ):
        low, high = schema.get(f"min{kind}"), schema.get(f"max{kind}")
        if low is not None:
            out.append(_at_least(low, json_type, unit))
        if high is not None:
            out.append(_at_most(high, json_type, unit))
    return out


def _at_least(low: int, json_type: Any, unit: str) -> Constraint:
    verb = "be" if json_type is str else "have"
    return lambda v, f: (
        _bad(v, f, f"should {verb} at least {low} {unit}") if isinstance(v, json_type) and len(v) < low else None
    )


def _at_most(high: int, json_type: Any, unit: str) -> Constraint:
    def check(value: Any, _field: str) -> Verdict | None:
        if not isinstance(value, json_type) or len(value) <= high:
            return None
        if json_type is str:
            return (TOO_LONG, f"Too long: may not be more than {high} bytes")
        return ("FieldValueTooMany", f"Too many: {len(value)}: must have at most {high} {unit}")

    return check


def _is_date_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None and "T" in text.upper()
    except ValueError:
        return False


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y-%m-%d")  # noqa: DTZ007  a date has no zone
    except ValueError:
        return False
    return True


def _is_ip(version: int) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        try:
            return ipaddress.ip_address(text).version == version
        except ValueError:
            return False

    return test


_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+|0")
_UUID = re.compile(r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S*")
FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": _is_date_time,
    "date": _is_date,
    "ipv4": _is_ip(4),
    "ipv6": _is_ip(6),
    "uuid": lambda t: _UUID.fullmatch(t) is not None,
    "email": lambda t: _EMAIL.fullmatch(t) is not None,
    "uri": lambda t: _URI.fullmatch(t) is not None,
    "duration": lambda t: _DURATION.fullmatch(t) is not None,
}
INTEGER_BITS = {"int32": 31, "int64": 63}


def _format(name: str) -> list[Constraint]:
    if name in INTEGER_BITS:
        limit = 1 << INTEGER_BITS[name]
        return [
            lambda v, f: _bad(v, f, f"should fit in {name}") if isinstance(v, int) and not -limit <= v < limit else None
        ]
    test = FORMATS.get(name)
    if test is None:
        return []
    return [lambda v, f: _bad(v, f, f"must be of type {name}") if isinstance(v, str) and not test(v) else None]


def constraints_of(schema: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """Return the value rules of one schema node."""
    out: list[Constraint] = []
    if schema.get("enum"):
        out.append(_enum(schema["enum"]))
    if schema.get("pattern"):
        out.append(_text_pattern(schema["pattern"]))
    if schema.get("format"):
        out += _format(schema["format"])
    return tuple(out + _bounds(schema) + _sizes(schema))
