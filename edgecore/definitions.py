"""Custom kinds at the edge: a definition that the cloud has sent is served, and its objects may come before it."""

from kubeapi.crds import resources_of
from kubeapi.kinds import CUSTOM_RESOURCE_DEFINITION as CRD
from kubeapi.resources import Registry, Resource
from kubeapi.store import Store
from proto.kit.database import Tx
from proto.kit.log import Logger

log = Logger("definitions")


class Definitions:
    """Keeps ``registry`` at what the stored definitions say. Writes happen in the link's transaction."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store, self._registry = store, registry
        self._own = {res.storage: res for res in registry.stored()}  # kinds that are served without a definition
        self._served: dict[str, list[Resource]] = {}
        for crd in store.list(CRD, None):
            self._serve(crd)

    def put(self, tx: Tx, crd: dict[str, object]) -> list[str]:
        """Serve what ``crd`` says; returns where objects of its kind rest."""
        name = _name(crd)
        before = self._served.get(name, [])
        self._withdraw(name)
        served = self._serve(crd)
        tx.on_rollback(lambda: self._restore(name, before))
        return sorted({res.storage for res in served})

    def remove(self, tx: Tx, name: str) -> None:
        """Serve the kind of a definition no more; its objects go with it."""
        before = self._served.get(name, [])
        for res in before:
            if res.converts or res.storage in self._own:
                continue
            for stored in list(self._store.peek_all(res)):
                self._store.remove(tx, res, stored.namespace, stored.name)
        self._withdraw(name)
        tx.on_rollback(lambda: self._restore(name, before))

    def _serve(self, crd: dict[str, object]) -> list[Resource]:
        try:
            found = resources_of(crd)
        except (AttributeError, KeyError, TypeError) as error:
            log.warning("a definition that cannot be served", name=_name(crd), reason=repr(error))
            return []
        served = [res for res in found if self._may_serve(res)]
        self._restore(_name(crd), served)
        return served

    def _may_serve(self, res: Resource) -> bool:
        """A definition may add a schema to a kind that this edge lives by, and change nothing else of it."""
        own = self._own.get(res.storage)
        return own is None or (own.custom and own.version == res.version and not res.converts)

    def _restore(self, name: str, served: list[Resource]) -> None:
        self._withdraw(name)
        if served:
            self._served[name] = served
        for res in served:
            self._registry.add(res)

    def _withdraw(self, name: str) -> None:
        for res in self._served.pop(name, ()):
            self._registry.remove(res)
            if res.storage in self._own:
                self._registry.add(self._own[res.storage])


def _name(crd: dict[str, object]) -> str:
    metadata = crd["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["name"])
