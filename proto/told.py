"""What a Pod's node must know of its status in the cloud: beside the object, so that the inventory's digest covers it.

``body["told"]`` of a Pod sent downwards is absent for most. ``phase``: Succeeded or Failed, said by somebody else than the node;
the whole status comes with it. ``conditions``: those that the pod's readiness gates name, as they are in the cloud.
"""

from collections.abc import Mapping
from typing import Any

FIELD = "told"
PHASE, CONDITIONS = "phase", "conditions"


def gates(pod: Mapping[str, Any]) -> frozenset[str]:
    """Return the types of the conditions that others set and that decide with the containers whether a pod is ready."""
    return frozenset(
        str(gate["conditionType"])
        for gate in (pod.get("spec") or {}).get("readinessGates") or ()
        if gate.get("conditionType")
    )


def gate_conditions(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the conditions of a pod's status that its readiness gates name, by type."""
    wanted = gates(pod)
    found = ((pod.get("status") or {}).get("conditions") or ()) if wanted else ()
    return sorted((c for c in found if c.get("type") in wanted), key=lambda c: str(c["type"]))
