"""What a Device needs: its model, on the node that it is assigned to (pure)."""

from collections.abc import Iterator, Mapping
from typing import Any

from cloudcore.hub.scope_graph import Edge, root
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import DEVICE, DEVICE_MODEL


def device_node(device: Mapping[str, Any] | None) -> str:
    """Return the node that a Device is assigned to, "" for none."""
    spec = device.get("spec") if device else None
    node = spec.get("nodeName") if isinstance(spec, dict) else None
    return node if isinstance(node, str) else ""


def device_model(device: Mapping[str, Any] | None) -> str:
    """Return the name of the DeviceModel that a Device references, "" for none."""
    spec = device.get("spec") if device else None
    ref = spec.get("deviceModelRef") if isinstance(spec, dict) else None
    name = ref.get("name") if isinstance(ref, dict) else None
    return name if isinstance(name, str) else ""


def device(name: Name, item: Mapping[str, Any]) -> Iterator[Edge]:
    key = DEVICE.key(*name)
    if node := device_node(item):
        yield root(node), key
    if model := device_model(item):
        yield key, DEVICE_MODEL.key(name.namespace, model)
