"""What the built-in kinds get by default, and rules that their schemas cannot say."""

import base64
import binascii
from collections.abc import Callable
from typing import Any

from kubeapi.defaulting import fill_in
from kubeapi.errors import INVALID, NOT_SUPPORTED, REQUIRED, TOO_LONG, Cause
from kubeapi.resources import Resource

Json = dict[str, Any]
MAX_SECRET_BYTES = 1024 * 1024
NODE_INFO = (
    "architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "kubeletVersion",
    "machineID", "operatingSystem", "osImage", "systemUUID",
)  # fmt: skip


def _namespace(obj: Json, old: Json | None) -> None:
    metadata = obj["metadata"] = dict(obj["metadata"])
    metadata["labels"] = {**(metadata.get("labels") or {}), "kubernetes.io/metadata.name": metadata.get("name", "")}
    if old is None:
        obj["spec"] = {**(obj.get("spec") or {}), "finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    elif not obj.get("status"):
        obj["status"] = {"phase": "Active"}


def _secret(obj: Json, _old: Json | None) -> None:
    obj["type"] = obj.get("type") or "Opaque"
    plain = obj.pop("stringData", None)
    if isinstance(plain, dict):
        encoded = {k: base64.b64encode(str(v).encode()).decode() for k, v in plain.items()}
        obj["data"] = {**(obj.get("data") or {}), **encoded}


def _service(obj: Json, old: Json | None) -> None:
    spec = obj["spec"] = dict(obj.get("spec") or {})
    fill_in(spec, type="ClusterIP", sessionAffinity="None")
    if spec["type"] != "ExternalName":
        fill_in(spec, internalTrafficPolicy="Cluster", ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])
    if isinstance(spec.get("ports"), list):
        spec["ports"] = [_service_port(p) if isinstance(p, dict) else p for p in spec["ports"]]
    if old is not None:
        held = old.get("spec") or {}
        for key in ("clusterIP", "clusterIPs"):
            if held.get(key) and not spec.get(key):
                spec[key] = held[key]
    if not obj.get("status"):
        obj["status"] = {"loadBalancer": {}}


def _service_port(port: Json) -> Json:
    out = dict(port)
    fill_in(out, protocol="TCP", targetPort=port.get("port"))
    return out


def _node(obj: Json, old: Json | None) -> None:
    fill_in(obj, spec={})
    status = obj["status"] = dict(obj.get("status") or {})
    given = status.get("nodeInfo")
    if isinstance(given, dict) or old is None:  # strict clients refuse a half-filled nodeInfo
        status["nodeInfo"] = {**dict.fromkeys(NODE_INFO, ""), **(given if isinstance(given, dict) else {})}
    fill_in(status, daemonEndpoints={"kubeletEndpoint": {"Port": 0}})


def _event(obj: Json, _old: Json | None) -> None:
    fill_in(obj, involvedObject={}, type="Normal")


def _role(obj: Json, _old: Json | None) -> None:
    if obj.get("rules") is None:
        obj["rules"] = []


def _binding(obj: Json, _old: Json | None) -> None:
    subjects = obj.get("subjects")
    if isinstance(subjects, list):
        obj["subjects"] = [_subject(s) if isinstance(s, dict) else s for s in subjects]
    if isinstance(obj.get("roleRef"), dict):
        obj["roleRef"] = dict(obj["roleRef"])
        fill_in(obj["roleRef"], apiGroup="rbac.authorization.k8s.io")


def _subject(subject: Json) -> Json:
    if subject.get("kind") in ("User", "Group"):
        return {**subject, "apiGroup": subject.get("apiGroup") or "rbac.authorization.k8s.io"}
    return subject


def _csr(obj: Json, old: Json | None) -> None:
    if old is None:
        obj["status"] = {}
        spec = obj.get("spec")
        if isinstance(spec, dict):
            obj["spec"] = spec = dict(spec)
            fill_in(spec, usages=["digital signature", "key encipherment"])


def _lease(obj: Json, _old: Json | None) -> None:
    if obj.get("spec") is None:
        obj["spec"] = {}


def _pod(obj: Json, old: Json | None) -> None:
    from kubeapi.pod_defaults import pod_defaults  # noqa: PLC0415  few processes ever see a pod

    pod_defaults(obj, old)


DEFAULTS: dict[str, Callable[[Json, Json | None], None]] = {
    "Namespace": _namespace,
    "Secret": _secret,
    "Service": _service,
    "Node": _node,
    "Event": _event,
    "Role": _role,
    "ClusterRole": _role,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "CertificateSigningRequest": _csr,
    "Lease": _lease,
    "Pod": _pod,
}


# kinds that need nothing of the workloads' modules
PLAIN = frozenset({"ConfigMap", "CustomResourceDefinition", "Event", "Lease", "Namespace", "Node", "ServiceAccount"})


def defaults(res: Resource, obj: Json, old: Json | None) -> Json:
    """Return ``obj`` with what the API fills in; ``old`` None is a create. A part of the wrong type is left for the schema."""
    fill = DEFAULTS.get(res.kind) or _workload_defaults(res.kind)
    parts = (obj.get("spec"), obj.get("status"), obj.get("data"))
    if fill is not None and not res.view_of and all(part is None or isinstance(part, dict) for part in parts):
        obj = dict(obj)
        fill(obj, old)
    return obj


def _workload_defaults(kind: str) -> Callable[[Json, Json | None], None] | None:
    if kind in PLAIN:
        return None
    from kubeapi.workload_defaults import WORKLOAD_DEFAULTS  # noqa: PLC0415  few processes ever see these kinds

    return WORKLOAD_DEFAULTS.get(kind)


def _data_causes(obj: Json) -> list[Cause]:
    out, total = [], 0
    for section in ("data", "binaryData"):
        for key, value in (obj.get(section) or {}).items():
            total += len(value) if isinstance(value, str) else 0
            if (
                not key
                or len(key) > 253
                or any(not (c.isascii() and (c.isalnum() or c in "-._")) for c in key)
                or key in (".", "..")
            ):
                text = f"Invalid value: \"{key[:80]}\": a valid key must consist of alphanumeric characters, '-', '_' or '.'"
                out.append(Cause(INVALID, f"{section}[{key[:80]}]", text))
    if total > MAX_SECRET_BYTES * 4 // 3:
        out.append(Cause(TOO_LONG, "data", f"Too long: may not be more than {MAX_SECRET_BYTES} bytes"))
    return out


def _secret_causes(obj: Json) -> list[Cause]:
    out = _data_causes(obj)
    data = obj.get("data") or {}
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError):
            out.append(Cause(INVALID, f"data.{key}", "Invalid value: must be base64; put plain text under stringData"))
    needed = {"kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",)}
    out += [
        Cause(REQUIRED, f"data[{key}]", "Required value")
        for key in needed.get(obj.get("type", ""), ())
        if key not in data
    ]
    return out


def _service_causes(obj: Json) -> list[Cause]:
    spec = obj.get("spec") or {}
    out = []
    allowed = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec.get("type") not in allowed:
        listed = ", ".join(f'"{a}"' for a in allowed)
        out.append(
            Cause(NOT_SUPPORTED, "spec.type", f'Unsupported value: "{spec.get("type")}": supported values: {listed}')
        )
    if not spec.get("ports") and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        out.append(Cause(REQUIRED, "spec.ports", "Required value"))
    for i, port in enumerate(spec.get("ports") or ()):
        number = port.get("port")
        if not isinstance(number, int) or not 1 <= number <= 65535:
            text = f"Invalid value: {number}: must be between 1 and 65535, inclusive"
            out.append(Cause(INVALID, f"spec.ports[{i}].port", text))
        if len(spec["ports"]) > 1 and not port.get("name"):
            out.append(Cause(REQUIRED, f"spec.ports[{i}].name", "Required value"))
    return out


def _binding_causes(obj: Json) -> list[Cause]:
    ref = obj.get("roleRef") or {}
    out = [Cause(REQUIRED, f"roleRef.{k}", "Required value") for k in ("kind", "name") if not ref.get(k)]
    if ref.get("kind") and ref["kind"] not in ("Role", "ClusterRole"):
        text = f'Unsupported value: "{ref["kind"]}": supported values: "ClusterRole", "Role"'
        out.append(Cause(NOT_SUPPORTED, "roleRef.kind", text))
    for i, subject in enumerate(obj.get("subjects") or ()):
        if subject.get("kind") not in ("User", "Group", "ServiceAccount"):
            text = f'Unsupported value: "{subject.get("kind")}": supported values: "Group", "ServiceAccount", "User"'
            out.append(Cause(NOT_SUPPORTED, f"subjects[{i}].kind", text))
        if not subject.get("name"):
            out.append(Cause(REQUIRED, f"subjects[{i}].name", "Required value"))
    return out


def _role_causes(obj: Json) -> list[Cause]:
    return [
        Cause(REQUIRED, f"rules[{i}].verbs", "Required value: verbs must contain at least one value")
        for i, rule in enumerate(obj.get("rules") or ())
        if not rule.get("verbs")
    ]


def _csr_causes(obj: Json) -> list[Cause]:
    spec = obj.get("spec") or {}
    out = [Cause(REQUIRED, f"spec.{k}", "Required value") for k in ("request", "signerName") if not spec.get(k)]
    if spec.get("signerName") and "/" not in spec["signerName"]:
        text = f'Invalid value: "{spec["signerName"]}": must be a domain, "/" and a path'
        out.append(Cause(INVALID, "spec.signerName", text))
    return out


def _pod_causes(obj: Json) -> list[Cause]:
    from kubeapi.pod_rules import pod_causes  # noqa: PLC0415  few processes ever see a pod

    return pod_causes(obj)


CHECKS: dict[str, Callable[[Json], list[Cause]]] = {
    "ConfigMap": _data_causes,
    "Pod": _pod_causes,
    "Secret": _secret_causes,
    "Service": _service_causes,
    "RoleBinding": _binding_causes,
    "ClusterRoleBinding": _binding_causes,
    "Role": _role_causes,
    "ClusterRole": _role_causes,
    "CertificateSigningRequest": _csr_causes,
}


def validate(res: Resource, obj: Json) -> list[Cause]:
    """Return what is wrong beyond the schema."""
    check = CHECKS.get(res.kind)
    if check is None and res.kind not in PLAIN:
        from kubeapi.workload_rules import WORKLOAD_CHECKS  # noqa: PLC0415  few processes ever see these kinds

        check = WORKLOAD_CHECKS.get(res.kind)
    return [] if check is None else check(obj)
