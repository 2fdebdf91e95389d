"""The objects that pods name, as the edge's store has them now."""

from typing import Any, Protocol

from kubeapi.resources import Resource
from kubeapi.store import Store

Json = dict[str, Any]


class Objects(Protocol):
    """Committed objects by plural, ``group/plural`` outside the core group; what comes back must not be changed."""

    def get(self, plural: str, namespace: str, name: str) -> Json | None: ...
    def list(self, plural: str, namespace: str | None) -> list[Json]: ...


class StoreObjects:
    """Objects of a Store, in version v1. A kind that it does not serve has no objects."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, plural: str, namespace: str, name: str) -> Json | None:
        """Return the object, or None."""
        res = self._resource(plural)
        return None if res is None else self._store.get(res, namespace, name)

    def list(self, plural: str, namespace: str | None) -> list[Json]:
        """Return the objects of a namespace (None: of all) in order of their names."""
        res = self._resource(plural)
        return [] if res is None else self._store.list(res, namespace)

    def _resource(self, plural: str) -> Resource | None:
        group, _, name = plural.rpartition("/")
        return self._store.registry.find(group, "v1", name)
