"""Short makers of ``Cause``, in the words that kubectl's users know; and the checks that many kinds share."""

import json
from collections.abc import Iterable
from typing import Any

from kubeapi.errors import DUPLICATE, FORBIDDEN, INVALID, NOT_SUPPORTED, REQUIRED, Cause
from kubeapi.metadata import LABEL, LABEL_TEXT, QUALIFIED, SUBDOMAIN, SUBDOMAIN_TEXT, key_causes

Causes = list[Cause]
MAX_SHOWN = 120
LABEL_VALUE = (
    "a valid label must be an empty string or consist of at most 63 alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character"
)


def shown(value: Any) -> str:
    """Return a value as messages quote it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def required(path: str, why: str = "") -> Cause:
    return Cause(REQUIRED, path, f"Required value: {why}" if why else "Required value")


def bad(path: str, value: Any, why: str) -> Cause:
    return Cause(INVALID, path, f"Invalid value: {shown(value)}: {why}")


def unsupported(path: str, value: Any, allowed: Iterable[str]) -> Cause:
    listed = ", ".join(f'"{a}"' for a in sorted(allowed))
    return Cause(NOT_SUPPORTED, path, f"Unsupported value: {shown(value)}: supported values: {listed}")


def duplicate(path: str, value: Any) -> Cause:
    return Cause(DUPLICATE, path, f"Duplicate value: {shown(value)}")


def forbid(path: str, why: str) -> Cause:
    return Cause(FORBIDDEN, path, f"Forbidden: {why}")


def absent(path: str, value: Any) -> Cause:
    return Cause("FieldValueNotFound", path, f"Not found: {shown(value)}")


def one_of(path: str, value: Any, allowed: tuple[str, ...]) -> Causes:
    """Refuse a value outside a set; None is not given."""
    return [] if value is None or value in allowed else [unsupported(path, value, allowed)]


def at_least(path: str, value: Any, low: int = 0) -> Causes:
    """Refuse a number below ``low``; None is not given."""
    if value is None or value >= low:
        return []
    return [bad(path, value, f"must be greater than or equal to {low}")]


def within(path: str, value: Any, low: int, high: int) -> Causes:
    """Refuse a number outside [low, high]; None is not given."""
    return (
        []
        if value is None or low <= value <= high
        else [bad(path, value, f"must be between {low} and {high}, inclusive")]
    )


def dns_label(path: str, value: Any) -> Causes:
    """Refuse what is no DNS label; an empty one is missing."""
    if not value:
        return [required(path)]
    if len(value) > 63:
        return [bad(path, value, "must be no more than 63 characters")]
    return [] if LABEL.fullmatch(value) else [bad(path, value, LABEL_TEXT)]


def dns_name(path: str, value: Any) -> Causes:
    """Refuse what is no DNS subdomain; an empty one is missing."""
    if not value:
        return [required(path)]
    if len(value) > 253:
        return [bad(path, value, "must be no more than 253 characters")]
    return [] if SUBDOMAIN.fullmatch(value) else [bad(path, value, SUBDOMAIN_TEXT)]


def labels(path: str, values: Any) -> Causes:
    """Refuse keys and values that cannot be labels."""
    out: Causes = []
    for key, value in (values or {}).items():
        out += key_causes(path, key)
        if len(value) > 63 or (value and not QUALIFIED.fullmatch(value)):
            out.append(bad(path, value, LABEL_VALUE))
    return out


SELECTOR_OPERATORS = ("DoesNotExist", "Exists", "In", "NotIn")


def label_selector(path: str, selector: Any) -> Causes:
    """Refuse a LabelSelector that could never mean something."""
    if not isinstance(selector, dict):
        return []
    out = labels(f"{path}.matchLabels", selector.get("matchLabels"))
    for i, entry in enumerate(selector.get("matchExpressions") or ()):
        out += requirement(f"{path}.matchExpressions[{i}]", entry, SELECTOR_OPERATORS)
    return out


def requirement(path: str, entry: dict[str, Any], operators: tuple[str, ...]) -> Causes:
    """Refuse one matchExpressions entry that could never match."""
    operator, values = entry.get("operator"), entry.get("values") or []
    out = key_causes(f"{path}.key", str(entry.get("key", "")))
    if operator not in operators:
        out.append(bad(f"{path}.operator", operator, "not a valid selector operator"))
    elif operator in ("In", "NotIn") and not values:
        out.append(required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
    elif operator in ("Exists", "DoesNotExist") and values:
        out.append(forbid(f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
    elif operator in ("Gt", "Lt") and len(values) != 1:
        out.append(required(f"{path}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'"))
    return out


def int_or_percent(path: str, value: Any) -> Causes:
    """Refuse what is neither a count nor a percentage; None is not given."""
    if value is None:
        return []
    if isinstance(value, int) and not isinstance(value, bool):
        return at_least(path, value)
    text = str(value)
    if text.endswith("%") and text[:-1].isdigit() and text.isascii():
        return []
    return [bad(path, value, "must be an integer or percentage (e.g '5%%')".replace("%%", "%"))]


def more_than_all(path: str, value: Any) -> Causes:
    """Refuse a percentage above 100."""
    text = str(value)
    number = text[:-1] if text.endswith("%") else ""
    return [bad(path, value, "must not be greater than 100%")] if number.isdigit() and int(number) > 100 else []
