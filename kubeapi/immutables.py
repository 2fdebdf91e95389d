"""Which fields of the built-in kinds may not change after creation."""

from collections.abc import Callable, Mapping
from typing import Any

from kubeapi.causes import Causes, bad, forbid
from kubeapi.pod_changes import pod_changes

Json = Mapping[str, Any]
FIELD = "field is immutable"
SET_MAY_CHANGE = (
    "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
)  # fmt: skip
PATHS: dict[str, tuple[str, ...]] = {
    "CertificateSigningRequest": ("spec",),
    "ClusterRoleBinding": ("roleRef",),
    "ControllerRevision": ("data",),
    "CustomResourceDefinition": ("spec.group", "spec.names.plural", "spec.names.kind", "spec.scope"),
    "DaemonSet": ("spec.selector",),
    "Deployment": ("spec.selector",),
    "EndpointSlice": ("addressType",),
    "IngressClass": ("spec.controller",),
    "PriorityClass": ("value", "preemptionPolicy"),
    "ReplicaSet": ("spec.selector",),
    "RoleBinding": ("roleRef",),
    "RuntimeClass": ("handler",),
    "Secret": ("type",),
    "StorageClass": ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"),
}


def at(obj: Json, path: str) -> Any:
    """Return the value at a dotted path, None when there is none."""
    found: Any = obj
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def changes(kind: str, old: Json, new: Json, subresource: str) -> Causes:
    """Return what of ``old`` this write may not change."""
    out: Causes = []
    if kind in ("Secret", "ConfigMap") and old.get("immutable") is True:
        out += [
            forbid(key, "field is immutable when `immutable` is set")
            for key in ("immutable", "data", "binaryData", "stringData")
            if old.get(key) != new.get(key)
        ]
    out += [_fixed(path, old, new) for path in PATHS.get(kind, ()) if _differs(path, old, new)]
    rule = RULES.get(kind)
    return out if rule is None or subresource == "status" else out + rule(old, new, subresource)


def _differs(path: str, old: Json, new: Json) -> bool:
    return at(old, path) is not None and at(old, path) != at(new, path)


def _fixed(path: str, old: Json, new: Json) -> Any:
    del old
    return bad(path, at(new, path), FIELD)


def _pod(old: Json, new: Json, subresource: str) -> Causes:
    return pod_changes(dict(old), dict(new), subresource)


def _stateful_set(old: Json, new: Json, _sub: str) -> Causes:
    def rest(obj: Json) -> dict[str, Any]:
        return {k: v for k, v in (obj.get("spec") or {}).items() if k not in SET_MAY_CHANGE}

    if rest(old) == rest(new):
        return []
    listed = ", ".join(f"'{name}'" for name in SET_MAY_CHANGE[:-1])
    text = f"updates to statefulset spec for fields other than {listed} and '{SET_MAY_CHANGE[-1]}' are forbidden"
    return [forbid("spec", text)]


def _job(old: Json, new: Json, _sub: str) -> Causes:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    fixed = ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    elastic = after.get("completionMode") == "Indexed" and after.get("completions") == after.get("parallelism")
    if not elastic:
        fixed.append("completions")
    started = (old.get("status") or {}).get("startTime")
    if not (before.get("suspend") and not started):  # until it starts, a suspended job's pods may be placed elsewhere
        fixed.append("template")
    return [bad(f"spec.{k}", after.get(k), FIELD) for k in fixed if before.get(k) != after.get(k)]


def _claim(old: Json, new: Json, _sub: str) -> Causes:
    def rest(obj: Json) -> dict[str, Any]:
        loose = (
            "resources",
            "volumeAttributesClassName",
            *(() if (old.get("spec") or {}).get("volumeName") else ("volumeName",)),
        )
        return {k: v for k, v in (obj.get("spec") or {}).items() if k not in loose}

    before, after = rest(old), rest(new)
    if not before.get("storageClassName"):  # a claim that waits for a default class may get one
        after.pop("storageClassName", None)
        before.pop("storageClassName", None)
    if before == after:
        return []
    text = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
    return [forbid("spec", text)]


def _volume(old: Json, new: Json, _sub: str) -> Causes:
    loose = (
        "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
        "storageClassName", "volumeAttributesClassName",
    )  # fmt: skip

    def source(obj: Json) -> dict[str, Any]:
        return {k: v for k, v in (obj.get("spec") or {}).items() if k not in loose}

    if source(old) == source(new):
        return []
    return [forbid("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")]


def _service(old: Json, new: Json, _sub: str) -> Causes:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    held, sent = before.get("clusterIP"), after.get("clusterIP")
    if not held or "ExternalName" in (before.get("type"), after.get("type")) or held == sent:
        return []
    return [bad("spec.clusterIPs[0]", after.get("clusterIPs") or [sent], "may not change once set")]


RULES: dict[str, Callable[[Json, Json, str], Causes]] = {
    "Job": _job,
    "PersistentVolume": _volume,
    "PersistentVolumeClaim": _claim,
    "Pod": _pod,
    "Service": _service,
    "StatefulSet": _stateful_set,
}
