"""Nodes that belong together. Reads NodeGroup and Node; writes the label ``apps.kubeedge.io/belonging-to`` of Nodes, their zone
where a group asks for it, and ``NodeGroup.status``.

A node belongs to one group: the one that it is in already, else the first by name. Where no definition is installed, nothing
is done; a label of a group that we have never seen is somebody else's.
"""

from collections.abc import Mapping
from typing import Any

from cloudcore.controllers.overriders import GROUP_LABEL
from cloudcore.controllers.queue import KeyQueue
from cloudcore.kube.client import JSON_PATCH, MERGE_PATCH
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import ApiRefused, NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import NODE, NODE_GROUP
from proto.kit.log import Logger

FINALIZER = "apps.kubeedge.io/nodegroup-controller"
ZONE = "topology.kubernetes.io/zone"
GROUPS, NODES = "group", "node"
WORKERS = 4
log = Logger("node-groups")
Json = Mapping[str, Any]


class NodeGroups:
    """Keeps labels and statuses true."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._groups = cluster, cluster.of(NODE_GROUP)
        self.queue: KeyQueue[tuple[str, str]] = KeyQueue(
            "node-groups", self._reconcile, workers=WORKERS, clock=cluster.clock, rng=cluster.rng
        )
        self._groups.listen(self._on_group)
        cluster.nodes.listen(self._on_node)

    async def run(self) -> None:
        await self._cluster.wait_synced()
        await self._groups.synced.wait()
        await self.queue.run()

    def _on_group(self, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if old is not None and new is not None and _says(old) == _says(new):
            return
        for node in self._cluster.nodes.objects:
            self.queue.add((NODES, node.name))
        for group in self._groups.objects:  # another group may now get a node, or not
            self.queue.add((GROUPS, group.name))
        self.queue.add((GROUPS, name.name))

    def _on_node(self, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if old is not None and new is not None and (_labels(old), ready(old)) == (_labels(new), ready(new)):
            return
        self.queue.add((NODES, name.name))
        for group, found in self._groups.objects.items():
            if any(node is not None and selects(found, name.name, node) for node in (old, new)):
                self.queue.add((GROUPS, group.name))

    async def _reconcile(self, key: tuple[str, str]) -> None:
        kind, name = key
        if not self._groups.synced.is_set():
            return
        if kind == NODES:
            await self._label(name)
        else:
            await self._keep(name)

    async def _label(self, name: str) -> None:
        node = self._cluster.nodes.get("", name)
        if node is None:
            return
        groups = [group for group in self._groups.objects.values() if selects(group, name, node)]
        change = label_change(node, self._chosen(node, groups), self._known(node))
        if not change:
            return
        patch = {"metadata": {"labels": change, "uid": node["metadata"]["uid"]}}
        try:
            await self._cluster.client.patch(NODE, "", name, patch, content_type=MERGE_PATCH)
        except NotFound:
            return
        log.info("a node changes its group", node=name, group=change.get(GROUP_LABEL))

    def _chosen(self, node: Json, groups: list[dict[str, Any]]) -> dict[str, Any] | None:
        now = _labels(node).get(GROUP_LABEL)
        return min(groups, key=lambda g: (g["metadata"]["name"] != now, g["metadata"]["name"]), default=None)

    def _known(self, node: Json) -> bool:
        """Whether the label that the node has is of a group that is here."""
        return Name("", _labels(node).get(GROUP_LABEL, "")) in self._groups.objects

    async def _keep(self, name: str) -> None:
        group = self._groups.get("", name)
        if group is None:
            return
        client, metadata = self._cluster.client, group["metadata"]
        finalizers = list(metadata.get("finalizers") or ())
        if metadata.get("deletionTimestamp"):
            await self._let_go(name, group, finalizers)
            return
        if FINALIZER not in finalizers:
            await self._finalizers(group, [*finalizers, FINALIZER])
            return
        found = {"nodeStatuses": self._statuses(group)}
        if found != (group.get("status") or {}):
            try:
                await client.patch(
                    NODE_GROUP, "", name, {"status": found}, content_type=MERGE_PATCH, subresource="status"
                )
            except NotFound:
                return

    async def _let_go(self, name: str, group: Json, finalizers: list[str]) -> None:
        """Take our finalizer off once no node says that it belongs here."""
        if FINALIZER not in finalizers:
            return
        for node in self._cluster.nodes.objects.values():
            if _labels(node).get(GROUP_LABEL) == name:
                await self._label(node["metadata"]["name"])
        await self._finalizers(group, [each for each in finalizers if each != FINALIZER])

    async def _finalizers(self, group: Json, finalizers: list[str]) -> None:
        metadata = group["metadata"]
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
            {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
        ]
        try:
            await self._cluster.client.patch(NODE_GROUP, "", metadata["name"], patch, content_type=JSON_PATCH)
        except NotFound:
            return
        except ApiRefused as error:
            if error.status not in (409, 422):  # changed meanwhile: the informer brings it
                raise

    def _statuses(self, group: Json) -> list[dict[str, Any]]:
        name, nodes = group["metadata"]["name"], self._cluster.nodes.objects
        out = []
        missing = [each for each in dict.fromkeys(group["spec"].get("nodes") or ()) if Name("", each) not in nodes]
        selected = [node for each, node in nodes.items() if selects(group, each.name, node)]
        for node in sorted(selected, key=lambda n: str(n["metadata"]["name"])):
            others = [g for g in self._groups.objects.values() if selects(g, node["metadata"]["name"], node)]
            chosen = self._chosen(node, others) or group
            reason = "" if chosen["metadata"]["name"] == name else f"belongs to group {chosen['metadata']['name']}"
            out.append(_status(node["metadata"]["name"], ready(node), reason))
        return out + [_status(each, "Unknown", "there is no such node") for each in sorted(missing)]


def selects(group: Json, name: str, node: Json) -> bool:
    """Whether a group that stays names or selects a node."""
    if group["metadata"].get("deletionTimestamp"):
        return False
    spec = group.get("spec") or {}
    pairs = spec.get("matchLabels") or {}
    labels = _labels(node)
    return name in (spec.get("nodes") or ()) or (bool(pairs) and all(labels.get(k) == v for k, v in pairs.items()))


def label_change(node: Json, group: Json | None, known: bool) -> dict[str, str | None]:
    """Return the labels to set, None for those to take away. ``known``: the label there is now is ours."""
    have = _labels(node)
    now = have.get(GROUP_LABEL)
    if group is None:
        if now is None or not known:
            return {}
        return {GROUP_LABEL: None, **({ZONE: None} if have.get(ZONE) == now else {})}
    name = group["metadata"]["name"]
    change: dict[str, str | None] = {} if now == name else {GROUP_LABEL: name}
    zone = have.get(ZONE)
    if (group.get("spec") or {}).get("topologyEnabled"):
        if zone != name and zone in (None, now):  # a zone that a person has given stays
            change[ZONE] = name
    elif zone is not None and known and zone in (now, name):
        change[ZONE] = None
    return change


def ready(node: Json) -> str:
    conditions = (node.get("status") or {}).get("conditions") or ()
    found = next((str(c.get("status")) for c in conditions if c.get("type") == "Ready"), "")
    return {"True": "Ready", "False": "NotReady"}.get(found, "Unknown")


def _status(name: str, is_ready: str, reason: str) -> dict[str, Any]:
    out = {"nodeName": name, "readyStatus": is_ready, "selectionStatus": "Failed" if reason else "Succeeded"}
    return {**out, "selectionStatusReason": reason} if reason else out


def _labels(node: Json) -> dict[str, str]:
    return node["metadata"].get("labels") or {}


def _says(group: Json) -> tuple[Any, ...]:
    metadata = group["metadata"]
    return group.get("spec"), metadata.get("deletionTimestamp"), metadata.get("finalizers"), group.get("status")
