"""Namespaces: the permanent ones exist, each has its default ServiceAccount, a deleted one is emptied and then goes.

Reads and writes Namespace; deletes every namespaced kind. What keeps a deleted one is in its conditions.
"""

from collections import Counter
from typing import Any

from kubeapi.conditions import with_condition
from kubeapi.controllers import parts
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import NAMESPACE, SERVICE_ACCOUNT
from kubeapi.objects import DeleteOptions, ListOptions, Objects, WriteOptions
from kubeapi.resources import Resource
from kubeapi.stored import DELETED, Event
from proto.kit.database import Tx

Json = dict[str, Any]
PERMANENT = ("default", "kube-system", "kube-public", "kube-node-lease")
MANAGER = "namespace-controller"
GONE = ("False", "ContentRemoved", "All content successfully removed")
RELEASED = ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished")


class Namespaces:
    """Makes namespaces right; ``start`` it after ``ensure_permanent``."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._store = objects.store
        self.worker: Worker[str] = Worker("namespaces", self._make_right, objects.clock)

    async def ensure_permanent(self) -> None:
        """Create what every cluster has; safe to repeat."""
        for name in PERMANENT:
            if self._store.get(NAMESPACE, "", name) is None:
                body = {"metadata": {"name": name}}
                await self._objects.create(NAMESPACE, "", body, WriteOptions(field_manager=MANAGER))

    def start(self) -> None:
        for item in self._store.items(NAMESPACE, None):
            self.worker.add(item.name)
        self._store.listen(NAMESPACE, lambda event: self.worker.add(event.stored.name))
        self._store.observe(self._changed)

    def _changed(self, res: Resource, event: Event) -> None:
        if event.type == DELETED and res.namespaced:
            space = self._store.stored(NAMESPACE, "", event.stored.namespace)
            if space is not None and b'"deletionTimestamp"' in space.body:
                self.worker.add(event.stored.namespace)

    async def _make_right(self, name: str) -> None:
        found = self._store.get(NAMESPACE, "", name)
        if found is None:
            return
        if "deletionTimestamp" not in found["metadata"]:
            await self._ensure_account(name)
            return
        for res in self._objects.registry.stored():
            if res.namespaced and name in self._store.namespaces_in_use(res):
                await self._objects.delete_collection(res, name, ListOptions(), DeleteOptions())
        await self._store.db.tx(lambda tx: self._finish(tx, name))
        await self._say(found)

    async def _ensure_account(self, name: str) -> None:
        if self._store.stored(SERVICE_ACCOUNT, name, "default") is not None:
            return
        try:
            body = {"metadata": {"name": "default"}}
            await self._objects.create(SERVICE_ACCOUNT, name, body, WriteOptions(field_manager=MANAGER))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    def _finish(self, tx: Tx, name: str) -> None:
        """Let the namespace go once nothing is left in it."""
        found = self._store.peek(NAMESPACE, "", name)
        if found is None or any(name in self._store.namespaces_in_use(r) for r in self._objects.registry.stored()):
            return
        obj = found.object
        spec = {k: v for k, v in (obj.get("spec") or {}).items() if k != "finalizers"}
        self._objects.settle(tx, NAMESPACE, obj, dict(obj, spec=spec), WriteOptions(field_manager=MANAGER))

    async def _say(self, space: Json) -> None:
        """Tell people what a namespace that stays is waiting for."""
        name = space["metadata"]["name"]
        if self._store.stored(NAMESPACE, "", name) is None:
            return
        kinds: Counter[str] = Counter()
        holders: Counter[str] = Counter()
        for res in self._objects.registry.stored():
            for item in self._store.items(res, name) if res.namespaced else ():
                kinds[f"{res.plural}.{res.group}"] += 1
                holders.update(item.object["metadata"].get("finalizers") or ())
        now = self._objects.clock.wall()
        left = _told(kinds, "SomeResourcesRemain", "Some resources are remaining: ", " has")
        held = _told(holders, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: ", " in")

        def make(found: Json) -> Json:
            status = found.get("status") or {}
            conditions = status.get("conditions") or ()
            conditions = with_condition(conditions, "NamespaceContentRemaining", *(left or GONE), now)
            conditions = with_condition(conditions, "NamespaceFinalizersRemaining", *(held or RELEASED), now)
            return {**found, "status": {**status, "conditions": conditions}}

        await parts.change(self._objects, NAMESPACE, space, make)


def _told(counts: Counter[str], reason: str, sentence: str, word: str) -> tuple[str, str, str] | None:
    listed = ", ".join(f"{name}{word} {count} resource instances" for name, count in sorted(counts.items()))
    return ("True", reason, sentence + listed) if counts else None
