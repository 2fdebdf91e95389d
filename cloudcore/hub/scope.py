"""Which objects a node needs: its own Node, its devices and pods, and all that these refer to.

Fed by the informers, kept incrementally: a change costs what it affects. Each kind says in a pure function which edges its
objects make (``scope_*.py``); ``scope_graph`` follows them. Only what some node holds is hashed, and hashed once.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from cloudcore.hub import scope_custom, scope_devices, scope_pods, scope_rights
from cloudcore.hub.scope_bodies import Bodies
from cloudcore.hub.scope_contents import Contents
from cloudcore.hub.scope_devices import device_node
from cloudcore.hub.scope_graph import EVERY, Edge, Graph, root
from cloudcore.hub.scope_pods import pod_node
from cloudcore.kube import resources
from cloudcore.kube.cluster import CORE, Cluster
from cloudcore.kube.informer import Informer, Name
from cloudcore.kube.resources import CRD, DEVICE, NODE, POD, Kind
from proto.kit.log import Logger
from proto.labels import EDGE_ROLE
from proto.labels import NODE as NODE_LABEL
from proto.link.replica import NotSynced
from proto.names import parse_key
from proto.templates import HOSTNAME

Changed = Callable[[str, str], None]
Edges = Callable[[Name, Mapping[str, Any]], Iterator[Edge]]
log = Logger("scope")


def _node(name: Name, item: Mapping[str, Any]) -> Iterator[Edge]:
    yield root(name.name), NODE.key("", name.name)
    yield root(name.name), scope_pods.host((item["metadata"].get("labels") or {}).get(HOSTNAME) or name.name)


EDGES: dict[Kind, Edges] = {
    NODE: _node,
    DEVICE: scope_devices.device,
    POD: scope_pods.pod,
    resources.SERVICE_ACCOUNT: scope_pods.account,
    resources.NAMESPACE: scope_pods.namespace,
    resources.SERVICE: scope_pods.service,
    resources.ENDPOINT_SLICE: scope_pods.endpoint_slice,
    resources.CLAIM: scope_pods.claim,
    resources.VOLUME: scope_pods.volume,
    resources.REPLICA_SET: scope_pods.replica_set,
    resources.JOB: scope_pods.job,
    resources.CRON_JOB: scope_pods.cron_job,
    resources.ROLE_BINDING: scope_rights.role_binding,
    resources.CLUSTER_ROLE: scope_rights.cluster_role,
    resources.CLUSTER_ROLE_BINDING: scope_rights.cluster_role_binding,
    CRD: scope_custom.definition,
}
UNSCOPED = {resources.DEVICE_STATUS}  # written at the edge


class Scope:
    """The objects of every edge node. ``changed(node, key)`` is called when what ``node`` should hold differs.

    An edge node is one that is labelled as such, or that has asked.
    """

    def __init__(self, cluster: Cluster, changed: Changed) -> None:
        self._cluster, self._changed = cluster, changed
        self._graph = Graph(self._entered, self._left)
        self._digests: dict[str, bytes] = {}  # of every object that exists and that somebody holds
        self._bodies = Bodies()
        self._contents = Contents(cluster, lambda key: bool(self._graph.holders(key)), self._read_again)
        self._followed: dict[str, tuple[Kind, str]] = {}  # definition -> kind, which of its objects
        for informer in cluster.informers:
            if informer.kind not in UNSCOPED:
                informer.listen(partial(self._on_object, informer.kind, EDGES.get(informer.kind)))
        cluster.of(CRD).listen(self._on_definition)
        cluster.nodes.listen(self._on_node)

    @property
    def synced(self) -> bool:
        return self._cluster.settled

    async def run(self) -> None:
        """Read the content of what nodes begin to need, for ever."""
        await self._contents.run()

    def wanted(self, node: str) -> dict[str, bytes]:
        """Return key -> digest of everything ``node`` should hold. Raises NotSynced."""
        if not self.synced:
            raise NotSynced("the first list of the API server is not complete yet")
        self._graph.admit(node)
        digests = self._digests
        return {key: found for key in self._graph.held(node) if (found := digests.get(key)) is not None}

    def body(self, node: str, key: str) -> bytes | None:
        """Return the object's canonical JSON, None when ``node`` should not hold it.

        Raises NotSynced for a kind that cannot be read now: what a node holds of it, it keeps.
        """
        informer, name = self._where(key)
        if informer is None:
            return None
        if not informer.synced.is_set():
            raise NotSynced(f"{informer.kind.plural} cannot be read")
        if not self._graph.holds(node, key):
            if informer.kind not in CORE and not self._cluster.pods.synced.is_set():
                raise NotSynced("pods cannot be read, and they may need it")
            return None
        item = informer.objects.get(name)
        if item is None:
            return None
        if self._contents.lacks(informer, name):
            raise NotSynced(f"{key} is being read")
        holders = self._graph.holders(key)
        return self._bodies.get(key, informer.kind, item, shared=EVERY in holders or len(holders) > 1)

    def admit(self, node: str, key: str) -> None:
        """Make sure that ``holds`` is final for these two: a node counts from when it asks. Raises NotSynced."""
        informer, _ = self._where(key)
        if not self.synced or (informer is not None and not informer.settled.is_set()):
            raise NotSynced("the first list of the API server is not complete yet")
        self._graph.admit(node)

    def holds(self, node: str, key: str) -> bool:
        """Whether ``node`` is entitled to the object ``key``, if there is one."""
        return self._graph.holds(node, key)

    def holders(self, key: str) -> set[str]:
        """Return the nodes that are entitled to the object ``key``; EVERY may be among them."""
        return set(self._graph.holders(key))

    def kind(self, key: str) -> Kind | None:
        """Return the kind of the object ``key``, None when its kind is not read."""
        informer, _ = self._where(key)
        return informer.kind if informer is not None else None

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the object as the API server has it, None when there is none or its kind is not read."""
        informer, name = self._where(key)
        return informer.objects.get(name) if informer is not None else None

    def owns_device(self, node: str, name: Name) -> bool:
        return bool(node) and device_node(self._cluster.devices.objects.get(name)) == node

    def owns_pod(self, node: str, name: Name) -> bool:
        return bool(node) and pod_node(self._cluster.pods.objects.get(name)) == node

    def devices(self, node: str) -> frozenset[Name]:
        return frozenset(self._names(node, DEVICE))

    def pods(self, node: str) -> frozenset[Name]:
        return frozenset(self._names(node, POD))

    def count(self, node: str, kind: Kind) -> int:
        """Return how many objects of ``kind`` there are that ``node`` holds."""
        return sum(1 for _ in self._names(node, kind))

    def nodes_with_devices(self) -> set[str]:
        return {device_node(item) for item in self._cluster.devices.objects.values()} - {""}

    def _names(self, node: str, kind: Kind) -> Iterator[Name]:
        prefix = f"{kind.group or 'core'}/{kind.plural}/"
        self._graph.admit(node)
        for key in self._graph.held(node):
            if key.startswith(prefix) and key in self._digests:
                parsed = parse_key(key)
                yield Name(parsed.namespace, parsed.name)

    def _where(self, key: str) -> tuple[Informer | None, Name]:
        parsed = parse_key(key)
        return self._cluster.find(parsed.group, parsed.plural), Name(parsed.namespace, parsed.name)

    # what the informers say

    def _on_object(
        self, kind: Kind, edges: Edges | None, name: Name, old: dict[str, Any] | None, new: dict[str, Any] | None
    ) -> None:
        key = kind.key(*name)
        before, after = _edges(key, edges, name, old), _edges(key, edges, name, new)
        for edge in after - before:
            self._graph.link(edge)
        for edge in before - after:
            self._graph.unlink(edge)
        holders = self._graph.holders(key)
        if holders and self._refresh(key, new):
            for node in list(holders):
                self._tell(node, key)
        if new is None:
            self._bodies.forget(key)

    def _on_node(self, name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is not None and EDGE_ROLE in (new["metadata"].get("labels") or {}):
            self._graph.admit(name.name)

    def _on_definition(self, name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        wanted = scope_custom.synced(new)
        kind = scope_custom.kind_of(new) if new is not None and wanted else None
        now = (kind, wanted) if kind is not None else None
        before = self._followed.get(name.name)
        if now == before:
            return
        if before is not None:
            del self._followed[name.name]
            self._cluster.unfollow(before[0])
        if now is not None and (informer := self._cluster.follow(now[0])) is not None:
            self._followed[name.name] = now
            edges = partial(_everywhere, now[0]) if wanted == scope_custom.ALL else None
            informer.listen(partial(self._on_object, now[0], edges))

    # what the graph says

    def _entered(self, node: str, key: str) -> None:
        if key not in self._digests:
            self._refresh(key, self.find(key))
        if key in self._digests:
            self._tell(node, key)

    def _left(self, node: str, key: str) -> None:
        if key not in self._digests:
            return
        if not self._graph.holders(key):
            del self._digests[key]
            self._contents.drop(key)
        self._tell(node, key)

    def _read_again(self, key: str) -> None:
        """The content of ``key`` is here."""
        holders = self._graph.holders(key)
        if holders:
            self._refresh(key, self.find(key))
            for node in list(holders):
                self._tell(node, key)
        else:
            self._contents.drop(key)

    def _tell(self, node: str, key: str) -> None:
        if node != EVERY:
            self._changed(node, key)
            return
        for each in self._graph.nodes():
            self._changed(each, key)

    def _refresh(self, key: str, item: dict[str, Any] | None) -> bool:
        """Remember the digest of ``item``; whether it differs from what was known."""
        if item is None:
            return self._digests.pop(key, None) is not None
        informer, name = self._where(key)
        if informer is None:
            return False
        digest = self._contents.digest(informer, name, item)
        if self._digests.get(key) == digest:
            return False
        self._digests[key] = digest
        return True


def _edges(key: str, edges: Edges | None, name: Name, item: dict[str, Any] | None) -> set[Edge]:
    """Return what an object says: its kind's own edges, and those of the label that names a node."""
    if item is None:
        return set()
    try:
        found = set(edges(name, item)) if edges is not None else set()
        node = (item["metadata"].get("labels") or {}).get(NODE_LABEL)
        if node and not (edges is scope_pods.pod and scope_pods.is_mirror(item)):
            found.add((root(str(node)), key))
            if name.namespace:  # itself, and nothing of what is in it: a node labels what it makes, in any namespace
                found.add((root(str(node)), resources.NAMESPACE.key("", name.namespace)))
    except (AttributeError, KeyError, TypeError) as error:  # a shape that no API server stores
        log.warning("an object of no known shape", key=key, reason=repr(error))
        return set()
    return found


def _everywhere(kind: Kind, name: Name, _item: Mapping[str, Any]) -> Iterator[Edge]:
    yield EVERY, kind.key(*name)
