"""When may pods leave a node that is not well? Ordinary nodes: when it is lost. Edges: the promise of autonomy (pure).

An edge's pods run on while the cloud cannot see it, so being unseen alone never evicts them. A Node's annotation
``node.openyurt.io/autonomy-duration`` allows it after that time (``0`` never), unless its whole site is away: then it is
the way to the site that is broken, and nothing is decided from here.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from kubeapi.conditions import condition
from kubeapi.durations import parse_time, seconds_of
from kubeapi.scheduling.filters import tolerates
from proto.labels import AUTONOMY_DURATION, EDGE_ROLE

Json = dict[str, Any]
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
SITE_LABELS = ("apps.openyurt.io/nodepool", "topology.kubernetes.io/zone")
PRESSURES = {
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
}
OURS = frozenset({NOT_READY, UNREACHABLE, UNSCHEDULABLE, *PRESSURES.values()})
EVERY_EDGE = ""  # the site of edges that name none


def is_edge(node: Json) -> bool:
    return EDGE_ROLE in (node["metadata"].get("labels") or {})


def site_of(node: Json) -> str:
    """Return the site that an edge belongs to."""
    labels = node["metadata"].get("labels") or {}
    return next((f"{key}={labels[key]}" for key in SITE_LABELS if labels.get(key)), EVERY_EDGE)


def readiness(node: Json) -> str:
    """Return the Ready condition's status: True, False or Unknown; a node that has said nothing is Unknown."""
    found = condition(node.get("status") or {}, "Ready")
    return str(found.get("status", "Unknown")) if found is not None else "Unknown"


Group = tuple[bool, str]  # (edge, site); ordinary nodes are one group


def group_of(node: Json) -> Group:
    """Return what a node belongs to: if all of that is away at once, it is the way there that is broken."""
    edge = is_edge(node)
    return (edge, site_of(node) if edge else EVERY_EDGE)


class Sites:
    """Which groups are wholly away, kept node by node."""

    def __init__(self) -> None:
        self._group: dict[str, Group] = {}
        self._members: dict[Group, set[str]] = {}
        self._lost: dict[Group, set[str]] = {}

    def put(self, node: Json) -> list[str]:
        """Take a node in as it is now; returns the lost nodes of a group that has just frozen or thawed."""
        name, group = node["metadata"]["name"], group_of(node)
        out = self.drop(name) if self._group.get(name, group) != group else []
        before = self.is_frozen(group)
        self._group[name] = group
        self._members.setdefault(group, set()).add(name)
        lost = self._lost.setdefault(group, set())
        (lost.add if readiness(node) == "Unknown" else lost.discard)(name)
        return out + (sorted(lost) if self.is_frozen(group) != before else [])

    def drop(self, name: str) -> list[str]:
        """Forget a node; returns as ``put``."""
        group = self._group.pop(name, None)
        if group is None:
            return []
        before = self.is_frozen(group)
        self._members[group].discard(name)
        self._lost[group].discard(name)
        return sorted(self._lost[group]) if self.is_frozen(group) != before else []

    def is_frozen(self, group: Group) -> bool:
        """Whether everything of this group is away. An edge alone in its site is judged by itself."""
        members, lost = self._members.get(group, set()), self._lost.get(group, set())
        return len(members) == len(lost) > (1 if group[0] else 0)


def autonomy_s(node: Json) -> float | None:
    """Return for how long an edge's pods are left alone, None for ever. What cannot be read means for ever."""
    text = (node["metadata"].get("annotations") or {}).get(AUTONOMY_DURATION, "")
    return seconds_of(str(text).strip()) or None


def leaves_in_s(node: Json, *, frozen: bool, now: datetime) -> float | None:
    """Return in how many seconds a node that is not ready may lose its pods: 0 now, None never."""
    state = readiness(node)
    if state == "True" or frozen:
        return None
    if state == "False" or not is_edge(node):
        return 0.0
    limit = autonomy_s(node)
    since = parse_time((condition(node.get("status") or {}, "Ready") or {}).get("lastTransitionTime"))
    if limit is None or since is None:
        return None
    return max(0.0, limit - (now - since).total_seconds())


def taints(node: Json, *, leaves: bool, at: str) -> list[Json]:
    """Return the node's taints as they should be: those of others, and ours by its conditions; ``at`` dates new ones."""
    held = (node.get("spec") or {}).get("taints") or []
    state = readiness(node)
    lost = {"False": NOT_READY, "Unknown": UNREACHABLE}.get(state)
    wanted: list[tuple[str, str]] = []
    if lost is not None:
        wanted.append((lost, "NoSchedule"))
        if leaves:
            wanted.append((lost, "NoExecute"))
    if (node.get("spec") or {}).get("unschedulable"):
        wanted.append((UNSCHEDULABLE, "NoSchedule"))
    for kind, key in PRESSURES.items():
        if (condition(node.get("status") or {}, kind) or {}).get("status") == "True":
            wanted.append((key, "NoSchedule"))
    before = {(t.get("key"), t.get("effect")): t for t in held}
    others = [t for t in held if t.get("key") not in OURS]
    return others + [
        before.get((key, effect)) or {"key": key, "effect": effect, "timeAdded": at} for key, effect in wanted
    ]


def stays_s(pod: Json, found: list[Json], since: Callable[[Json], float]) -> float | None:
    """Return in how many seconds the pod must leave its node for these NoExecute taints: 0 now, None never.

    ``since`` says how many seconds ago a taint came.
    """
    out: float | None = None
    for taint in found:
        covering = [t for t in (pod.get("spec") or {}).get("tolerations") or () if tolerates([t], taint)]
        if not covering:
            return 0.0
        limits = [t["tolerationSeconds"] for t in covering if t.get("tolerationSeconds") is not None]
        if limits:
            left = max(0.0, min(limits) - since(taint))
            out = left if out is None else min(out, left)
    return out
