"""What ``kubectl get`` shows of the built-in kinds: the columns and cells of kube-apiserver's own printers."""

from datetime import datetime, timedelta
from typing import Any

from kubeapi.cluster_printers import CLUSTER_PRINTERS
from kubeapi.durations import UNKNOWN, age, human
from kubeapi.pod_printer import POD_COLUMNS, pod_cells
from kubeapi.printing import NONE, Cells, columns, created, name, part
from kubeapi.resources import Column
from kubeapi.workload_printers import WORKLOAD_PRINTERS


def _namespace(obj: dict[str, Any], now: datetime) -> list[Any]:
    return [name(obj), part(obj, "status").get("phase", ""), created(obj, now)]


def _config_map(obj: dict[str, Any], now: datetime) -> list[Any]:
    return [name(obj), len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), created(obj, now)]


def _secret(obj: dict[str, Any], now: datetime) -> list[Any]:
    return [name(obj), obj.get("type", ""), len(obj.get("data") or {}), created(obj, now)]


def _service_account(obj: dict[str, Any], now: datetime) -> list[Any]:
    return [name(obj), len(obj.get("secrets") or ()), created(obj, now)]


def _node_status(obj: dict[str, Any]) -> str:
    ready = next((c for c in part(obj, "status").get("conditions") or () if c.get("type") == "Ready"), None)
    out = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    return out + (",SchedulingDisabled" if part(obj, "spec").get("unschedulable") else "")


def _node_roles(labels: dict[str, str]) -> str:
    prefix, old = "node-role.kubernetes.io/", "kubernetes.io/role"
    roles = {k.removeprefix(prefix) for k in labels if k.startswith(prefix)} | {
        v for k, v in labels.items() if k == old
    }
    return ",".join(sorted(roles - {""})) or NONE


def _node(obj: dict[str, Any], now: datetime) -> list[Any]:
    status = part(obj, "status")
    about = part(status, "nodeInfo")
    addresses = {a.get("type"): a.get("address") for a in status.get("addresses") or ()}
    return [
        name(obj),
        _node_status(obj),
        _node_roles(part(obj, "metadata").get("labels") or {}),
        created(obj, now),
        about.get("kubeletVersion", ""),
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        about.get("osImage") or UNKNOWN,
        about.get("kernelVersion") or UNKNOWN,
        about.get("containerRuntimeVersion") or UNKNOWN,
    ]


def _external_address(obj: dict[str, Any]) -> str:
    spec = part(obj, "spec")
    external = spec.get("externalIPs") or []
    kind = spec.get("type") or "ClusterIP"
    if kind == "ExternalName":
        return str(spec.get("externalName", ""))
    if kind == "LoadBalancer":
        ingress = part(part(obj, "status"), "loadBalancer").get("ingress") or []
        found = [i.get("ip") or i.get("hostname") or "" for i in ingress] + external
        return ",".join(found) or "<pending>"
    return ",".join(external) or NONE


def _service(obj: dict[str, Any], now: datetime) -> list[Any]:
    spec = part(obj, "spec")
    ports = [
        f"{p.get('port')}" + (f":{p['nodePort']}" if p.get("nodePort") else "") + f"/{p.get('protocol', 'TCP')}"
        for p in spec.get("ports") or ()
    ]
    return [
        name(obj),
        spec.get("type") or "ClusterIP",
        spec.get("clusterIP") or NONE,
        _external_address(obj),
        ",".join(ports) or NONE,
        created(obj, now),
        _selector(spec.get("selector")),
    ]


def _selector(selector: Any) -> str:
    return (
        ",".join(f"{k}={v}" for k, v in sorted(selector.items())) if isinstance(selector, dict) and selector else NONE
    )


def _event(obj: dict[str, Any], now: datetime) -> list[Any]:
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    series = obj.get("series") or {}
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or first
    component = obj.get("reportingComponent") or obj.get("reportingController") or source.get("component") or ""
    instance = obj.get("reportingInstance") or source.get("host") or ""
    return [
        age(last, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        str(obj.get("message") or obj.get("note") or "").strip(),
        about.get("fieldPath", ""),
        ", ".join(filter(None, (component, instance))),
        age(first, now),
        series.get("count") or obj.get("count") or obj.get("deprecatedCount") or 1,
        name(obj),
    ]


def _lease(obj: dict[str, Any], now: datetime) -> list[Any]:
    return [name(obj), part(obj, "spec").get("holderIdentity", ""), created(obj, now)]


def _created_at(obj: dict[str, Any], now: datetime) -> list[Any]:
    del now
    return [name(obj), part(obj, "metadata").get("creationTimestamp") or UNKNOWN]


def _binding(obj: dict[str, Any], now: datetime) -> list[Any]:
    ref = part(obj, "roleRef")
    subjects = [s for s in obj.get("subjects") or () if isinstance(s, dict)]
    accounts = [f"{s.get('namespace', '')}/{s.get('name', '')}" for s in subjects if s.get("kind") == "ServiceAccount"]
    named = {
        kind: ", ".join(s.get("name", "") for s in subjects if s.get("kind") == kind) for kind in ("User", "Group")
    }
    role = f"{ref.get('kind', '')}/{ref.get('name', '')}"
    return [name(obj), role, created(obj, now), named["User"], named["Group"], ", ".join(accounts)]


def csr_condition(obj: dict[str, Any]) -> str:
    """Return ``Pending``, or what was decided and whether a certificate was issued."""
    status = part(obj, "status")
    kinds = {c.get("type") for c in status.get("conditions") or ()}
    out = [kind for kind in ("Denied", "Approved", "Failed") if kind in kinds] or ["Pending"]
    return ",".join(out + (["Issued"] if status.get("certificate") else []))


def _signing_request(obj: dict[str, Any], now: datetime) -> list[Any]:
    spec = part(obj, "spec")
    asked = spec.get("expirationSeconds")
    lasting = human(timedelta(seconds=asked)) if isinstance(asked, int) else NONE
    return [
        name(obj),
        created(obj, now),
        spec.get("signerName") or NONE,
        spec.get("username", ""),
        lasting,
        csr_condition(obj),
    ]


_NODE_WIDE = ("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime")
_EVENT_WIDE = ("Subobject", "Source", "First Seen", "Count", "Name")
_EVENTS = columns("Last Seen", "Type", "Reason", "Object", "Message", wide=_EVENT_WIDE)
_BINDINGS = columns("Name", "Role", "Age", wide=("Users", "Groups", "ServiceAccounts"))
_RBAC = "rbac.authorization.k8s.io"

PRINTERS: dict[tuple[str, str], tuple[tuple[Column, ...], Cells]] = {
    ("", "namespaces"): (columns("Name", "Status", "Age"), _namespace),
    ("", "configmaps"): (columns("Name", "Data", "Age"), _config_map),
    ("", "secrets"): (columns("Name", "Type", "Data", "Age", numbers=("Data",)), _secret),
    ("", "serviceaccounts"): (columns("Name", "Secrets", "Age"), _service_account),
    ("", "nodes"): (columns("Name", "Status", "Roles", "Age", "Version", wide=_NODE_WIDE), _node),
    ("", "pods"): (POD_COLUMNS, pod_cells),
    ("", "services"): (
        columns("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", wide=("Selector",)),
        _service,
    ),
    ("", "events"): (_EVENTS, _event),
    ("events.k8s.io", "events"): (_EVENTS, _event),
    ("coordination.k8s.io", "leases"): (columns("Name", "Holder", "Age"), _lease),
    (_RBAC, "roles"): (columns("Name", "Created At"), _created_at),
    (_RBAC, "clusterroles"): (columns("Name", "Created At"), _created_at),
    (_RBAC, "rolebindings"): (_BINDINGS, _binding),
    (_RBAC, "clusterrolebindings"): (_BINDINGS, _binding),
    ("certificates.k8s.io", "certificatesigningrequests"): (
        columns("Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"),
        _signing_request,
    ),
    ("apiextensions.k8s.io", "customresourcedefinitions"): (columns("Name", "Created At"), _created_at),
    **WORKLOAD_PRINTERS,
    **CLUSTER_PRINTERS,
}
