"""One API server as cloudcore uses it: a client, and informers of the kinds that the hub and the controllers read."""

import asyncio
from typing import Any

from cloudcore.kube import resources
from cloudcore.kube.client import KubeClient
from cloudcore.kube.informer import Informer, InformerSettings, Name, Selection
from cloudcore.kube.resources import CRD, DEVICE, DEVICE_MODEL, DEVICE_STATUS, NODE, POD, SECRET, Kind
from cloudcore.kube.subresources import StatusPaths
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.labels import EDGE_ROLE

CORE = (DEVICE, DEVICE_MODEL, DEVICE_STATUS, NODE)  # without these there is no cloud
WANTED = (  # what pods need; a kind that we may not read, or that is not served, is left out
    POD,
    resources.CONFIG_MAP,
    SECRET,
    resources.SERVICE_ACCOUNT,
    resources.NAMESPACE,
    resources.SERVICE,
    resources.ENDPOINT_SLICE,
    resources.CLAIM,
    resources.VOLUME,
    resources.RUNTIME_CLASS,
    resources.REPLICA_SET,
    resources.DEPLOYMENT,
    resources.DAEMON_SET,
    resources.STATEFUL_SET,
    resources.JOB,
    resources.CRON_JOB,
    resources.ROLE,
    resources.ROLE_BINDING,
    resources.CLUSTER_ROLE,
    resources.CLUSTER_ROLE_BINDING,
    resources.NODE_GROUP,
    resources.EDGE_APPLICATION,
    CRD,
)
SELECTORS = {
    POD: "spec.nodeName!=",  # until it is bound, a pod is no node's
    SECRET: "type!=helm.sh/release.v1",  # large, many, and nothing that a pod reads
}
BULKY = (resources.CONFIG_MAP, SECRET)  # many, large, and most of them for nobody at an edge
NAME_OTHERS = (POD, resources.SERVICE_ACCOUNT, resources.JOB, resources.CRON_JOB)  # read before what they name
FAILED_PAUSE_S = 30.0
JOIN_PAUSE_S = 0.3  # nodes that join together cost one list of pods
MAX_CUSTOM = 64  # kinds that definitions ask for: each costs a watch
log = Logger("cluster")


class Cluster:
    """Read through ``devices``, ``models``, ``statuses``, ``nodes``, ``pods`` and ``of``; write through ``client``."""

    def __init__(
        self, client: KubeClient, *, clock: Clock, rng: Rng, metrics: Metrics, settings: InformerSettings | None = None
    ) -> None:
        self.client = client
        self.clock, self.rng, self.metrics = clock, rng, metrics
        self.paths = StatusPaths(client, clock)
        self._settings = settings
        self._all: dict[tuple[str, str], Informer] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._edges: set[str] = set()
        self._listing = False
        for kind in CORE:
            self._add(kind, optional=False)
        for kind in WANTED:
            self._add(kind, optional=True)
        self.devices, self.models = self.of(DEVICE), self.of(DEVICE_MODEL)
        self.statuses, self.nodes, self.pods = self.of(DEVICE_STATUS), self.of(NODE), self.of(POD)
        self.nodes.listen(self._on_node)

    def of(self, kind: Kind) -> Informer:
        """Return the informer of a kind that is always read."""
        return self._all[kind.group, kind.plural]

    def find(self, group: str, plural: str) -> Informer | None:
        return self._all.get((group, plural))

    @property
    def informers(self) -> tuple[Informer, ...]:
        return tuple(self._all.values())

    @property
    def synced(self) -> bool:
        return all(self.of(kind).synced.is_set() for kind in CORE)

    @property
    def settled(self) -> bool:
        """Whether every kind but custom ones is listed or left out: then it is known what a node should *not* hold."""
        return all(self.of(kind).settled.is_set() for kind in (*CORE, *WANTED))

    def follow(self, kind: Kind) -> Informer | None:
        """Begin to read one more kind; None when it is read already, or when there are too many."""
        where = (kind.group, kind.plural)
        if where in self._all:
            return None
        if len(self._all) >= len(CORE) + len(WANTED) + MAX_CUSTOM:
            log.warning("too many synced definitions", left_out=f"{kind.plural}.{kind.group}", most=MAX_CUSTOM)
            return None
        informer = self._add(kind, optional=True)
        self._start(where)
        return informer

    def unfollow(self, kind: Kind) -> None:
        """Read a kind that ``follow`` added no more; its objects are told as gone first."""
        where = (kind.group, kind.plural)
        informer = self._all.pop(where, None)
        task = self._tasks.pop(where, None)
        if task is not None:
            task.cancel()
        if informer is not None:
            informer.clear()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            for where in list(self._all):
                self._start(where)
            await asyncio.Event().wait()  # the group lives as long as the process, whichever kinds come and go

    async def wait_synced(self) -> None:
        """Wait for the first list of the kinds without which there is no cloud."""
        for kind in CORE:
            await self.of(kind).synced.wait()

    async def wait_settled(self) -> None:
        """Wait until every kind but custom ones is listed or left out."""
        for kind in (*CORE, *WANTED):
            await self.of(kind).settled.wait()

    def _add(self, kind: Kind, *, optional: bool) -> Informer:
        informer = self._all[kind.group, kind.plural] = Informer(
            self.client,
            kind,
            clock=self.clock,
            rng=self.rng,
            metrics=self.metrics,
            settings=self._settings,
            selection=Selection(SELECTORS.get(kind, ""), optional, self._is_at_edge if kind == POD else None),
        )
        return informer

    def _is_at_edge(self, pod: dict[str, Any]) -> bool:
        """A cluster may have a hundred times more pods elsewhere: those are not even kept in memory."""
        return (pod.get("spec") or {}).get("nodeName") in self._edges

    def _on_node(self, name: Name, _old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is None or EDGE_ROLE not in (new["metadata"].get("labels") or {}):
            self._edges.discard(name.name)
        elif name.name not in self._edges:
            self._edges.add(name.name)
            if self.nodes.synced.is_set() and not self._listing and self._group is not None:
                self._listing = True
                self._group.create_task(self._list_pods_again(), name="pods of a new node")

    async def _list_pods_again(self) -> None:
        await self.clock.sleep(JOIN_PAUSE_S)
        self._listing = False
        where = (POD.group, POD.plural)
        self._tasks[where].cancel()
        self.pods.list_again()
        self._start(where)

    async def _read(self, informer: Informer) -> None:
        if informer.kind == POD:
            await self.nodes.synced.wait()
        if informer.kind in BULKY:
            for kind in NAME_OTHERS:
                await self.of(kind).settled.wait()
        while informer.kind not in CORE:
            try:
                await informer.run()
            except Exception:  # one kind that we could do without must not end the cloud
                log.exception("informer failed", resource=informer.kind.plural)
                await self.clock.sleep(FAILED_PAUSE_S)
        await informer.run()

    def _start(self, where: tuple[str, str]) -> None:
        if self._group is not None:
            self._tasks[where] = self._group.create_task(self._read(self._all[where]), name=f"informer {where[1]}")
