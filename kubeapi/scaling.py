"""The scale subresource: ``autoscaling/v1`` Scale as a view of three fields that the kind names itself."""

from typing import Any

from kubeapi.errors import INVALID, Cause, bad_request, invalid, method_not_supported
from kubeapi.jsonpath import find
from kubeapi.label_selectors import as_text
from kubeapi.resources import Resource


def to_scale(res: Resource, obj: dict[str, Any]) -> dict[str, Any]:
    """Return the Scale of ``obj``. Raises 405 for a kind without one."""
    if res.scale is None:
        raise method_not_supported(res, f"{res.plural} has no subresource scale")
    keep = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: dict[str, Any] = {"replicas": _number(obj, res.scale.status_replicas)}
    selector = find(obj, res.scale.selector) if res.scale.selector else []
    if selector:
        status["selector"] = selector[0] if isinstance(selector[0], str) else as_text(selector[0])
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: obj["metadata"][key] for key in keep if key in obj["metadata"]},
        "spec": {"replicas": _number(obj, res.scale.spec_replicas)},
        "status": status,
    }


def merge_of(res: Resource, scale: Any) -> dict[str, Any]:
    """Return the merge patch of the object that writing ``scale`` means. Raises 400, 405, 422."""
    if res.scale is None:
        raise method_not_supported(res, f"{res.plural} has no subresource scale")
    if not isinstance(scale, dict) or not isinstance(scale.get("spec"), dict):
        raise bad_request("the body must be a Scale with spec.replicas")
    replicas = scale["spec"].get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        cause = Cause(INVALID, "spec.replicas", f"Invalid value: {replicas}: must be greater than or equal to 0")
        raise invalid(res, str((scale.get("metadata") or {}).get("name", "")), [cause])
    out: dict[str, Any] = {}
    at = out
    *path, leaf = res.scale.spec_replicas.strip(".").split(".")
    for part in path:
        at = at.setdefault(part, {})
    at[leaf] = replicas
    revision = (scale.get("metadata") or {}).get("resourceVersion")
    if revision:
        out["metadata"] = {"resourceVersion": revision}
    return out


def _number(obj: dict[str, Any], path: str) -> int:
    found = find(obj, path)
    return found[0] if found and isinstance(found[0], int) else 0
