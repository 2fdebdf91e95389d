"""The environment, command and arguments of a container (pure: objects come in by the door)."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgecore.pods import downward
from edgecore.pods.facts import NodeFacts
from edgecore.pods.lookups import Objects
from edgecore.pods.unready import bad_config

Json = dict[str, Any]
_VARIABLE = re.compile(r"\$(?:\$|\(([^)]*)\))")
KUBERNETES = "kubernetes"  # the Service that stands for the API


def expand(text: str, *variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by the first of ``variables`` that has it; unknown ones stay, ``$$`` is one ``$``."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "$"
        return next((known[name] for known in variables if name in known), found[0])

    return _VARIABLE.sub(value, text)


def environment(
    pod: Json, container: Json, objects: Objects, facts: NodeFacts, *, ips: tuple[str, ...], services: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the variables in their order, and the keys of envFrom that cannot be names. Raises Unready."""
    out: dict[str, str] = {}
    refused: list[str] = []
    namespace = pod["metadata"].get("namespace", "")
    for source in container.get("envFrom") or ():
        values, bad = _all_of(source, namespace, objects)
        out |= values
        refused += bad
    for variable in container.get("env") or ():
        name = str(variable["name"])
        if variable.get("value"):
            out[name] = expand(str(variable["value"]), out, services)
        elif variable.get("valueFrom"):
            value = _from(variable["valueFrom"], pod, container, objects, facts, ips)
            if value is not None:
                out[name] = value
        else:
            out[name] = ""
    return {**out, **{name: value for name, value in services.items() if name not in out}}, refused


def service_environment(services: Iterable[Json]) -> dict[str, str]:
    """Return the variables that announce Services with an address, Kubernetes' own and Docker's old form."""
    out: dict[str, str] = {}
    for service in services:
        spec = service.get("spec") or {}
        address, ports = spec.get("clusterIP"), spec.get("ports") or []
        if not address or address == "None" or not ports:
            continue
        out |= announce(service["metadata"]["name"], address, ports)
    return out


def announce(name: str, address: str, ports: list[Json]) -> dict[str, str]:
    """Return the variables of one Service."""
    prefix = name.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    out = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    for at, port in enumerate(ports):
        protocol, number = str(port.get("protocol") or "TCP"), str(port["port"])
        if port.get("name"):
            out[f"{prefix}_SERVICE_PORT_{str(port['name']).upper().replace('-', '_')}"] = number
        url = f"{protocol.lower()}://{host}:{number}"
        if at == 0:
            out[f"{prefix}_PORT"] = url
        link = f"{prefix}_PORT_{number}_{protocol.upper()}"
        out |= {link: url, f"{link}_PROTO": protocol.lower(), f"{link}_PORT": number, f"{link}_ADDR": address}
    return out


def services_of(pod: Json, objects: Objects, api: tuple[str, int] | None) -> dict[str, str]:
    """Return the variables of the Services of the pod's namespace; ``api`` stands for the Service of the API itself."""
    listed: list[Json] = []
    if (pod.get("spec") or {}).get("enableServiceLinks", True):
        listed = objects.list("services", pod["metadata"].get("namespace", ""))
    master = objects.get("services", "default", KUBERNETES)
    out = service_environment([*([master] if master else []), *listed])
    if api is not None:
        host, port = api
        out |= announce(KUBERNETES, host, [{"name": "https", "port": port, "protocol": "TCP"}])
    return out


def command(container: Json, variables: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return command and arguments with their variables replaced."""
    words = [tuple(expand(str(word), variables) for word in container.get(key) or ()) for key in ("command", "args")]
    return words[0], words[1]


def secret_bytes(value: Any) -> bytes:
    """Decode one value of a Secret's ``data`` or a ConfigMap's ``binaryData``. Raises ValueError."""
    try:
        return base64.b64decode(str(value or ""), validate=True)
    except binascii.Error as error:
        raise ValueError("the value is not base64") from error


def _all_of(source: Json, namespace: str, objects: Objects) -> tuple[dict[str, str], list[str]]:
    prefix = str(source.get("prefix") or "")
    values: dict[str, str] = {}
    for key, plural, kind in (("configMapRef", "configmaps", "configmap"), ("secretRef", "secrets", "secret")):
        ref = source.get(key)
        if ref is None:
            continue
        found = objects.get(plural, namespace, ref.get("name", ""))
        if found is None:
            if ref.get("optional"):
                continue
            raise bad_config(f'{kind} "{ref.get("name", "")}" not found')
        held = found.get("data") or {}
        values |= {prefix + name: _text(kind, found, name, value) for name, value in held.items()}
    good = {name: value for name, value in values.items() if _is_name(name)}
    return good, sorted(set(values) - set(good))


def _from(
    source: Json, pod: Json, container: Json, objects: Objects, facts: NodeFacts, ips: tuple[str, ...]
) -> str | None:
    try:
        if "fieldRef" in source:
            return downward.field(pod, source["fieldRef"].get("fieldPath", ""), facts, ips)
        if "resourceFieldRef" in source:
            ref = source["resourceFieldRef"]
            return downward.resource(_named(pod, ref.get("containerName"), container), ref, facts)
    except ValueError as error:
        raise bad_config(str(error)) from error
    for key, plural, kind in (("configMapKeyRef", "configmaps", "ConfigMap"), ("secretKeyRef", "secrets", "Secret")):
        if key in source:
            return _one_of(source[key], pod["metadata"].get("namespace", ""), plural, kind, objects)
    raise bad_config(
        f"the environment of container {container.get('name')} names a source that this node does not know"
    )


def _one_of(ref: Json, namespace: str, plural: str, kind: str, objects: Objects) -> str | None:
    found = objects.get(plural, namespace, ref.get("name", ""))
    if found is None:
        if ref.get("optional"):
            return None
        raise bad_config(f'{kind.lower()} "{ref.get("name", "")}" not found')
    held = found.get("data") or {}
    key = ref.get("key", "")
    if key not in held:
        if ref.get("optional"):
            return None
        raise bad_config(f"couldn't find key {key} in {kind} {namespace}/{ref.get('name', '')}")
    return _text(kind.lower(), found, key, held[key])


def _text(kind: str, found: Json, key: str, value: Any) -> str:
    if kind == "configmap":
        return str(value)
    try:
        return secret_bytes(value).decode()
    except ValueError as error:
        raise bad_config(
            f'key {key} of secret "{found["metadata"]["name"]}" is no text: mount it as a volume instead'
        ) from error


def _is_name(name: str) -> bool:
    return bool(name) and "=" not in name and all(" " <= c <= "~" for c in name)


def _named(pod: Json, name: Any, container: Json) -> Json:
    if not name:
        return container
    spec = pod.get("spec") or {}
    listed = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    return next((c for c in listed if c.get("name") == name), container)
