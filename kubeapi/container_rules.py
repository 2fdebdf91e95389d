"""What is wrong with a container: names, images, ports, environment, resources, probes, mounts."""

import re
from typing import Any

from kubeapi.causes import Causes, absent, at_least, bad, dns_label, duplicate, forbid, one_of, required, within
from kubeapi.metadata import key_causes
from kubeapi.quantities import BadQuantity, of

Json = dict[str, Any]
PORT_NAME = re.compile(r"(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?")
PROTOCOLS = ("SCTP", "TCP", "UDP")
HANDLERS = ("exec", "grpc", "httpGet", "tcpSocket")
HOOK_HANDLERS = ("exec", "httpGet", "sleep", "tcpSocket")
SOURCES = ("configMapKeyRef", "fieldRef", "resourceFieldRef", "secretKeyRef")
RESOURCES = ("cpu", "ephemeral-storage", "memory")
MAX_ID = 2**31 - 1


def container_causes(container: Json, path: str, volumes: dict[str, Json], seen: set[str]) -> Causes:
    """Return what is wrong with one container; ``seen`` are the names taken so far, and gets this one."""
    name = container.get("name") or ""
    out = dns_label(f"{path}.name", name)
    if name in seen:
        out.append(duplicate(f"{path}.name", name))
    seen.add(name)
    image = container.get("image")
    if not image:
        out.append(required(f"{path}.image"))
    elif image != image.strip():
        out.append(bad(f"{path}.image", image, "must not have leading or trailing whitespace"))
    out += one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never"))
    policies = ("FallbackToLogsOnError", "File")
    out += one_of(f"{path}.terminationMessagePolicy", container.get("terminationMessagePolicy"), policies)
    out += _ports(container.get("ports") or [], f"{path}.ports")
    out += _env(container, path)
    out += resource_causes(container.get("resources") or {}, f"{path}.resources")
    out += _mounts(container, path, volumes)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(probe):
            out += _probe(container[probe], f"{path}.{probe}", probe)
    for hook, handler in (container.get("lifecycle") or {}).items():
        if isinstance(handler, dict):
            out += _handler(handler, f"{path}.lifecycle.{hook}", HOOK_HANDLERS)
    return out + _security(container.get("securityContext") or {}, f"{path}.securityContext")


def port_number(path: str, value: Any) -> Causes:
    return within(path, value, 1, 65535)


def port_or_name(path: str, value: Any) -> Causes:
    """Refuse a port that is neither a number nor the name of one."""
    if value is None:
        return [required(path)]
    if isinstance(value, int):
        return port_number(path, value)
    return _port_name(path, value)


def _port_name(path: str, name: str) -> Causes:
    if len(name) > 15:
        return [bad(path, name, "must be no more than 15 characters")]
    if not PORT_NAME.fullmatch(name):
        return [bad(path, name, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")]
    if not any("a" <= c <= "z" for c in name):
        return [bad(path, name, "must contain at least one letter (a-z)")]
    return []


def _ports(ports: list[Json], path: str) -> Causes:
    out: Causes = []
    names: set[str] = set()
    for i, port in enumerate(ports):
        where = f"{path}[{i}]"
        name = port.get("name")
        if name:
            out += _port_name(f"{where}.name", name)
            if name in names:
                out.append(duplicate(f"{where}.name", name))
            names.add(name)
        if not port.get("containerPort"):
            out.append(required(f"{where}.containerPort"))
        else:
            out += port_number(f"{where}.containerPort", port["containerPort"])
        if port.get("hostPort"):
            out += port_number(f"{where}.hostPort", port["hostPort"])
        out += one_of(f"{where}.protocol", port.get("protocol"), PROTOCOLS)
    return out


def _env(container: Json, path: str) -> Causes:
    out: Causes = []
    for i, entry in enumerate(container.get("env") or ()):
        where, name = f"{path}.env[{i}]", entry.get("name") or ""
        if not name:
            out.append(required(f"{where}.name"))
        elif any(c == "=" or not " " <= c <= "~" for c in name):
            out.append(bad(f"{where}.name", name, "must consist only of printable ASCII characters other than '='"))
        source = entry.get("valueFrom")
        if source is None:
            continue
        given = [key for key in SOURCES if source.get(key)]
        if entry.get("value"):
            out.append(bad(f"{where}.valueFrom", "", "may not be specified when `value` is not empty"))
        if len(given) != 1:
            text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
            many = "may not have more than one field specified at a time"
            out.append(bad(f"{where}.valueFrom", "", many if given else text))
    for i, entry in enumerate(container.get("envFrom") or ()):
        if sum(1 for key in ("configMapRef", "secretRef") if entry.get(key)) != 1:
            out.append(bad(f"{path}.envFrom[{i}]", "", "must specify one of: `configMapRef` or `secretRef`"))
    return out


def resource_causes(resources: Json, path: str) -> Causes:
    """Return what is wrong with requests and limits."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    out = amounts_causes(limits, f"{path}.limits") + amounts_causes(requests, f"{path}.requests")
    if out:
        return out
    for name, value in requests.items():
        scarce = name not in RESOURCES  # a device cannot be lent to two
        if name in limits:
            if scarce and of(value) != of(limits[name]):
                out.append(bad(f"{path}.requests", value, f"must be equal to {name} limit of {limits[name]}"))
            elif of(value) > of(limits[name]):
                text = f"must be less than or equal to {name} limit of {limits[name]}"
                out.append(bad(f"{path}.requests", value, text))
        elif scarce:
            out.append(required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
    return out


def amounts_causes(amounts: Json, path: str) -> Causes:
    """Return what is wrong with a map of resource amounts."""
    out: Causes = []
    for name, value in amounts.items():
        where = f"{path}[{name}]"
        if "/" not in name and name not in RESOURCES and not name.startswith("hugepages-"):
            out.append(bad(where, name, "must be a standard resource type or fully qualified"))
        out += key_causes(where, name)
        try:
            if of(value) < 0:
                out.append(bad(where, value, "must be greater than or equal to 0"))
        except BadQuantity:
            text = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            out.append(bad(where, value, text))
    return out


def _mounts(container: Json, path: str, volumes: dict[str, Json]) -> Causes:
    out: Causes = []
    taken: set[str] = set()
    for i, mount in enumerate(container.get("volumeMounts") or ()):
        where, at = f"{path}.volumeMounts[{i}]", mount.get("mountPath")
        if not mount.get("name"):
            out.append(required(f"{where}.name"))
        elif mount["name"] not in volumes:
            out.append(absent(f"{where}.name", mount["name"]))
        if not at:
            out.append(required(f"{where}.mountPath"))
        elif at in taken:
            out.append(bad(f"{where}.mountPath", at, "must be unique"))
        taken.add(at or "")
        if mount.get("subPath") and mount.get("subPathExpr"):
            out.append(
                bad(f"{where}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive")
            )
        for key in ("subPath", "subPathExpr"):
            out += relative(f"{where}.{key}", mount.get(key) or "")
    return out


def relative(path: str, value: str) -> Causes:
    """Refuse a path that leaves its directory."""
    if value.startswith("/"):
        return [bad(path, value, "must be a relative path")]
    return [bad(path, value, "must not contain '..'")] if ".." in value.split("/") else []


def _handler(handler: Json, path: str, kinds: tuple[str, ...]) -> Causes:
    given = [kind for kind in kinds if handler.get(kind) is not None]
    if not given:
        return [required(path, "must specify a handler type")]
    out: Causes = [forbid(f"{path}.{kind}", "may not specify more than 1 handler type") for kind in given[1:]]
    kind, about = given[0], handler[given[0]]
    if kind == "exec" and not about.get("command"):
        out.append(required(f"{path}.exec.command"))
    elif kind == "grpc":
        out += port_number(f"{path}.grpc.port", about.get("port") or 0)
    elif kind in ("httpGet", "tcpSocket"):
        out += port_or_name(f"{path}.{kind}.port", about.get("port"))
        out += one_of(f"{path}.httpGet.scheme", about.get("scheme"), ("HTTP", "HTTPS"))
    return out


def _probe(probe: Json, path: str, kind: str) -> Causes:
    out = _handler(probe, path, HANDLERS)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        out += at_least(f"{path}.{key}", probe.get(key))
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        out.append(bad(f"{path}.successThreshold", probe["successThreshold"], "must be 1"))
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and kind == "readinessProbe":
        out.append(bad(f"{path}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes"))
    elif grace is not None and grace < 1:
        out.append(bad(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0"))
    return out


def _security(context: Json, path: str) -> Causes:
    out: Causes = []
    for key in ("runAsUser", "runAsGroup"):
        out += within(f"{path}.{key}", context.get(key), 0, MAX_ID)
    if context.get("allowPrivilegeEscalation") is False:
        text = "cannot set `allowPrivilegeEscalation` to false and "
        if context.get("privileged"):
            out.append(bad(path, context, text + "`privileged` to true"))
        elif any("SYS_ADMIN" in str(c) for c in (context.get("capabilities") or {}).get("add") or ()):
            out.append(bad(path, context, text + "`capabilities.Add` CAP_SYS_ADMIN"))
    return out
