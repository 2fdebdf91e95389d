"""The ``LabelSelector`` of objects (matchLabels, matchExpressions): as a test of labels, and as kubectl writes it."""

from collections.abc import Callable, Mapping
from typing import Any

Labels = Mapping[str, str]
Test = Callable[[Labels], bool]


def label_test(selector: Any) -> Test:
    """Return a test of labels. None selects nothing, {} everything; an unknown operator selects nothing."""
    if not isinstance(selector, dict):
        return lambda _: False
    pairs = tuple((selector.get("matchLabels") or {}).items())
    tests = tuple(requirement(e) for e in selector.get("matchExpressions") or ())
    if not tests:
        return lambda labels: all(labels.get(k) == v for k, v in pairs)
    return lambda labels: all(labels.get(k) == v for k, v in pairs) and all(test(labels) for test in tests)


def requirement(expression: Mapping[str, Any]) -> Test:
    """Return the test of one matchExpressions entry; Gt and Lt are those of node selectors."""
    key, operator = str(expression.get("key", "")), expression.get("operator")
    values = tuple(expression.get("values") or ())
    if operator == "In":
        return lambda labels: labels.get(key) in values
    if operator == "NotIn":
        return lambda labels: labels.get(key) not in values
    if operator == "Exists":
        return lambda labels: key in labels
    if operator == "DoesNotExist":
        return lambda labels: key not in labels
    if operator in ("Gt", "Lt") and len(values) == 1:
        return lambda labels: _compares(labels.get(key), str(values[0]), above=operator == "Gt")
    return lambda _: False


def _compares(held: str | None, bound: str, *, above: bool) -> bool:
    try:
        return int(held or "") > int(bound) if above else int(held or "") < int(bound)
    except ValueError:
        return False


def as_text(selector: Any) -> str:
    """Return a selector as the query language writes it: ``app=web,tier in (a,b)``. A plain map is its pairs."""
    if not isinstance(selector, dict):
        return ""
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        return ",".join(f"{k}={v}" for k, v in sorted(selector.items()))
    terms = [f"{k}={v}" for k, v in (selector.get("matchLabels") or {}).items()]
    for entry in selector.get("matchExpressions") or ():
        key, values = entry.get("key", ""), ",".join(sorted(map(str, entry.get("values") or ())))
        shown = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": f"{key}",
            "DoesNotExist": f"!{key}",
        }
        terms.append(shown.get(str(entry.get("operator")), key))
    return ",".join(sorted(terms, key=lambda t: t.lstrip("!")))
