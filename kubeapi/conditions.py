"""Conditions of a status: one per type, its transition time moves only when its status does."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from proto.kit.clock import rfc3339

Json = dict[str, Any]


def condition(status: Json, kind: str) -> Json | None:
    """Return the condition of type ``kind``, None when it is not said."""
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), None)


def is_true(status: Json, kind: str) -> bool:
    """Whether the condition is said, and is True."""
    found = condition(status, kind)
    return found is not None and found.get("status") == "True"


def with_condition(
    conditions: Iterable[Json],
    kind: str,
    status: str,
    reason: str,
    message: str,
    now: datetime,
    *,
    updated: bool = False,
) -> list[Json]:
    """Return the conditions with this one set. ``updated`` also keeps ``lastUpdateTime`` (deployments)."""
    held = list(conditions)
    before = next((c for c in held if c.get("type") == kind), None)
    at = rfc3339(now)
    made: Json = {"type": kind, "status": status, "lastTransitionTime": at}
    if updated:
        made["lastUpdateTime"] = at
    made.update({key: text for key, text in (("reason", reason), ("message", message)) if text})
    if before is None:
        return [*held, made]
    if before.get("status") == status:
        made["lastTransitionTime"] = before.get("lastTransitionTime") or at
        same = all(before.get(key) == made.get(key) for key in ("reason", "message"))
        if same:
            return held
    return [made if c is before else c for c in held]


def without_condition(conditions: Iterable[Json], kind: str) -> list[Json]:
    return [c for c in conditions if c.get("type") != kind]
