"""What kinds the API knows. A ``Resource`` is one kind in one version; the ``Registry`` finds it by path or by kind."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Column:
    """One printer column. ``priority`` 0 shows always, more only with ``-o wide``."""

    name: str
    json_path: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Scale:
    """JSON paths of the scale subresource; ``selector`` "" is none."""

    spec_replicas: str
    status_replicas: str
    selector: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind in one version: how it is named, stored, checked and shown."""

    group: str  # "" is the core group
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    columns: tuple[Column, ...] = ()
    schema: dict[str, Any] | None = field(default=None, compare=False)  # a CRD's; built-ins have ``definition``
    durable: bool = True  # False: memory only, out of the log (leases)
    returns_object_on_delete: bool = False
    definition: str = ""  # name in kubeapi.schemas.definitions()
    names: str = "subdomain"  # which names are allowed: see kubeapi.metadata.NAME_RULES
    fields: tuple[str, ...] = ()  # field selectors beyond metadata.name and metadata.namespace
    generation: bool = True  # False: a kind without spec (ConfigMap) whose generation stays absent
    unconditional_update: bool = True  # False: a PUT must carry a resourceVersion; always so for custom kinds
    storage_version: str = ""  # "" is this version; objects rest in one version and are read in any
    view_of: str = ""  # "core/events": the same objects under another group
    scale: Scale | None = None
    verbs: tuple[str, ...] = VERBS
    custom: bool = False  # from a CRD
    preserve_unknown: bool = False  # a CRD without schema for this version
    deprecated: str = ""  # warning text for a deprecated version
    storage: str = field(init=False, default="")  # where the objects rest: "group/plural"
    api_version: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "singular", self.singular or self.kind.lower())
        object.__setattr__(self, "list_kind", self.list_kind or f"{self.kind}List")
        object.__setattr__(self, "storage", self.view_of or f"{self.group or 'core'}/{self.plural}")
        object.__setattr__(self, "api_version", f"{self.group}/{self.version}" if self.group else self.version)

    @property
    def group_version(self) -> str:
        return self.api_version

    @property
    def converts(self) -> bool:
        """Whether objects rest in another version than this one."""
        return bool(self.view_of) or self.storage_version not in ("", self.version)


class Registry:
    """Every Resource served now. ``revision`` grows at each change, so that discovery and OpenAPI know when to rebuild."""

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self.revision = 0
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self._by_kind: dict[tuple[str, str, str], Resource] = {}
        self._by_storage: dict[str, Resource] = {}
        for res in resources:
            self.add(res)

    def add(self, res: Resource) -> None:
        """Serve ``res``, replacing the same group, version and plural."""
        self._by_path[res.group, res.version, res.plural] = res
        self._by_kind[res.group, res.version, res.kind] = res
        if not res.converts:
            self._by_storage[res.storage] = res
        elif res.custom:  # the storage version may be one that is not served any more
            self._by_storage.setdefault(res.storage, res)
        self.revision += 1

    def remove(self, res: Resource) -> None:
        """Stop serving ``res``; nothing happens when it is not served."""
        self._by_path.pop((res.group, res.version, res.plural), None)
        self._by_kind.pop((res.group, res.version, res.kind), None)
        if self._by_storage.get(res.storage) == res:
            del self._by_storage[res.storage]
        self.revision += 1

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def by_kind(self, group: str, version: str, kind: str) -> Resource | None:
        return self._by_kind.get((group, version, kind))

    def by_storage(self, storage: str) -> Resource | None:
        """Return the resource in whose version the objects at ``storage`` rest."""
        return self._by_storage.get(storage)

    def by_api_version(self, api_version: str, kind: str) -> Resource | None:
        """As ``by_kind``, from an object's own ``apiVersion``."""
        group, _, version = api_version.rpartition("/")
        return self._by_kind.get((group, version, kind))

    def all(self) -> list[Resource]:
        return list(self._by_path.values())

    def stored(self) -> list[Resource]:
        """Return one Resource per place where objects rest."""
        return list(self._by_storage.values())
