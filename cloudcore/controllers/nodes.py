"""Joined edges as Kubernetes Nodes. Reads Node and the link's sessions.

The only writer of edge Nodes' registration and status (the edge's own report, overridden by what only the cloud knows:
that the node is silent), and of their Leases.
"""

from collections.abc import Mapping
from typing import Any

from cloudcore.controllers.queue import KeyQueue
from cloudcore.hub.sessions import Sessions
from cloudcore.kube.client import JSON_PATCH, MERGE_PATCH
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import Conflict, NotFound
from cloudcore.kube.resources import LEASE, NODE
from cloudcore.kubelet.address import KubeletAddress
from proto.kit.clock import rfc3339, rfc3339_micro
from proto.kit.log import Logger
from proto.labels import INTERNAL_IP, may_say_of_itself
from proto.templates import HOSTNAME

EDGE_LABEL = "node-role.kubernetes.io/edge"
LEASE_NAMESPACE = "kube-node-lease"
WORKERS = 8
KEPT_LABELS = 64  # how many labels a registering node may bring
log = Logger("nodes")


class NodeController:
    """Registers nodes, keeps Ready honest, renews Leases."""

    def __init__(self, cluster: Cluster, sessions: Sessions, *, lease_duration_s: int, lease_renew_s: float) -> None:
        self._cluster = cluster
        self._client = cluster.client
        self._sessions = sessions
        self._clock = cluster.clock
        self._lease_duration_s = lease_duration_s
        self._lease_renew_s = lease_renew_s
        self._told: dict[str, dict[str, Any]] = {}  # node -> the status as the edge said it last
        self._kubelet: KubeletAddress | None = None
        self._labels: dict[str, dict[str, str]] = {}  # node -> what it registered with, for a Node that was deleted
        self.queue: KeyQueue[str] = KeyQueue(
            "nodes", self._reconcile, workers=WORKERS, clock=cluster.clock, rng=cluster.rng
        )
        self.leases: KeyQueue[str] = KeyQueue(
            "leases", self._renew_lease, workers=2, clock=cluster.clock, rng=cluster.rng
        )
        sessions.listen(self.queue.add)
        cluster.nodes.listen(lambda name, _old, _new: self.queue.add(name.name))

    async def run(self) -> None:
        await self._cluster.wait_synced()
        await self.queue.run()

    def serve_kubelets(self, address: KubeletAddress) -> None:
        """From now on the Nodes say where their kubelet API is served."""
        self._kubelet = address
        for name, node in self._cluster.nodes.objects.items():
            if is_edge(node):
                self.queue.add(name.name)

    async def run_leases(self) -> None:
        """Renew the Lease of every connected node on our own clock (a real cluster looks every 40 s); 0: never."""
        while self._lease_renew_s > 0:
            for node in [n for n, s in self._sessions.all().items() if s.connected]:
                self.leases.add(node)
            await self._clock.sleep(self._lease_renew_s)

    async def put_status(self, node: str, status: dict[str, Any]) -> None:
        """Write what ``node`` says about itself. Raises ApiUnavailable, ApiRefused."""
        first = node not in self._told  # only then is the informer sure to show what the API holds
        self._told[node] = status
        await self._ensure(node, {})
        await self._write(node, force=not first)

    async def register(self, node: str, body: Mapping[str, Any]) -> list[str]:
        """Create the Node, or give it the labels that the edge registers with; return those that it may not have.

        Raises ApiUnavailable, ApiRefused.
        """
        labels = self._labels[node] = registration_labels(node, body)
        found = await self._ensure(node, labels)
        have = found["metadata"].get("labels") or {}
        if any(have.get(key) != value for key, value in labels.items()):
            patch = {"metadata": {"labels": labels}}
            await self._client.patch(NODE, "", node, patch, content_type=MERGE_PATCH)
        self.queue.add(node)
        return sorted(refused_labels(body))

    async def _renew_lease(self, node: str) -> None:
        now = rfc3339_micro(self._clock.wall())
        spec = {"holderIdentity": node, "leaseDurationSeconds": self._lease_duration_s, "renewTime": now}
        try:
            await self._client.patch(LEASE, LEASE_NAMESPACE, node, {"spec": spec}, content_type=MERGE_PATCH)
        except NotFound:
            metadata = {"name": node, "namespace": LEASE_NAMESPACE}
            body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
            try:
                await self._client.create(LEASE, LEASE_NAMESPACE, body)
            except Conflict:
                return

    async def _ensure(self, node: str, labels: Mapping[str, str]) -> dict[str, Any]:
        found = self._cluster.nodes.get("", node)
        if found is not None:
            return found
        try:
            return await self._client.create(NODE, "", new_node(node, labels or self._labels.get(node, {})))
        except Conflict:
            return await self._client.get(NODE, "", node)

    async def _reconcile(self, node: str) -> None:
        if self._cluster.nodes.get("", node) is None:
            if not self._sessions.is_connected(node):
                return
            await self._ensure(node, {})
        await self._write(node)

    async def _write(self, node: str, *, force: bool = False) -> None:
        found = self._cluster.nodes.get("", node) or await self._client.get(NODE, "", node)
        if not is_edge(found) and node not in self._told and not self._sessions.is_connected(node):
            return  # a node of the cluster's own
        if not self._sessions.is_known(node):
            return
        current = found.get("status") or {}
        now = rfc3339(self._clock.wall())
        wanted = desired_status(current, self._told.get(node), away=self._sessions.is_away(node), now=now)
        if self._kubelet is not None:
            await self._show(node, found, self._kubelet.hidden(wanted))
            wanted = self._kubelet.patched(node, wanted)
        if wanted == current and not force:
            return
        patch = [{"op": "add", "path": "/status", "value": wanted}]
        await self._client.patch(NODE, "", node, patch, content_type=JSON_PATCH, subresource="status")

    async def _show(self, node: str, found: Mapping[str, Any], address: str) -> None:
        """Let people see the edge's own address where the status has no place for it."""
        shown = (found["metadata"].get("annotations") or {}).get(INTERNAL_IP)
        if address and address != shown:
            patch = {"metadata": {"annotations": {INTERNAL_IP: address}}}
            await self._client.patch(NODE, "", node, patch, content_type=MERGE_PATCH)


def is_edge(node: Mapping[str, Any]) -> bool:
    """Whether a Node is one of ours."""
    return EDGE_LABEL in (node["metadata"].get("labels") or {})


def new_node(node: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the Node that a joined edge starts as."""
    own = {HOSTNAME: node, EDGE_LABEL: ""}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {**labels, **own}}, "spec": {}}


def registration_labels(node: str, body: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of a registering node; a node may not name itself anything but what its certificate says."""
    refused = refused_labels(body)
    found = {k: v for k, v in _said_labels(body).items() if k not in refused}
    kept = dict(list(found.items())[:KEPT_LABELS])
    return {**kept, HOSTNAME: node, EDGE_LABEL: ""}


def refused_labels(body: Mapping[str, Any]) -> set[str]:
    """Return the labels that only the cloud gives: by these, workloads and their Secrets find their nodes."""
    return {label for label in _said_labels(body) if not may_say_of_itself(label)}


def _said_labels(body: Mapping[str, Any]) -> dict[str, str]:
    metadata = body.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    found = labels if isinstance(labels, dict) else {}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}


def desired_status(
    current: Mapping[str, Any], told: Mapping[str, Any] | None, *, away: bool, now: str
) -> dict[str, Any]:
    """Return what the Node's status should say. Pure; ``told`` None: the edge has not spoken since we started."""
    before = {c["type"]: c for c in current.get("conditions") or []}
    conditions = {c["type"]: c for c in (told or {}).get("conditions") or before.values() if "type" in c}
    if not away and conditions.get("Ready", {}).get("status", "Unknown") == "Unknown":
        conditions["Ready"] = _condition("Ready", "True", "EdgeReady", "the edge is connected")
    if away:
        kinds = {*conditions, "Ready"}
        message = "the edge has been silent; what is shown is the last that it said"
        conditions = {kind: _condition(kind, "Unknown", "NodeStatusUnknown", message) for kind in kinds}
    dated = [_dated(conditions[kind], before.get(kind), now) for kind in sorted(conditions)]
    return {**current, **(told or {}), "conditions": dated}


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _dated(condition: Mapping[str, Any], before: Mapping[str, Any] | None, now: str) -> dict[str, Any]:
    same = before is not None and before.get("status") == condition.get("status")
    if before is not None and same and all(before.get(k) == condition.get(k) for k in ("reason", "message")):
        return dict(before)
    since = before.get("lastTransitionTime") if before is not None and same else None
    return {**condition, "lastTransitionTime": since or now, "lastHeartbeatTime": now}
