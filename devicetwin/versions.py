"""Documents of an older API version: refused with one sentence that names what changed."""

from collections.abc import Mapping
from typing import Any

from devicetwin.model import API_VERSION, GROUP

REFUSED = frozenset({f"{GROUP}/v1alpha1", f"{GROUP}/v1alpha2"})


def explain_v1alpha2(document: Mapping[str, Any]) -> str | None:
    """Return what to change in a Device, DeviceModel or DeviceStatus of another shape than v1beta1; None when it is fine.

    Also catches a v1alpha2 body under a v1beta1 ``apiVersion``, which a schema would prune without a word.
    """
    version = document.get("apiVersion")
    changes = _changes(document)
    if version not in REFUSED and (version != API_VERSION or not changes):
        return None
    named = "; ".join(changes) or "the field names are otherwise those of v1beta1"
    lead = (
        f"{version} documents are not accepted"
        if version in REFUSED
        else f"this is a v1alpha2 document under {version}"
    )
    return f"{lead}: write it as {API_VERSION}; {named}"


def _changes(document: Mapping[str, Any]) -> list[str]:
    spec, status = _mapping(document.get("spec")), _mapping(document.get("status"))
    found = []
    if "nodeSelector" in spec:
        found.append("spec.nodeSelector becomes spec.nodeName")
    if "propertyVisitors" in spec:
        found.append("spec.propertyVisitors[] becomes spec.properties[].visitors")
    if any("desired" in _mapping(t) for t in status.get("twins") or () if document.get("kind") == "Device"):
        found.append("status.twins[].desired becomes spec.properties[].desired")
    protocol = _mapping(spec.get("protocol"))
    if document.get("kind") == "Device" and protocol and not {"protocolName", "configData"} & protocol.keys():
        found.append(f"spec.protocol.{next(iter(protocol))} becomes spec.protocol.protocolName with configData")
    if any(isinstance(_mapping(p).get("type"), dict) for p in spec.get("properties") or ()):
        found.append(
            "a property's type.<name>.{accessMode,minimum,maximum} becomes type, accessMode, minimum and maximum"
        )
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
