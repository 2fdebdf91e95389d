"""What the API fills into a Pod."""

from typing import Any

Json = dict[str, Any]
CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")


def pod_defaults(obj: Json, old: Json | None) -> None:
    """Complete ``obj`` in place (its own outer levels only)."""
    spec = obj["spec"] = dict(obj.get("spec") or {})
    for key, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
        ("enableServiceLinks", True),
        ("serviceAccountName", "default"),
    ):
        spec.setdefault(key, value)
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    if spec.get("securityContext") is None:
        spec["securityContext"] = {}
    for key in CONTAINER_LISTS:
        if isinstance(spec.get(key), list):
            spec[key] = [container_defaults(c) if isinstance(c, dict) else c for c in spec[key]]
    if old is None:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}


def container_defaults(container: Json) -> Json:
    out = dict(container)
    image = out.get("image")
    if isinstance(image, str):
        tag = image.rpartition("/")[2].partition(":")[2]
        latest = "@" not in image and tag in ("", "latest")
        out.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    out.setdefault("terminationMessagePath", "/dev/termination-log")
    out.setdefault("terminationMessagePolicy", "File")
    if out.get("resources") is None:
        out["resources"] = {}
    limits = out["resources"].get("limits") if isinstance(out["resources"], dict) else None
    if isinstance(limits, dict):
        out["resources"] = {**out["resources"], "requests": {**limits, **(out["resources"].get("requests") or {})}}
    if isinstance(out.get("ports"), list):
        out["ports"] = [{**p, "protocol": p.get("protocol", "TCP")} if isinstance(p, dict) else p for p in out["ports"]]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(out.get(probe), dict):
            out[probe] = _probe(out[probe])
    return out


def _probe(probe: Json) -> Json:
    out = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3, **probe}
    if isinstance(out.get("httpGet"), dict):
        out["httpGet"] = {"path": "/", "scheme": "HTTP", **out["httpGet"]}
    return out


def qos_class(spec: Json) -> str:
    """Return Guaranteed, Burstable or BestEffort from requests and limits."""
    containers = [c for key in ("containers", "initContainers") for c in spec.get(key) or () if isinstance(c, dict)]
    resources = [c.get("resources") or {} for c in containers]
    if not any(r.get("requests") or r.get("limits") for r in resources):
        return "BestEffort"
    for r in resources:
        limits, requests = r.get("limits") or {}, r.get("requests") or {}
        if any(k not in limits or requests.get(k, limits[k]) != limits[k] for k in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"
