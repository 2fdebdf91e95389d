"""A CRD that goes takes its objects with it. Reads CustomResourceDefinition; deletes the kinds that they define."""

from kubeapi.controllers.worker import Worker
from kubeapi.crds import CLEANUP, resources_of
from kubeapi.kinds import CUSTOM_RESOURCE_DEFINITION as CRD
from kubeapi.objects import DeleteOptions, ListOptions, Objects, WriteOptions
from kubeapi.resources import Resource
from kubeapi.stored import DELETED, Event
from proto.kit.database import Tx


class CustomCleanup:
    """Empties the kinds of deleted CRDs, then lets the CRDs go."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._store = objects.store
        self.worker: Worker[str] = Worker("crds", self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(CRD, None):
            self.worker.add(item.name)
        self._store.listen(CRD, lambda event: self.worker.add(event.stored.name))
        self._store.observe(self._changed)

    def _changed(self, res: Resource, event: Event) -> None:
        if event.type == DELETED and res.custom:
            self.worker.add(f"{res.plural}.{res.group}")

    async def _make_right(self, name: str) -> None:
        crd = self._store.get(CRD, "", name)
        if crd is None or "deletionTimestamp" not in crd["metadata"]:
            return
        kinds = [res for res in resources_of(crd) if not res.converts]
        for res in kinds:
            if self._store.count(res):
                await self._objects.delete_collection(res, None, ListOptions(), DeleteOptions())
        if not any(self._store.count(res) for res in kinds):
            await self._store.db.tx(lambda tx: self._finish(tx, name))

    def _finish(self, tx: Tx, name: str) -> None:
        found = self._store.peek(CRD, "", name)
        if found is None:
            return
        obj = found.object
        metadata = dict(obj["metadata"])
        metadata["finalizers"] = [f for f in metadata.get("finalizers") or () if f != CLEANUP]
        if not metadata["finalizers"]:
            del metadata["finalizers"]
        self._objects.settle(tx, CRD, obj, dict(obj, metadata=metadata), WriteOptions())
