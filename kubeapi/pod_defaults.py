"""What the API fills into a Pod, and into the pod template of every workload."""

from typing import Any

from kubeapi.defaulting import fill_in, mapped, objects
from kubeapi.quantities import BadQuantity, canonical, of

Json = dict[str, Any]
SPEC_DEFAULTS: Json = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
}
CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
FILE_MODE = 0o644
MODED = ("secret", "configMap", "downwardAPI", "projected")


def pod_defaults(obj: Json, old: Json | None) -> None:
    """Complete a Pod in place (its own outer levels only)."""
    if old is not None and obj.get("spec") == old.get("spec"):
        return
    spec = obj["spec"] = spec_defaults(mapped(obj.get("spec")))
    fill_in(spec, enableServiceLinks=True, serviceAccountName=spec.get("serviceAccount") or "default")
    spec["serviceAccount"] = spec["serviceAccountName"]
    for key in CONTAINER_LISTS:
        if isinstance(spec.get(key), list):
            spec[key] = [_pod_container(c, spec) if isinstance(c, dict) else c for c in spec[key]]
    if old is None:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}


def template_defaults(template: Json) -> Json:
    """Return a workload's pod template completed."""
    metadata = {"creationTimestamp": None, **mapped(template.get("metadata"))}
    return {**template, "metadata": metadata, "spec": spec_defaults(mapped(template.get("spec")))}


def spec_defaults(spec: Json) -> Json:
    """Return what a pod's spec and a template's have in common, completed."""
    spec = dict(spec)
    fill_in(spec, **SPEC_DEFAULTS, securityContext={})
    for key in CONTAINER_LISTS:
        if isinstance(spec.get(key), list):
            spec[key] = [container_defaults(c) if isinstance(c, dict) else c for c in spec[key]]
    if isinstance(spec.get("volumes"), list):
        spec["volumes"] = [_volume(v) if isinstance(v, dict) else v for v in spec["volumes"]]
    if isinstance(spec.get("overhead"), dict):
        spec["overhead"] = canonical_map(spec["overhead"])
    if spec.get("serviceAccountName") and not spec.get("serviceAccount"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    return spec


def container_defaults(container: Json) -> Json:
    """Return the container with what the API fills in."""
    out = dict(container)
    image = out.get("image")
    if isinstance(image, str):
        tag = image.rpartition("/")[2].partition(":")[2]
        latest = "@" not in image and tag in ("", "latest")
        fill_in(out, imagePullPolicy="Always" if latest else "IfNotPresent")
    fill_in(out, terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File", resources={})
    if isinstance(out["resources"], dict):
        out["resources"] = {
            key: canonical_map(value) if key in ("limits", "requests") and isinstance(value, dict) else value
            for key, value in out["resources"].items()
        }
    if isinstance(out.get("ports"), list):
        out["ports"] = [_port(p) if isinstance(p, dict) else p for p in out["ports"]]
    for probe in PROBES:
        if isinstance(out.get(probe), dict):
            out[probe] = _probe(out[probe])
    if isinstance(out.get("lifecycle"), dict):
        out["lifecycle"] = {k: _handler(h) if isinstance(h, dict) else h for k, h in out["lifecycle"].items()}
    if isinstance(out.get("env"), list):
        out["env"] = [_env(e) if isinstance(e, dict) else e for e in out["env"]]
    return out


def canonical_map(amounts: Json) -> Json:
    """Return resource amounts as an API server writes them."""
    return {name: canonical(value) for name, value in amounts.items()}


def _pod_container(container: Json, spec: Json) -> Json:
    """What only a Pod gets, not a template: requests out of limits, host ports of the host's network."""
    out = dict(container)
    limits = mapped(mapped(out.get("resources")).get("limits"))
    if limits:
        requests = {**limits, **mapped(out["resources"].get("requests"))}
        out["resources"] = {**out["resources"], "requests": requests}
    if spec.get("hostNetwork") is True and isinstance(out.get("ports"), list):
        ports = [dict(p) if isinstance(p, dict) else p for p in out["ports"]]
        for port in objects(ports):
            port["hostPort"] = port.get("hostPort") or port.get("containerPort")
        out["ports"] = ports
    return out


def _port(port: Json) -> Json:
    out = dict(port)
    fill_in(out, protocol="TCP")
    return out


def _probe(probe: Json) -> Json:
    out = _handler(probe)
    fill_in(out, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    if isinstance(out.get("grpc"), dict):
        out["grpc"] = {**out["grpc"]}
        fill_in(out["grpc"], service="")
    return out


def _handler(handler: Json) -> Json:
    out = dict(handler)
    if isinstance(out.get("httpGet"), dict):
        out["httpGet"] = dict(out["httpGet"])
        fill_in(out["httpGet"], scheme="HTTP")
        out["httpGet"]["path"] = out["httpGet"].get("path") or "/"
    return out


def _field(source: Any) -> Any:
    if not isinstance(source, dict) or not isinstance(source.get("fieldRef"), dict):
        return source
    return {**source, "fieldRef": {"apiVersion": "v1", **source["fieldRef"]}}


def _env(entry: Json) -> Json:
    return {**entry, "valueFrom": _field(entry["valueFrom"])} if "valueFrom" in entry else entry


def _volume(volume: Json) -> Json:
    out = dict(volume)
    if not any(value is not None for key, value in out.items() if key != "name"):
        out["emptyDir"] = {}
    for key in MODED:
        if isinstance(out.get(key), dict):
            out[key] = dict(out[key])
            fill_in(out[key], defaultMode=FILE_MODE)
    if isinstance(out.get("hostPath"), dict):
        out["hostPath"] = {"type": "", **out["hostPath"]}
    if isinstance(out.get("downwardAPI"), dict):
        out["downwardAPI"] = _items(out["downwardAPI"])
    projected = out.get("projected")
    if isinstance(projected, dict) and isinstance(projected.get("sources"), list):
        out["projected"] = {**projected, "sources": [_source(s) for s in projected["sources"]]}
    return out


def _items(source: Json) -> Json:
    if not isinstance(source.get("items"), list):
        return source
    return {**source, "items": [_field(item) for item in source["items"]]}


def _source(source: Any) -> Any:
    if not isinstance(source, dict):
        return source
    out = dict(source)
    if isinstance(out.get("serviceAccountToken"), dict):
        out["serviceAccountToken"] = {**out["serviceAccountToken"]}
        fill_in(out["serviceAccountToken"], expirationSeconds=3600)
    if isinstance(out.get("downwardAPI"), dict):
        out["downwardAPI"] = _items(out["downwardAPI"])
    return out


def qos_class(spec: Json) -> str:
    """Return Guaranteed, Burstable or BestEffort from requests and limits."""
    containers = [c for key in CONTAINER_LISTS[:2] for c in objects(spec.get(key))]
    resources = [mapped(c.get("resources")) for c in containers]
    pairs = [(_counted(r.get("requests")), _counted(r.get("limits"))) for r in resources]
    if not any(requests or limits for requests, limits in pairs):
        return "BestEffort"
    for requests, limits in pairs:
        if any(k not in limits or requests.get(k, limits[k]) != limits[k] for k in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"


def _counted(amounts: Any) -> Json:
    """Return the amounts of CPU and memory that are not zero: others do not make a class."""
    out = {}
    for name in ("cpu", "memory"):
        try:
            value = of(mapped(amounts).get(name, "0"))
        except BadQuantity:
            continue
        if value:
            out[name] = value
    return out
