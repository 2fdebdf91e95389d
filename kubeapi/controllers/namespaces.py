"""Namespaces: the permanent ones exist, each has its default ServiceAccount, a deleted one is emptied and then goes.

Reads and writes Namespace; deletes every namespaced kind.
"""

from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import NAMESPACE, SERVICE_ACCOUNT
from kubeapi.objects import DeleteOptions, ListOptions, Objects, WriteOptions
from kubeapi.resources import Resource
from kubeapi.stored import DELETED, Event
from proto.kit.database import Tx

PERMANENT = ("default", "kube-system", "kube-public", "kube-node-lease")
MANAGER = "namespace-controller"


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
