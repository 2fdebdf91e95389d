"""Garbage collection by owner references. Reads and writes every kind.

An object whose owners are all gone goes. ``foregroundDeletion`` on an owner: its blocking dependents go first. ``orphan``
on an owner: its dependents forget it first. An owner that we cannot look up (an unknown kind) protects.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from kubeapi.controllers.worker import Worker
from kubeapi.deleting import FOREGROUND, ORPHAN
from kubeapi.objects import DeleteOptions, Objects, WriteOptions
from kubeapi.resources import Resource
from kubeapi.stored import DELETED, Event, Stored
from proto.kit.database import Tx

Json = dict[str, Any]
OWNERS = b'"ownerReferences"'
MANAGER = WriteOptions(field_manager="garbage-collector")


class Place(NamedTuple):
    """Where an object rests."""

    storage: str
    namespace: str
    name: str


class Garbage:
    """The collector; ``start`` before the first write that it must see."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._store = objects.store
        self._registry = objects.registry
        self._dependents: dict[str, set[Place]] = {}  # owner uid -> who names it
        self.worker: Worker[Place] = Worker("garbage", self._make_right, objects.clock)

    def start(self) -> None:
        """Look at everything stored, then follow every change."""
        for res in self._registry.stored():
            for item in self._store.items(res, None):
                if OWNERS in item.body:
                    place = Place(res.storage, item.namespace, item.name)
                    self._index(place, item, None)
                    self.worker.add(place)
                if b'"deletionTimestamp"' in item.body:
                    self.worker.add(Place(res.storage, item.namespace, item.name))
        self._store.observe(self._changed)

    def _changed(self, res: Resource, event: Event) -> None:
        place = Place(res.storage, event.stored.namespace, event.stored.name)
        old = event.previous_stored
        new = None if event.type == DELETED else event.stored
        named = any(item is not None and OWNERS in item.body for item in (old, new))
        if named:
            self._index(place, new, old)
        if event.type == DELETED:
            uid = event.object["metadata"].get("uid", "")
            for dependent in self._dependents.get(uid, ()):
                self.worker.add(dependent)
            if old is not None and named:  # an owner may wait for this one in the foreground
                for owner in _owners(old.object):
                    self._add_owner(owner, place.namespace)
        elif named or "deletionTimestamp" in event.object["metadata"]:
            self.worker.add(place)

    def _index(self, place: Place, new: Stored | None, old: Stored | None) -> None:
        for owner in _owners(old.object) if old is not None else ():
            held = self._dependents.get(owner["uid"])
            if held is not None:
                held.discard(place)
                if not held:
                    del self._dependents[owner["uid"]]
        for owner in _owners(new.object) if new is not None else ():
            self._dependents.setdefault(owner["uid"], set()).add(place)

    def _add_owner(self, owner: Json, namespace: str) -> None:
        res = self._registry.by_api_version(owner["apiVersion"], owner["kind"])
        if res is not None:
            self.worker.add(Place(res.storage, namespace if res.namespaced else "", owner["name"]))

    async def _make_right(self, place: Place) -> None:
        await self._store.db.tx(lambda tx: self._settle(tx, place))

    def _settle(self, tx: Tx, place: Place) -> None:
        res = self._registry.by_storage(place.storage)
        found = None if res is None else self._store.peek(res, place.namespace, place.name)
        if res is None or found is None:
            return
        obj = found.object
        finalizers = obj["metadata"].get("finalizers") or ()
        if "deletionTimestamp" in obj["metadata"]:
            if ORPHAN in finalizers:
                self._orphan_dependents(tx, obj)
                self._drop_finalizer(tx, res, obj, ORPHAN)
            elif FOREGROUND in finalizers and not self._delete_dependents(tx, obj):
                self._drop_finalizer(tx, res, obj, FOREGROUND)
            return
        self._check_owners(tx, res, obj)

    def _check_owners(self, tx: Tx, res: Resource, obj: Json) -> None:
        refs = list(_owners(obj))
        namespace = obj["metadata"].get("namespace", "")
        states = [self._owner_state(ref, namespace) for ref in refs]
        if not refs or "unknown" in states:
            return
        gone = {ref["uid"] for ref, state in zip(refs, states, strict=True) if state == "gone"}
        name, uid = obj["metadata"]["name"], obj["metadata"]["uid"]
        if len(gone) == len(refs):
            self._objects.delete_in(tx, res, namespace, name, DeleteOptions(uid=uid))
        elif gone:
            self._without_owners(tx, res, obj, gone)
        elif all(state == "waits" for state in states):
            self._objects.delete_in(tx, res, namespace, name, DeleteOptions(uid=uid, propagation="Foreground"))

    def _owner_state(self, ref: Json, namespace: str) -> str:
        """Return alive, gone, waits (it goes after its dependents) or unknown (we cannot tell)."""
        res = self._registry.by_api_version(ref["apiVersion"], ref["kind"])
        if res is None or (res.namespaced and not namespace):
            return "unknown"
        found = self._store.peek(res, namespace if res.namespaced else "", ref["name"])
        if found is None or found.object["metadata"].get("uid") != ref["uid"]:
            return "gone"
        metadata = found.object["metadata"]
        waits = "deletionTimestamp" in metadata and FOREGROUND in (metadata.get("finalizers") or ())
        return "waits" if waits and ref.get("blockOwnerDeletion") else "alive"

    def _of(self, obj: Json) -> Iterator[tuple[Resource, Json]]:
        """Yield the dependents that still stand."""
        uid = obj["metadata"]["uid"]
        for place in sorted(self._dependents.get(uid, ())):
            res = self._registry.by_storage(place.storage)
            found = None if res is None else self._store.peek(res, place.namespace, place.name)
            if res is not None and found is not None and any(o["uid"] == uid for o in _owners(found.object)):
                yield res, found.object

    def _delete_dependents(self, tx: Tx, obj: Json) -> bool:
        """Delete what only this owner holds; returns whether one that blocks it still stands."""
        for res, dependent in list(self._of(obj)):
            if "deletionTimestamp" not in dependent["metadata"]:
                self._check_owners(tx, res, dependent)
        uid = obj["metadata"]["uid"]
        return any(o.get("blockOwnerDeletion") and o["uid"] == uid for _, d in self._of(obj) for o in _owners(d))

    def _orphan_dependents(self, tx: Tx, obj: Json) -> None:
        for res, dependent in list(self._of(obj)):
            self._without_owners(tx, res, dependent, {obj["metadata"]["uid"]})

    def _without_owners(self, tx: Tx, res: Resource, obj: Json, uids: set[str]) -> None:
        kept = [o for o in obj["metadata"].get("ownerReferences") or () if o.get("uid") not in uids]
        metadata = {k: v for k, v in obj["metadata"].items() if k != "ownerReferences"}
        if kept:
            metadata["ownerReferences"] = kept
        self._objects.settle(tx, res, obj, dict(obj, metadata=metadata), MANAGER)

    def _drop_finalizer(self, tx: Tx, res: Resource, obj: Json, finalizer: str) -> None:
        metadata = dict(obj["metadata"])
        metadata["finalizers"] = [f for f in metadata.get("finalizers") or () if f != finalizer]
        if not metadata["finalizers"]:
            del metadata["finalizers"]
        self._objects.settle(tx, res, obj, dict(obj, metadata=metadata), MANAGER)


def _owners(obj: Json) -> Iterator[Json]:
    for owner in obj["metadata"].get("ownerReferences") or ():
        if all(isinstance(owner.get(k), str) for k in ("uid", "name", "kind", "apiVersion")):
            yield owner
