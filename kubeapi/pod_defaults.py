"""What the API fills into a Pod, and what a Pod must have beyond its schema."""

from typing import Any

from kubeapi.builtin import fill_in
from kubeapi.errors import INVALID, NOT_SUPPORTED, REQUIRED, Cause
from kubeapi.metadata import LABEL

Json = dict[str, Any]
SPEC_DEFAULTS: Json = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
    "serviceAccountName": "default",
}
CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")


def pod_defaults(obj: Json, old: Json | None) -> None:
    """Complete ``obj`` in place (its own outer levels only)."""
    spec = obj["spec"] = dict(obj.get("spec") or {})
    fill_in(spec, **SPEC_DEFAULTS, securityContext={})
    fill_in(spec, serviceAccount=spec["serviceAccountName"])
    for key in CONTAINER_LISTS:
        if isinstance(spec.get(key), list):
            spec[key] = [container_defaults(c) if isinstance(c, dict) else c for c in spec[key]]
    if old is None:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}


def container_defaults(container: Json) -> Json:
    """Return the container with what the API fills in."""
    out = dict(container)
    image = out.get("image")
    if isinstance(image, str):
        tag = image.rpartition("/")[2].partition(":")[2]
        latest = "@" not in image and tag in ("", "latest")
        fill_in(out, imagePullPolicy="Always" if latest else "IfNotPresent")
    fill_in(out, terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File", resources={})
    limits = _map(_map(out["resources"]).get("limits"))
    if limits:
        out["resources"] = {**out["resources"], "requests": {**limits, **_map(out["resources"].get("requests"))}}
    if isinstance(out.get("ports"), list):
        out["ports"] = [_port(p) if isinstance(p, dict) else p for p in out["ports"]]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(out.get(probe), dict):
            out[probe] = _probe(out[probe])
    return out


def _port(port: Json) -> Json:
    out = dict(port)
    fill_in(out, protocol="TCP")
    return out


def _probe(probe: Json) -> Json:
    out = dict(probe)
    fill_in(out, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    if isinstance(out.get("httpGet"), dict):
        out["httpGet"] = dict(out["httpGet"])
        fill_in(out["httpGet"], path="/", scheme="HTTP")
    return out


def _map(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def qos_class(spec: Json) -> str:
    """Return Guaranteed, Burstable or BestEffort from requests and limits."""
    lists = (spec.get(key) for key in ("containers", "initContainers"))
    containers = [c for held in lists if isinstance(held, list) for c in held if isinstance(c, dict)]
    resources = [_map(c.get("resources")) for c in containers]
    pairs = [(_map(r.get("requests")), _map(r.get("limits"))) for r in resources]
    if not any(requests or limits for requests, limits in pairs):
        return "BestEffort"
    for requests, limits in pairs:
        if any(k not in limits or requests.get(k, limits[k]) != limits[k] for k in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"


ALLOWED = {
    "restartPolicy": ("Always", "Never", "OnFailure"),
    "dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
}


def pod_causes(obj: Json) -> list[Cause]:
    """Return what is wrong with a Pod."""
    spec = obj.get("spec") or {}
    out = [] if spec.get("containers") else [Cause(REQUIRED, "spec.containers", "Required value")]
    for key, allowed in ALLOWED.items():
        if spec.get(key) not in allowed:
            listed = ", ".join(f'"{a}"' for a in allowed)
            text = f'Unsupported value: "{spec.get(key)}": supported values: {listed}'
            out.append(Cause(NOT_SUPPORTED, f"spec.{key}", text))
    volumes = {v.get("name") for v in spec.get("volumes") or ()}
    for key in CONTAINER_LISTS:
        for i, container in enumerate(spec.get(key) or ()):
            out += _container_causes(container, f"spec.{key}[{i}]", volumes)
    return out


def _container_causes(container: Json, path: str, volumes: set[Any]) -> list[Cause]:
    out = []
    name = container.get("name") or ""
    if not name:
        out.append(Cause(REQUIRED, f"{path}.name", "Required value"))
    elif len(name) > 63 or not LABEL.fullmatch(name):
        out.append(Cause(INVALID, f"{path}.name", f'Invalid value: "{name}": must be a lowercase RFC 1123 label'))
    if not container.get("image"):
        out.append(Cause(REQUIRED, f"{path}.image", "Required value"))
    for i, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            text = f'Not found: "{mount.get("name")}"'
            out.append(Cause("FieldValueNotFound", f"{path}.volumeMounts[{i}].name", text))
    return out
