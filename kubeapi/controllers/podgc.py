"""Pods that nobody will ever end: those of nodes that are gone, and finished ones beyond a number. Reads Node; deletes Pod."""

from typing import Any

from kubeapi.conditions import with_condition
from kubeapi.controllers import parts
from kubeapi.controllers.index import Indexes
from kubeapi.controllers.worker import Worker
from kubeapi.kinds import NODE, POD
from kubeapi.objects import Objects
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
QUARANTINE_S = 40.0  # a node that registers again within this time keeps its pods
MOST_ENDED = 12_500
ENDED = ""  # the key of the sweep of finished pods; the others are names of nodes


class PodGc:
    """Deletes orphans and the oldest finished pods; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes, most_ended: int = MOST_ENDED) -> None:
        self._objects, self._store = objects, objects.store
        self._pods = indexes.pods
        self._most_ended = most_ended
        self._missing: dict[str, float] = {}  # node -> since when we know that it is not there
        self.worker: Worker[str] = Worker("pod-gc", self._make_right, objects.clock)

    def start(self) -> None:
        for key in self._pods.held():
            if isinstance(key, tuple) and key[0] == "node":
                self.worker.add(key[1])
        self.worker.add(ENDED)
        self._store.listen(NODE, self._node_changed)
        self._store.listen(POD, self._pod_changed)

    def _node_changed(self, event: Event) -> None:
        if event.type == DELETED:
            self.worker.add(event.stored.name)
        else:
            self._missing.pop(event.stored.name, None)

    def _pod_changed(self, event: Event) -> None:
        if event.type == DELETED:
            return
        node = (event.object.get("spec") or {}).get("nodeName")
        if node and node not in self._missing and self._store.stored(NODE, "", node) is None:
            self.worker.add(node)
        if self._pods.count(("ended",)) > self._most_ended:
            self.worker.add(ENDED)

    async def _make_right(self, key: str) -> None:
        if key == ENDED:
            await self._sweep_ended()
        elif self._store.stored(NODE, "", key) is not None or not self._pods.count(("node", key)):
            self._missing.pop(key, None)
        else:
            now_s = self._objects.clock.now_s()
            since = self._missing.setdefault(key, now_s)
            if now_s - since < QUARANTINE_S:
                self.worker.add_after(key, QUARANTINE_S - (now_s - since))
            else:
                await self._end(self._pods.get(("node", key)))
                self._missing.pop(key, None)

    async def _end(self, orphans: list[Json]) -> None:
        now = self._objects.clock.wall()

        def fail(held: Json) -> Json:
            status = held.get("status") or {}
            if status.get("phase") in parts.FINISHED:
                return held
            told = ("DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists")
            conditions = with_condition(status.get("conditions") or (), *told, now)
            return {**held, "status": {**status, "phase": "Failed", "conditions": conditions}}

        for pod in orphans:
            await parts.change(self._objects, POD, pod, fail)
        await parts.delete_all(self._objects, POD, orphans, grace_s=0)

    async def _sweep_ended(self) -> None:
        surplus = self._pods.count(("ended",)) - self._most_ended
        if surplus > 0:
            oldest = sorted(self._pods.get(("ended",)), key=lambda p: p["metadata"].get("creationTimestamp") or "")
            await parts.delete_all(self._objects, POD, oldest[:surplus], grace_s=0)
