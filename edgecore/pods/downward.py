"""The downward API: what a container may learn about its own pod (pure)."""

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING
from typing import Any

from edgecore.pods.facts import NodeFacts
from kubeapi import quantities

Json = dict[str, Any]
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPES["\v"] = "\\v"


def field(pod: Mapping[str, Any], path: str, facts: NodeFacts, ips: tuple[str, ...]) -> str:
    """Return the value of a fieldRef's fieldPath. Raises ValueError for one that is not supported."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    found = _SUBSCRIPT.fullmatch(path)
    if found is not None:
        return str((metadata.get(found[1]) or {}).get(found[2], ""))
    own = ips or (facts.addresses if spec.get("hostNetwork") else ())
    values = {
        "metadata.name": metadata.get("name", ""),
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": spec.get("nodeName") or facts.name,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": "".join(facts.addresses[:1]),
        "status.hostIPs": ",".join(facts.addresses),
        "status.podIP": "".join(own[:1]),
        "status.podIPs": ",".join(own),
    }
    if path in values:
        return str(values[path])
    if path in {"metadata.labels", "metadata.annotations"}:
        return lines(metadata.get(path.partition(".")[2]) or {})
    raise ValueError(f"unsupported fieldPath: {path}")


def resource(container: Mapping[str, Any], ref: Mapping[str, Any], facts: NodeFacts) -> str:
    """Return the value of a resourceFieldRef: the node's allocatable where the container has no limit. Raises ValueError."""
    half, _, name = str(ref.get("resource", "")).partition(".")
    if half not in {"limits", "requests"} or not name:
        raise ValueError(f"unsupported container resource: {ref.get('resource')}")
    resources = container.get("resources") or {}
    limit = (resources.get("limits") or {}).get(name)
    if half == "requests":
        value = (resources.get("requests") or {}).get(name, limit if limit is not None else "0")
    else:
        value = limit if limit is not None else facts.allocatable.get(name, "0")
    by = quantities.of(ref.get("divisor") or "1") or quantities.of("1")
    return str((quantities.of(value) / by).to_integral_value(ROUND_CEILING))


def lines(labels: Mapping[str, str]) -> str:
    """``key="value"`` per line in order of the keys, as the downward API writes labels and annotations."""
    return "\n".join(f'{key}="{_quoted(str(value))}"' for key, value in sorted(labels.items()))


def _quoted(text: str) -> str:
    return "".join(_ESCAPES.get(c) or (c if c.isprintable() else _code(ord(c))) for c in text)


def _code(point: int) -> str:
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
