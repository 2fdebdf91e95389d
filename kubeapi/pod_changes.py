"""What of a pod's spec may change after its creation, and through which door."""

from typing import Any

from kubeapi.causes import Causes, bad, forbid
from kubeapi.errors import Cause
from kubeapi.pod_defaults import qos_class, spec_defaults

Json = dict[str, Any]
ONLY = (
    "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, "
    "`spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations) and "
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def pod_changes(old: Json, new: Json, subresource: str = "") -> Causes:
    """Return what a write through ``subresource`` may not change of a pod's spec."""
    before, after = spec_defaults(old.get("spec") or {}), new.get("spec") or {}
    if before == after:
        return []
    if subresource == "ephemeralcontainers":
        return _ephemeral_changes(before, after)
    if subresource == "resize":
        return _resource_changes(before, after)
    out: Causes = []
    out += _gate_changes(before, after)
    out += _toleration_changes(before, after)
    held, wanted = before.get("activeDeadlineSeconds"), after.get("activeDeadlineSeconds")
    if held is not None and (wanted is None or wanted > held):
        text = (
            "must be less than or equal to previous value"
            if wanted is not None
            else "must not update from a positive integer to nil value"
        )
        out.append(bad("spec.activeDeadlineSeconds", wanted, text))
    gated = bool(before.get("schedulingGates"))
    changed = _fixed(before, gated=gated) != _fixed(after, gated=gated) or not _same_grace(before, after)
    if not out and changed:
        out.append(Cause("FieldValueForbidden", "spec", f"Forbidden: {ONLY}"))
    return out


def _fixed(spec: Json, *, gated: bool) -> Json:
    """Return what of a spec never changes; a gated pod may still be narrowed to nodes."""
    loose = ["activeDeadlineSeconds", "tolerations", "schedulingGates", "terminationGracePeriodSeconds"]
    loose += ["nodeSelector", "affinity"] if gated else []
    out = {key: value for key, value in spec.items() if key not in loose}
    for key in ("containers", "initContainers"):
        held = [{k: v for k, v in c.items() if k != "image"} for c in spec.get(key) or ()]
        out[key] = held
    return out


def _same_grace(before: Json, after: Json) -> bool:
    held, wanted = (spec.get("terminationGracePeriodSeconds") for spec in (before, after))
    return held == wanted or (wanted == 1 and held is not None and held < 0)


def _resource_changes(before: Json, after: Json) -> Causes:
    """Return what the door for resources lets nobody change."""
    if _beside_cpu_and_memory(before) != _beside_cpu_and_memory(after):
        return [forbid("spec", "only cpu and memory resources are mutable")]
    held, wanted = qos_class(before), qos_class(after)
    if held != wanted:
        return [bad("spec", wanted, f"Pod QOS Class may not change as a result of resizing: it is {held}")]
    return []


def _beside_cpu_and_memory(spec: Json) -> Json:
    out = dict(spec)
    for key in ("containers", "initContainers"):
        out[key] = []
        for container in spec.get(key) or ():
            kept = {k: v for k, v in container.items() if k not in ("resources", "resizePolicy")}
            resources = container.get("resources") or {}
            for kind in ("requests", "limits"):
                sizes = resources.get(kind) or {}
                kept[kind] = {name: size for name, size in sizes.items() if name not in ("cpu", "memory")}
            out[key].append(kept)
    return out


def _gate_changes(before: Json, after: Json) -> Causes:
    held = {gate.get("name") for gate in before.get("schedulingGates") or ()}
    added = [gate.get("name") for gate in after.get("schedulingGates") or () if gate.get("name") not in held]
    return [
        forbid("spec.schedulingGates", f"only deletion is allowed, but found new scheduling gate '{name}'")
        for name in added
    ]


def _toleration_changes(before: Json, after: Json) -> Causes:
    def key(toleration: Json) -> tuple[Any, ...]:
        return (*(toleration.get(k) or "" for k in ("key", "value", "effect")), toleration.get("operator") or "Equal")

    kept = {key(t) for t in after.get("tolerations") or ()}
    if all(key(t) in kept for t in before.get("tolerations") or ()):
        return []
    return [forbid("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")]


def _ephemeral_changes(before: Json, after: Json) -> Causes:
    out: Causes = []
    if {k: v for k, v in before.items() if k != "ephemeralContainers"} != {
        k: v for k, v in after.items() if k != "ephemeralContainers"
    }:
        out.append(forbid("spec", "only ephemeralContainers may be changed through this subresource"))
    held = {c.get("name"): c for c in before.get("ephemeralContainers") or ()}
    sent = {c.get("name"): c for c in after.get("ephemeralContainers") or ()}
    for name, container in held.items():
        if sent.get(name) != container:
            out.append(
                forbid(
                    "spec.ephemeralContainers", f'existing ephemeral containers "{name}" may not be changed or removed'
                )
            )
    return out
