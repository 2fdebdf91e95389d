"""What ``kubectl get`` shows of networking, storage and quota kinds."""

from datetime import datetime
from typing import Any

from kubeapi.durations import UNKNOWN
from kubeapi.label_selectors import as_text
from kubeapi.printing import NONE, UNSET, Cells, columns, created, few, name, part
from kubeapi.resources import Column

Json = dict[str, Any]
Row = list[Any]
MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
OLD_CLASS = "volume.beta.kubernetes.io/storage-class"


def _endpoints(obj: Json, now: datetime) -> Row:
    found = []
    for subset in obj.get("subsets") or ():
        addresses = [str(a.get("ip", "")) for a in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        found += [f"{ip}:{port.get('port')}" for port in ports for ip in addresses] if ports else addresses
    return [name(obj), few(found) or NONE, created(obj, now)]


def _slice(obj: Json, now: datetime) -> Row:
    ports = [str(p["port"]) if p.get("port") is not None else "*" for p in obj.get("ports") or ()]
    addresses = [a for e in obj.get("endpoints") or () for a in e.get("addresses") or ()]
    return [name(obj), obj.get("addressType", ""), few(ports) or UNSET, few(addresses) or UNSET, created(obj, now)]


def access_modes(modes: Any) -> str:
    """Return access modes as kubectl abbreviates them."""
    return ",".join(MODES.get(mode, str(mode)) for mode in modes or ())


def _class_of(obj: Json) -> str:
    annotations = part(obj, "metadata").get("annotations") or {}
    return str(annotations.get(OLD_CLASS) or part(obj, "spec").get("storageClassName") or "")


def _phase(obj: Json) -> str:
    if part(obj, "metadata").get("deletionTimestamp"):
        return "Terminating"
    return str(part(obj, "status").get("phase", ""))


def _volume(obj: Json, now: datetime) -> Row:
    spec = part(obj, "spec")
    claim = part(spec, "claimRef")
    return [
        name(obj),
        part(spec, "capacity").get("storage", "0"),
        access_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        _phase(obj),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        _class_of(obj),
        spec.get("volumeAttributesClassName") or UNSET,
        part(obj, "status").get("reason", ""),
        created(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _claim(obj: Json, now: datetime) -> Row:
    spec, status = part(obj, "spec"), part(obj, "status")
    bound = spec.get("volumeName")
    return [
        name(obj),
        _phase(obj),
        bound or "",
        part(status, "capacity").get("storage", "0") if bound else "",
        access_modes(status.get("accessModes")) if bound else "",
        _class_of(obj),
        spec.get("volumeAttributesClassName") or UNSET,
        created(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _limit_range(obj: Json, now: datetime) -> Row:
    del now
    return [name(obj), part(obj, "metadata").get("creationTimestamp") or UNKNOWN]


def _quota(obj: Json, now: datetime) -> Row:
    status = part(obj, "status")
    used = part(status, "used")
    pairs = {k: f"{k}: {used.get(k, '0')}/{v}" for k, v in sorted(part(status, "hard").items())}
    limits = [text for key, text in pairs.items() if "limits" in key]
    return [name(obj), ", ".join(t for t in pairs.values() if t not in limits), ", ".join(limits), created(obj, now)]


def _storage_class(obj: Json, now: datetime) -> Row:
    default = (part(obj, "metadata").get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    return [
        name(obj) + (" (default)" if default else ""),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy") or "Delete",
        obj.get("volumeBindingMode") or "Immediate",
        str(bool(obj.get("allowVolumeExpansion"))).lower(),
        created(obj, now),
    ]


def _csi_node(obj: Json, now: datetime) -> Row:
    return [name(obj), len(part(obj, "spec").get("drivers") or ()), created(obj, now)]


def _csi_driver(obj: Json, now: datetime) -> Row:
    spec = part(obj, "spec")
    flags = ("attachRequired", "podInfoOnMount", "storageCapacity")
    shown = [str(bool(spec.get(f, f == "attachRequired"))).lower() for f in flags]
    tokens = ",".join(str(t.get("audience", "")) for t in spec.get("tokenRequests") or ()) or UNSET
    republish = str(bool(spec.get("requiresRepublish"))).lower()
    modes = ",".join(spec.get("volumeLifecycleModes") or ())
    return [name(obj), *shown, tokens, republish, modes, created(obj, now)]


def _ingress(obj: Json, now: datetime) -> Row:
    spec = part(obj, "spec")
    hosts = [r["host"] for r in spec.get("rules") or () if r.get("host")]
    entries = part(part(obj, "status"), "loadBalancer").get("ingress") or ()
    addresses = ",".join(str(e.get("ip") or e.get("hostname") or "") for e in entries)
    ports = "80, 443" if spec.get("tls") else "80"
    return [name(obj), spec.get("ingressClassName") or NONE, few(hosts) or "*", addresses, ports, created(obj, now)]


def _ingress_class(obj: Json, now: datetime) -> Row:
    spec = part(obj, "spec")
    about = part(spec, "parameters")
    kind = str(about.get("kind", "")) + (f".{about['apiGroup']}" if about.get("apiGroup") else "")
    shown = f"{kind}/{about.get('name', '')}" if about else NONE
    return [name(obj), spec.get("controller", ""), shown, created(obj, now)]


def _network_policy(obj: Json, now: datetime) -> Row:
    return [name(obj), as_text(part(obj, "spec").get("podSelector")) or NONE, created(obj, now)]


_PV = (
    "Name", "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass", "VolumeAttributesClass",
    "Reason", "Age",
)  # fmt: skip
_PVC = ("Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age")
_CLASS = ("Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age")
_DRIVER = (
    "Name", "AttachRequired", "PodInfoOnMount", "StorageCapacity", "TokenRequests", "RequiresRepublish", "Modes", "Age",
)  # fmt: skip
STORAGE, NETWORKING = "storage.k8s.io", "networking.k8s.io"

CLUSTER_PRINTERS: dict[tuple[str, str], tuple[tuple[Column, ...], Cells]] = {
    ("", "endpoints"): (columns("Name", "Endpoints", "Age"), _endpoints),
    ("discovery.k8s.io", "endpointslices"): (columns("Name", "AddressType", "Ports", "Endpoints", "Age"), _slice),
    ("", "persistentvolumes"): (columns(*_PV, wide=("VolumeMode",)), _volume),
    ("", "persistentvolumeclaims"): (columns(*_PVC, wide=("VolumeMode",)), _claim),
    ("", "limitranges"): (columns("Name", "Created At"), _limit_range),
    ("", "resourcequotas"): (columns("Name", "Request", "Limit", "Age"), _quota),
    (STORAGE, "storageclasses"): (columns(*_CLASS), _storage_class),
    (STORAGE, "csinodes"): (columns("Name", "Drivers", "Age", numbers=("Drivers",)), _csi_node),
    (STORAGE, "csidrivers"): (columns(*_DRIVER), _csi_driver),
    (NETWORKING, "ingresses"): (columns("Name", "Class", "Hosts", "Address", "Ports", "Age"), _ingress),
    (NETWORKING, "ingressclasses"): (columns("Name", "Controller", "Parameters", "Age"), _ingress_class),
    (NETWORKING, "networkpolicies"): (columns("Name", "Pod-Selector", "Age"), _network_policy),
}
