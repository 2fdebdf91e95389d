"""Node life cycle: taints by condition, and pods that leave tainted nodes. Reads Node, Lease, Pod; writes a Node's taints.

Rules of who may lose pods when: ``kubeapi.controllers.sites``. Deadlines are counted from the taint's own time, so a
restart neither forgets nor hurries them.
"""

from datetime import datetime
from typing import Any

from kubeapi.conditions import condition, with_condition
from kubeapi.controllers import parts, sites
from kubeapi.controllers.index import Indexes
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.worker import Worker
from kubeapi.durations import parse_time
from kubeapi.kinds import LEASE, NODE, POD
from kubeapi.objects import Objects
from kubeapi.pod_admission import MIRROR
from kubeapi.stored import DELETED, Event
from proto.kit.clock import rfc3339
from proto.labels import AUTONOMY_DURATION

Json = dict[str, Any]
LEASES = "kube-node-lease"
SILENT_S = 40.0  # an ordinary node that has not renewed its Lease for so long is lost
CHECK_S = 10.0


class NodeLife:
    """Taints nodes and takes pods away; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes) -> None:
        self._objects, self._store = objects, objects.store
        self._pods = indexes.pods
        self._recorder = Recorder(objects, "node-controller")
        self._renewed: dict[str, tuple[str, float]] = {}  # node -> (renewTime, when we saw it change)
        self._sites = sites.Sites()
        self._first_seen: dict[tuple[str, str, str], float] = {}  # undated taints: when we saw them first
        self.worker: Worker[str] = Worker("nodes", self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(NODE, None):
            self._sites.put(item.object)
            self.worker.add(item.name)
        self._store.listen(NODE, self._node_changed)
        self._store.listen(POD, self._pod_changed)

    def _node_changed(self, event: Event) -> None:
        name, old, new = event.stored.name, event.previous, event.object
        if event.type == DELETED:
            self._renewed.pop(name, None)
            self._first_seen = {k: v for k, v in self._first_seen.items() if k[0] != name}
        elif old is not None and _signature(old) == _signature(new):
            return
        for other in self._sites.drop(name) if event.type == DELETED else self._sites.put(new):
            self.worker.add(other)
        self.worker.add(name)

    def _pod_changed(self, event: Event) -> None:
        node = (event.object.get("spec") or {}).get("nodeName")
        if node and event.type != DELETED and (event.previous is None or not event.previous["spec"].get("nodeName")):
            found = self._store.get(NODE, "", node)
            if found is not None and _executing(found):
                self.worker.add(node)

    async def _make_right(self, name: str) -> None:
        node = self._store.get(NODE, "", name)
        if node is None:
            return
        if not sites.is_edge(node):
            node = await self._watch_lease(node)
        now = self._objects.clock.wall()
        wait = sites.leaves_in_s(node, frozen=self._frozen(node), now=now)
        wanted = sites.taints(node, leaves=wait == 0, at=rfc3339(now))
        if wanted != ((node.get("spec") or {}).get("taints") or []):
            before = node

            def make(held: Json) -> Json:
                return _tainted(held, sites.taints(held, leaves=wait == 0, at=rfc3339(now)))

            node = await parts.change(self._objects, NODE, node, make)
            self._say(before, node)
        if wait:
            self.worker.add_after(name, wait)
        await self._evict(node, now)

    def _frozen(self, node: Json) -> bool:
        return sites.readiness(node) == "Unknown" and self._sites.is_frozen(sites.group_of(node))

    def _say(self, before: Json, after: Json) -> None:
        lost = {sites.NOT_READY, sites.UNREACHABLE}
        was = {t.get("key") for t in (before.get("spec") or {}).get("taints") or ()} & lost
        now = {t.get("key") for t in (after.get("spec") or {}).get("taints") or ()} & lost
        name = after["metadata"]["name"]
        if now and not was:
            self._recorder.normal(NODE, after, "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        elif was and not now:
            self._recorder.normal(NODE, after, "NodeReady", f"Node {name} status is now: NodeReady")

    # ordinary nodes: their kubelet renews a Lease

    async def _watch_lease(self, node: Json) -> Json:
        name = node["metadata"]["name"]
        lease = self._store.get(LEASE, LEASES, name)
        if lease is None:
            return node
        renewed, now_s = str((lease.get("spec") or {}).get("renewTime", "")), self._objects.clock.now_s()
        held = self._renewed.get(name)
        if held is None or held[0] != renewed:
            held = self._renewed[name] = (renewed, now_s)
        self.worker.add_after(name, CHECK_S)
        if now_s - held[1] < SILENT_S or sites.readiness(node) == "Unknown":
            return node
        now = self._objects.clock.wall()

        def make(found: Json) -> Json:
            conditions = (found.get("status") or {}).get("conditions") or []
            for kind in {c["type"] for c in conditions} | {"Ready"}:
                told = ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
                conditions = with_condition(conditions, kind, *told, now)
            return {**found, "status": {**(found.get("status") or {}), "conditions": conditions}}

        lost = await parts.change(self._objects, NODE, node, make)
        for pod in self._pods.get(("node", name)):
            if parts.is_ready(pod):
                await parts.change(self._objects, POD, pod, lambda held: _not_ready(held, now))
        return lost

    # pods leave

    async def _evict(self, node: Json, now: datetime) -> None:
        name, found = node["metadata"]["name"], _executing(node)
        if not found:
            return
        due, soonest = [], None
        for pod in self._pods.get(("node", name)):
            if parts.is_deleting(pod) or MIRROR in (pod["metadata"].get("annotations") or {}):
                continue
            left = sites.stays_s(pod, found, lambda taint: self._age_s(name, taint, now))
            if left == 0:
                due.append(pod)
            elif left is not None:
                soonest = left if soonest is None else min(soonest, left)
        for pod in due:
            await self._take(pod, now)
        if soonest is not None:
            self.worker.add_after(name, soonest)

    def _age_s(self, node: str, taint: Json, now: datetime) -> float:
        since = parse_time(taint.get("timeAdded"))
        if since is not None:
            return (now - since).total_seconds()
        key = (node, str(taint.get("key")), str(taint.get("value") or ""))
        return self._objects.clock.now_s() - self._first_seen.setdefault(key, self._objects.clock.now_s())

    async def _take(self, pod: Json, now: datetime) -> None:
        metadata = pod["metadata"]
        text = f"Marking for deletion Pod {metadata['namespace']}/{metadata['name']}"
        self._recorder.normal(POD, pod, "TaintManagerEviction", text)

        def mark(held: Json) -> Json:
            status = held.get("status") or {}
            told = (
                "DisruptionTarget",
                "True",
                "DeletionByTaintManager",
                "Taint manager: deleting due to NoExecute taint",
            )
            return {
                **held,
                "status": {**status, "conditions": with_condition(status.get("conditions") or (), *told, now)},
            }

        await parts.change(self._objects, POD, pod, mark)
        await parts.delete_all(self._objects, POD, [pod])


def _signature(node: Json) -> tuple[Any, ...]:
    """Return what of a node this controller looks at; heartbeats alone change nothing of it."""
    spec, metadata = node.get("spec") or {}, node["metadata"]
    conditions = {c.get("type"): c.get("status") for c in (node.get("status") or {}).get("conditions") or ()}
    since = (condition(node.get("status") or {}, "Ready") or {}).get("lastTransitionTime")
    notes = (metadata.get("annotations") or {}).get(AUTONOMY_DURATION)
    return (metadata.get("labels"), notes, spec.get("taints"), spec.get("unschedulable"), conditions, since)


def _executing(node: Json) -> list[Json]:
    return [t for t in (node.get("spec") or {}).get("taints") or () if t.get("effect") == "NoExecute"]


def _tainted(node: Json, taints: list[Json]) -> Json:
    spec = {k: v for k, v in (node.get("spec") or {}).items() if k != "taints"}
    return {**node, "spec": {**spec, **({"taints": taints} if taints else {})}}


def _not_ready(pod: Json, now: datetime) -> Json:
    status = pod.get("status") or {}
    told = ("Ready", "False", "NodeLost", "the node of this pod does not answer")
    return {**pod, "status": {**status, "conditions": with_condition(status.get("conditions") or (), *told, now)}}
