"""Indexes of stored objects, kept by the store's own events: a controller never scans everything."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from kubeapi.kinds import CONTROLLER_REVISION, JOB, POD, REPLICA_SET
from kubeapi.label_selectors import label_test
from kubeapi.resources import Resource
from kubeapi.store import Store
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
Place = tuple[str, str]  # namespace, name
Keys = Callable[[Json], Iterable[Hashable]]


class Index:
    """Objects of one kind by the keys that ``keys_of`` gives each. ``start`` before the listeners that ask it."""

    def __init__(self, store: Store, res: Resource, keys_of: Keys) -> None:
        self._store, self._res, self._keys_of = store, res, keys_of
        self._held: dict[Hashable, dict[Place, None]] = {}

    def start(self) -> None:
        for item in self._store.items(self._res, None):
            self._add((item.namespace, item.name), item.object)
        self._store.listen(self._res, self._changed)

    def _changed(self, event: Event) -> None:
        place = (event.stored.namespace, event.stored.name)
        if event.previous is not None:
            self._drop(place, event.previous)
        if event.type != DELETED:
            self._add(place, event.object)

    def _add(self, place: Place, obj: Json) -> None:
        for key in self._keys_of(obj):
            self._held.setdefault(key, {})[place] = None

    def _drop(self, place: Place, obj: Json) -> None:
        for key in self._keys_of(obj):
            held = self._held.get(key)
            if held is not None:
                held.pop(place, None)
                if not held:
                    del self._held[key]

    def places(self, key: Hashable) -> list[Place]:
        return list(self._held.get(key, ()))

    def count(self, key: Hashable) -> int:
        return len(self._held.get(key, ()))

    def held(self) -> list[Hashable]:
        """Return every key that something stands under."""
        return list(self._held)

    def get(self, key: Hashable) -> list[Json]:
        """Return the objects under ``key``. They are shared and must not be changed."""
        found = (self._store.stored(self._res, *place) for place in self._held.get(key, ()))
        return [item.object for item in found if item is not None]


def controller_of(obj: Json) -> Json | None:
    """Return the owner reference of the object's controller."""
    return next((o for o in obj["metadata"].get("ownerReferences") or () if o.get("controller")), None)


def owned(obj: Json) -> Iterator[Hashable]:
    """Yield the keys of an object that controllers own: ``owner`` + uid, or ``orphan`` + namespace."""
    owner = controller_of(obj)
    yield ("orphan", obj["metadata"].get("namespace", "")) if owner is None else ("owner", owner.get("uid"))


def _pod_keys(pod: Json) -> Iterator[Hashable]:
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    namespace = metadata.get("namespace", "")
    yield from owned(pod)
    yield ("in", namespace)
    if spec.get("nodeName"):
        yield ("node", spec["nodeName"])
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        yield ("ended",)
    for key, value in (metadata.get("labels") or {}).items():
        yield ("label", namespace, key, value)
    for volume in spec.get("volumes") or ():
        claim = volume.get("persistentVolumeClaim")
        if claim is not None:
            yield ("claim", namespace, claim.get("claimName"))


class Pods(Index):
    """Pods by ``owner``, ``orphan``, ``node``, ``claim``, ``ended`` and labels."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, POD, _pod_keys)

    def selected(self, namespace: str, selector: Any) -> list[Json]:
        """Return the namespace's pods that a LabelSelector selects."""
        pairs = (selector or {}).get("matchLabels") or {}
        keys: list[Hashable] = [("label", namespace, k, v) for k, v in pairs.items()]
        rarest = min(keys, key=self.count) if keys else ("in", namespace)
        test = label_test(selector)
        return [pod for pod in self.get(rarest) if test(pod["metadata"].get("labels") or {})]


class Indexes:
    """Every index that more than one controller asks."""

    def __init__(self, store: Store) -> None:
        self.pods = Pods(store)
        self.replica_sets = Index(store, REPLICA_SET, owned)
        self.revisions = Index(store, CONTROLLER_REVISION, owned)
        self.jobs = Index(store, JOB, owned)

    def start(self) -> None:
        for index in (self.pods, self.replica_sets, self.revisions, self.jobs):
            index.start()
