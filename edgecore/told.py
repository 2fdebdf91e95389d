"""What the cloud says of a pod's status, joined with the status that this node has written (pure; proto.told)."""

from typing import Any

from proto.told import CONDITIONS, PHASE, gate_conditions, gates

Json = dict[str, Any]
FINISHED = ("Succeeded", "Failed")


def joined(pod: Json, told: Json, local: Json | None) -> Json | None:
    """Return the status to store for ``pod`` of the cloud; ``local``: what was written here about the same pod.

    How a pod ended is the cloud's word, what its readiness gates say is their owners'; the rest is this node's.
    """
    status = local
    if local is None or (told.get(PHASE) and local.get("phase") != told[PHASE]):
        status = pod.get("status")
    others = gates(pod)
    if not others:
        return status
    kept = [c for c in (status or {}).get("conditions") or () if c.get("type") not in others]
    conditions = [*kept, *(told.get(CONDITIONS) or ())]
    if status is None and not conditions:
        return None
    return {**(status or {}), "conditions": conditions}


def kept(stored: Json, status: Json) -> Json:
    """Return ``status``, reckoned a moment ago, without undoing what the cloud has said of ``stored`` since."""
    before = stored.get("status") or {}
    if before.get("phase") in FINISHED and status.get("phase") not in FINISHED:
        status = {**status, **{key: before[key] for key in ("phase", "reason", "message") if key in before}}
    others = gates(stored)
    if not others:
        return status
    own = [c for c in status.get("conditions") or () if c.get("type") not in others]
    return {**status, "conditions": [*own, *gate_conditions(stored)]}
