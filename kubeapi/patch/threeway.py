"""Differences of two objects as RFC 7386 merge patches, and what becomes of one when the object has moved on (pure).

``merge`` goes down to single fields, and into lists whose items all have a name (containers, ports, env). What two sides
changed in two ways is a Clash, and theirs stays.
"""

from typing import Any, NamedTuple

Json = dict[str, Any]
SETS = ("metadata.finalizers",)  # lists of scalars whose order says nothing
# what kubectl keeps for itself: both sides write it at each apply, and it is no field that a person set
BOOKKEEPING = "metadata.annotations.kubectl.kubernetes.io/last-applied-configuration"


class Clash(NamedTuple):
    """One field that moved in two directions; None is absent."""

    path: str
    base: Any
    mine: Any
    theirs: Any


def diff(before: Json, after: Json) -> Json:
    """Return the merge patch that turns ``before`` into ``after``; empty when they are equal. Nulls count as absent."""
    out: Json = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        both = isinstance(old, dict) and isinstance(new, dict)
        out[key] = diff(old or {}, new or {}) if both else new
    return {key: value for key, value in out.items() if value != {} or after.get(key) == {}}


def merge(base: Json, mine: Json, theirs: Json) -> tuple[Json, list[Clash]]:
    """Return ``theirs`` with the change from ``base`` to ``mine`` made, and what clashed.

    ``base`` and ``mine`` may be whole objects, or the two merge patches of one change (``diff`` both ways).
    """
    clashes: list[Clash] = []
    return _fields(base, mine, theirs, "", clashes), clashes


def _fields(base: Json, mine: Json, theirs: Json, path: str, clashes: list[Clash]) -> Json:
    out = dict(theirs)
    for key in {**base, **mine}:
        where = f"{path}.{key}" if path else key
        merged = _value(base.get(key), mine.get(key), theirs.get(key), where, clashes)
        if merged is None:
            out.pop(key, None)
        else:
            out[key] = merged
    return out


def _value(base: Any, mine: Any, theirs: Any, path: str, clashes: list[Clash]) -> Any:
    if mine in (base, theirs):
        return theirs
    if isinstance(mine, dict) and isinstance(theirs, dict | None) and isinstance(base, dict | None):
        if theirs is None and not base:
            return _solid(mine)
        return _fields(base or {}, mine, theirs or {}, path, clashes)
    if base == theirs:
        return _solid(mine)
    if isinstance(mine, list) and isinstance(theirs, list) and isinstance(base, list | None):
        merged = _lists(base or [], mine, theirs, path, clashes)
        if merged is not None:
            return merged
    if path != BOOKKEEPING:
        clashes.append(Clash(path, base, mine, theirs))
    return theirs


def _lists(base: list[Any], mine: list[Any], theirs: list[Any], path: str, clashes: list[Clash]) -> list[Any] | None:
    if path in SETS:
        gone = [item for item in base if item not in mine]
        return [i for i in theirs if i not in gone] + [i for i in mine if i not in base and i not in theirs]
    named = [_by_name(items) for items in (base, mine, theirs)]
    if any(items is None for items in named):
        return None
    old, new, now = (items or {} for items in named)
    out = []
    for name in {**now, **new}:
        merged = _value(old.get(name), new.get(name), now.get(name), f"{path}[{name}]", clashes)
        if merged is not None:
            out.append(merged)
    return out


def _by_name(items: list[Any]) -> dict[str, Json] | None:
    """Return the items by name; None when they have none, or one twice."""
    out = {item["name"]: item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)}
    return out if len(out) == len(items) else None


def _solid(value: Any) -> Any:
    """Return ``value`` without the nulls that mean absent."""
    if not isinstance(value, dict):
        return value
    return {key: _solid(item) for key, item in value.items() if item is not None}


def covers(seen: Any, theirs: Any) -> bool:
    """Whether ``theirs`` still says all that ``seen`` does; what the other side has filled in beside it does not count."""
    if isinstance(seen, dict):
        there = theirs if isinstance(theirs, dict) else {}
        return all(covers(value, there.get(key)) for key, value in seen.items())
    if isinstance(seen, list) and isinstance(theirs, list):
        return len(seen) == len(theirs) and all(covers(*pair) for pair in zip(seen, theirs, strict=True))
    return bool(seen == theirs)
