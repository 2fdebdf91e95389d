"""Who serves a Service, worked out of its pods (pure): addresses and ports, as EndpointSlices and as the older Endpoints."""

from collections.abc import Iterable
from typing import Any

from kubeapi.conditions import is_true

Json = dict[str, Any]
ZONE = "topology.kubernetes.io/zone"
FINISHED = ("Failed", "Succeeded")
Ports = tuple[tuple[str, str, int, str], ...]  # name, protocol, number, appProtocol


def signature(pod: Json) -> tuple[Any, ...]:
    """Return what of a pod its services look at: other changes need no work."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    return (
        metadata.get("labels"),
        bool(metadata.get("deletionTimestamp")),
        (pod.get("spec") or {}).get("nodeName"),
        addresses(pod),
        status.get("phase") in FINISHED,
        is_true(status, "Ready"),
    )


def addresses(pod: Json) -> tuple[str, ...]:
    """Return the pod's own IPv4 addresses, the first one only."""
    status = pod.get("status") or {}
    found = [ip.get("ip") for ip in status.get("podIPs") or ()] or [status.get("podIP")]
    return tuple(ip for ip in found if ip and ":" not in ip)[:1]


def ports_for(service: Json, pod: Json) -> Ports:
    """Return the service's ports on this pod; a named port that the pod does not have is left out."""
    out = []
    for port in (service.get("spec") or {}).get("ports") or ():
        protocol, target = port.get("protocol") or "TCP", port.get("targetPort", port.get("port"))
        number = target if isinstance(target, int) else _named(pod, str(target), protocol)
        if number:
            out.append((port.get("name") or "", protocol, number, port.get("appProtocol") or ""))
    return tuple(out)


def _named(pod: Json, name: str, protocol: str) -> int:
    spec = pod.get("spec") or {}
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name") == name and (port.get("protocol") or "TCP") == protocol:
                return int(port.get("containerPort") or 0)
    return 0


def endpoint(service: Json, pod: Json, zone: str) -> Json:
    """Return the pod as an endpoint of the service."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    ready, leaving = is_true(pod.get("status") or {}, "Ready"), bool(metadata.get("deletionTimestamp"))
    always = bool((service.get("spec") or {}).get("publishNotReadyAddresses"))
    out: Json = {
        "addresses": list(addresses(pod)),
        "conditions": {"ready": always or (ready and not leaving), "serving": ready, "terminating": leaving},
        "targetRef": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }
    if spec.get("nodeName"):
        out["nodeName"] = spec["nodeName"]
    if zone:
        out["zone"] = zone
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        out["hostname"] = spec["hostname"]
    return out


def serves(pod: Json) -> bool:
    """Whether a pod belongs among the endpoints at all."""
    return bool(addresses(pod)) and (pod.get("status") or {}).get("phase") not in FINISHED


def slice_ports(ports: Ports) -> list[Json]:
    return [
        {"name": name, "protocol": protocol, "port": number, **({"appProtocol": app} if app else {})}
        for name, protocol, number, app in ports
    ]


def subsets(groups: Iterable[tuple[Ports, list[Json]]]) -> list[Json]:
    """Return the same as subsets of an Endpoints object; what is leaving is left out."""
    out = []
    for ports, found in groups:
        staying = [e for e in found if not e["conditions"]["terminating"]]
        subset: Json = {}
        for key, ready in (("addresses", True), ("notReadyAddresses", False)):
            listed = [_address(e) for e in staying if e["conditions"]["ready"] is ready]
            if listed:
                subset[key] = listed
        if subset:
            shown = [{k: v for k, v in p.items() if v or k == "port"} for p in slice_ports(ports)]
            out.append({**subset, **({"ports": shown} if shown else {})})
    return out


def _address(found: Json) -> Json:
    kept: Json = {k: found[k] for k in ("nodeName", "targetRef", "hostname") if k in found}
    return {"ip": found["addresses"][0], **kept}
