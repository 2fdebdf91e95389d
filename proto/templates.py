"""Where pods are described inside other objects, and which node they are bound to (pure)."""

from typing import Any

Json = dict[str, Any]
HOSTNAME = "kubernetes.io/hostname"
TEMPLATE = ("spec", "template", "spec")
PATHS: dict[tuple[str, str], tuple[str, ...]] = {  # (group, kind) -> path of the pod's spec
    ("", "Pod"): ("spec",),
    ("", "ReplicationController"): TEMPLATE,
    ("apps", "Deployment"): TEMPLATE,
    ("apps", "ReplicaSet"): TEMPLATE,
    ("apps", "DaemonSet"): TEMPLATE,
    ("apps", "StatefulSet"): TEMPLATE,
    ("batch", "Job"): TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template", "spec"),
}


def pod_spec(obj: Json) -> tuple[tuple[str, ...], Json] | None:
    """Return (path, spec) of the pods that ``obj`` describes; None when it describes none."""
    group = str(obj.get("apiVersion", "")).rpartition("/")[0]
    path = PATHS.get((group, str(obj.get("kind", ""))))
    at: Any = obj
    for part in path or ():
        at = at.get(part) if isinstance(at, dict) else None
    return (path, at) if path is not None and isinstance(at, dict) else None


def elsewhere(obj: Json, node: str) -> str:
    """Return the other node that the pods of ``obj`` are bound to, "" when there is none."""
    found = pod_spec(obj)
    if found is None:
        return ""
    spec = found[1]
    names = (spec.get("nodeName"), (spec.get("nodeSelector") or {}).get(HOSTNAME))
    return next((str(name) for name in names if name not in (None, "", node)), "")


def is_bound(obj: Json, node: str) -> bool:
    """Whether the pods of ``obj`` can run at ``node`` alone; true for what describes no pods."""
    found = pod_spec(obj)
    if found is None:
        return True
    spec = found[1]
    return not elsewhere(obj, node) and node in (spec.get("nodeName"), (spec.get("nodeSelector") or {}).get(HOSTNAME))


def pinned_node(spec: Json) -> str:
    """Return the one node that a pod of this spec can run on, "" when there may be several."""
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    selected = (spec.get("nodeSelector") or {}).get(HOSTNAME)
    if selected:
        return str(selected)
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or ()
    names = [_only_name(term) for term in terms]
    return names[0] if names and names.count(names[0]) == len(names) else ""


def _only_name(term: Json) -> str:
    expressions = [("metadata.name", each) for each in term.get("matchFields") or ()]
    expressions += [(HOSTNAME, each) for each in term.get("matchExpressions") or ()]
    for label, expression in expressions:
        values = expression.get("values") or []
        if expression.get("key") == label and expression.get("operator") == "In" and len(values) == 1:
            return str(values[0])
    return ""


def bound(obj: Json, spec: Json, node: str) -> Json:
    """Return ``spec`` bound to ``node``: a pod by its name, a template by a selector."""
    if obj.get("kind") == "Pod":
        return spec if spec.get("nodeName") == node else {**spec, "nodeName": node}
    selector = spec.get("nodeSelector") or {}
    if node in (spec.get("nodeName"), selector.get(HOSTNAME)):
        return spec
    return {**spec, "nodeSelector": {**selector, HOSTNAME: node}}


def with_pod_spec(obj: Json, path: tuple[str, ...], spec: Json) -> Json:
    """Return ``obj`` with the spec at ``path`` replaced; untouched parts are shared."""
    if not path:
        return spec
    return {**obj, path[0]: with_pod_spec(obj[path[0]], path[1:], spec)}
