"""``events.k8s.io/v1`` as a view of the core ``Event``: the same objects under newer field names."""

from typing import Any

STORAGE = "core/events"
# core name, events.k8s.io name
RENAMED = (
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
)


def to_view(obj: dict[str, Any]) -> dict[str, Any]:
    """Return a core Event as ``events.k8s.io/v1``."""
    out = dict(obj, apiVersion="events.k8s.io/v1")
    for core, new in RENAMED:
        if core in out:
            out[new] = out.pop(core)
    if not out.get("eventTime"):  # required there, absent in events of the older form
        times = (obj.get("lastTimestamp"), obj.get("firstTimestamp"), obj["metadata"].get("creationTimestamp"))
        out["eventTime"] = next(filter(None, times), None)
    return out


def from_view(obj: dict[str, Any]) -> dict[str, Any]:
    """Return an ``events.k8s.io/v1`` Event as the core one."""
    out = dict(obj, apiVersion="v1")
    for core, new in RENAMED:
        if new in out:
            out[core] = out.pop(new)
    out.setdefault("involvedObject", {})
    return out
