"""Kubernetes Events that the edge raises about its own Node; they travel in the message lane (pure)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from proto.kit import canonical

KIND = "event"  # of the message
BAD_WHEN_TRUE = {"MemoryPressure", "DiskPressure", "PIDPressure"}


class Said(NamedTuple):
    """One event before it has a time."""

    type: str  # "Normal" | "Warning"
    reason: str
    message: str


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Said]:
    """What people should hear when a Node's status goes from ``before`` (empty: first) to ``after``."""
    if not before:
        return []
    out = []
    old = {item["type"]: item["status"] for item in before.get("conditions", [])}
    for item in after["conditions"]:
        if old.get(item["type"], item["status"]) != item["status"]:
            bad = (item["status"] == "True") == (item["type"] in BAD_WHEN_TRUE)
            out.append(Said("Warning" if bad else "Normal", item["reason"], item["message"]))
    boots = [status.get("nodeInfo", {}).get("bootID") for status in (before, after)]
    if boots[0] != boots[1]:
        out.append(Said("Warning", "Rebooted", f"the gateway was rebooted, boot id {boots[1]}"))
    return out


def body(node: str, said: Said, at: str) -> bytes:
    """The message body: an Event about ``node``; ``at`` is RFC 3339."""
    involved = {"kind": "Node", "name": node, "uid": node}
    return canonical.encode({**said._asdict(), "involvedObject": involved, "lastTimestamp": at})
