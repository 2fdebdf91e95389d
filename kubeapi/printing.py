"""What every printer of table rows needs: columns, and parts of objects that may be absent."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from kubeapi.durations import age
from kubeapi.resources import Column

NONE, UNSET = "<none>", "<unset>"
Cells = Callable[[dict[str, Any], datetime], list[Any]]


def columns(*names: str, wide: tuple[str, ...] = (), numbers: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """Return text columns (``numbers`` are integers); those in ``wide`` only show with ``-o wide``."""
    return tuple(
        Column(name, "", "integer" if name in numbers else "string", "name" if name == "Name" else "", "", priority)
        for priority, group in enumerate((names, wide))
        for name in group
    )


def part(obj: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the object at ``key``; {} when there is none."""
    found = obj.get(key)
    return found if isinstance(found, dict) else {}


def name(obj: dict[str, Any]) -> str:
    return str(part(obj, "metadata").get("name", ""))


def created(obj: dict[str, Any], now: datetime) -> str:
    """Return the object's age."""
    return age(part(obj, "metadata").get("creationTimestamp"), now)


def few(found: list[str], at_most: int = 3) -> str:
    """Return the first texts and how many more there are."""
    more = f" + {len(found) - at_most} more..." if len(found) > at_most else ""
    return ",".join(found[:at_most]) + more
