"""Which custom kinds reach the nodes: those whose definition says so, besides the devices' own."""

from collections.abc import Iterator, Mapping
from typing import Any

from cloudcore.hub.scope_graph import EVERY, Edge
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import CRD, DEVICES_GROUP, Kind
from proto.labels import SYNC

ALL = "all"  # every object goes to every node
LABELLED = "labelled"  # an object goes to the node that its label names
Json = Mapping[str, Any]


def definition(name: Name, item: Json) -> Iterator[Edge]:
    """A node knows the kinds of the objects that it may hold."""
    if synced(item) or (item.get("spec") or {}).get("group") == DEVICES_GROUP:
        yield EVERY, CRD.key("", name.name)


def synced(item: Json | None) -> str:
    """Return what a definition asks for: ALL, LABELLED or ""."""
    value = ((item or {}).get("metadata", {}).get("labels") or {}).get(SYNC, "")
    return value if value in (ALL, LABELLED) else ""


def kind_of(item: Json) -> Kind | None:
    """Return the kind that a definition serves, in the version at rest; None while it serves none."""
    spec = item.get("spec") or {}
    conditions = (item.get("status") or {}).get("conditions") or ()
    if not any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions):
        return None
    served = [v for v in spec.get("versions") or () if v.get("served")]
    version = next((v for v in served if v.get("storage")), None)
    if version is None:
        return None
    names = spec["names"]
    return Kind(spec["group"], version["name"], names["plural"], names["kind"], spec.get("scope") == "Namespaced")
