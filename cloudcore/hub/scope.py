"""Which objects a node needs: its Devices, the DeviceModels they reference, and its own Node.

Fed by the informers, kept incrementally: a change costs what it affects. Nothing is copied per node; an object is
encoded once, however many nodes hold it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cloudcore.kube.informer import Informer, Name
from cloudcore.kube.resources import DEVICE, DEVICE_MODEL, NODE
from proto.kit import canonical
from proto.link.replica import NotSynced

Changed = Callable[[str, str], None]
UNSENT_METADATA = (*canonical.VOLATILE_METADATA, "selfLink")


def downward(item: dict[str, Any]) -> dict[str, Any]:
    """Return the object as a node holds it: without what the cloud alone writes."""
    slim = {k: v for k, v in item.items() if k != "status"}
    slim["metadata"] = {k: v for k, v in item["metadata"].items() if k not in UNSENT_METADATA}
    return slim


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


class Scope:
    """The objects of every node. ``changed(node, key)`` is called when what ``node`` should hold differs."""

    def __init__(self, devices: Informer, models: Informer, nodes: Informer, changed: Changed) -> None:
        self._informers = {DEVICE.plural: devices, DEVICE_MODEL.plural: models, NODE.plural: nodes}
        self._changed = changed
        self._devices_of: dict[str, set[Name]] = defaultdict(set)
        self._users_of: dict[Name, dict[str, int]] = defaultdict(dict)  # model -> node -> how many devices
        self._models_of: dict[str, dict[Name, int]] = defaultdict(dict)  # the same, by node
        self._digests: dict[str, bytes] = {}
        models.listen(self._on_model)
        devices.listen(self._on_device)
        nodes.listen(self._on_node)

    @property
    def synced(self) -> bool:
        return all(informer.synced.is_set() for informer in self._informers.values())

    def keys(self, node: str) -> Iterator[str]:
        """Yield the key of every object that ``node`` needs and that exists."""
        if self._informers[NODE.plural].get("", node) is not None:
            yield NODE.key("", node)
        for name in self._devices_of.get(node, ()):
            yield DEVICE.key(*name)
        models = self._informers[DEVICE_MODEL.plural].objects
        for name in self._models_of.get(node, ()):
            if name in models:
                yield DEVICE_MODEL.key(*name)

    def wanted(self, node: str) -> dict[str, bytes]:
        """Return key -> digest of everything ``node`` should hold. Raises NotSynced."""
        if not self.synced:
            raise NotSynced("the first list of the API server is not complete yet")
        return {key: digest for key in self.keys(node) if (digest := self._digests.get(key)) is not None}

    def body(self, node: str, key: str) -> bytes | None:
        """Return the object's canonical JSON, None when ``node`` should not hold it."""
        item = self._find(node, key)
        return canonical.encode(downward(item)) if item is not None else None

    def owns_device(self, node: str, name: Name) -> bool:
        return name in self._devices_of.get(node, ())

    def devices(self, node: str) -> frozenset[Name]:
        return frozenset(self._devices_of.get(node, ()))

    def nodes_with_devices(self) -> list[str]:
        return [node for node, names in self._devices_of.items() if names]

    def _find(self, node: str, key: str) -> dict[str, Any] | None:
        group, plural, namespace, name = key.split("/", 3)
        ours = Name("" if namespace == "-" else namespace, name)
        if plural == NODE.plural and group == "core":
            allowed = name == node
        elif plural == DEVICE.plural:
            allowed = self.owns_device(node, ours)
        else:
            allowed = plural == DEVICE_MODEL.plural and ours in self._models_of.get(node, ())
        return self._informers[plural].objects.get(ours) if allowed else None

    def _on_device(self, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        key = DEVICE.key(*name)
        was, now = device_node(old), device_node(new)
        moved = self._digest(key, new)
        was_model, now_model = Name(name.namespace, device_model(old)), Name(name.namespace, device_model(new))
        if (was, was_model) != (now, now_model):
            self._use_model(now, now_model, +1)
            self._use_model(was, was_model, -1)
        if was != now:
            if now:
                self._devices_of[now].add(name)
            if was:
                self._devices_of[was].discard(name)
                if not self._devices_of[was]:
                    del self._devices_of[was]
                self._changed(was, key)
        if now and moved:
            self._changed(now, key)

    def _use_model(self, node: str, model: Name, by: int) -> None:
        if not node or not model.name:
            return
        count = self._users_of[model].get(node, 0) + by
        if count > 0:
            self._users_of[model][node] = self._models_of[node][model] = count
        else:
            self._users_of[model].pop(node, None)
            self._models_of[node].pop(model, None)
        if count == 0 or (count == 1 and by > 0):
            self._changed(node, DEVICE_MODEL.key(*model))
        if not self._users_of[model]:
            del self._users_of[model]
        if not self._models_of[node]:
            del self._models_of[node]

    def _on_model(self, name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        key = DEVICE_MODEL.key(*name)
        if self._digest(key, new):
            for node in list(self._users_of.get(name, ())):
                self._changed(node, key)

    def _on_node(self, name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        key = NODE.key("", name.name)
        if self._digest(key, new):
            self._changed(name.name, key)

    def _digest(self, key: str, item: dict[str, Any] | None) -> bool:
        """Remember the digest of ``item``; whether it differs from what was known."""
        if item is None:
            return self._digests.pop(key, None) is not None
        digest = hashlib.sha256(canonical.encode(downward(item))).digest()[: canonical.DIGEST_BYTES]
        if self._digests.get(key) == digest:
            return False
        self._digests[key] = digest
        return True
