"""An API in process over a real file, with short names for what the tests say often."""

import json
from pathlib import Path
from typing import Any, Self

from kubeapi import kinds
from kubeapi.controllers.builtin import BuiltinControllers
from kubeapi.crds import Crds
from kubeapi.objects import ListOptions, Objects, WriteOptions
from kubeapi.resources import Registry, Resource
from kubeapi.store import SCHEMA, Limits, Store
from proto.kit.backoff import Rng
from proto.kit.database import Database
from tests.kit.clock import ManualClock

Json = dict[str, Any]
CM, SECRET, NS, POD, SVC, NODE, LEASE = (
    kinds.CONFIG_MAP,
    kinds.SECRET,
    kinds.NAMESPACE,
    kinds.POD,
    kinds.SERVICE,
    kinds.NODE,
    kinds.LEASE,
)


class Api:
    def __init__(self, path: Path, db: Database, registry: Registry, store: Store, clock: ManualClock) -> None:
        self.path = path
        self.db = db
        self.registry = registry
        self.store = store
        self.clock = clock
        self.crds = Crds(store, registry, clock)
        self.crds.start()
        self.objects = Objects(store, registry, clock, admission=[self.crds.admit], rng=Rng(7))
        self.controllers = BuiltinControllers(self.objects)

    @classmethod
    async def open(
        cls, path: Path, *, limits: Limits | None = None, namespaces: tuple[str, ...] = ("default",)
    ) -> Self:
        db = Database.open(path / "kube.db", [SCHEMA])
        clock, registry = ManualClock(), kinds.registry()
        store = await Store.open(db, registry, clock, limits=limits)
        api = cls(path, db, registry, store, clock)
        for name in namespaces:
            if store.get(NS, "", name) is None:
                await api.create(NS, {"metadata": {"name": name}})
        return api

    async def close(self) -> None:
        await self.db.close()

    async def reopen(self, limits: Limits | None = None) -> "Api":
        await self.close()
        return await Api.open(self.path, limits=limits)

    async def create(self, res: Resource, body: Json, namespace: str = "default", **opts: Any) -> Json:
        return await self.objects.create(res, namespace if res.namespaced else "", body, WriteOptions(**opts))

    async def update(self, res: Resource, name: str, body: Json, subresource: str = "", **opts: Any) -> Json:
        namespace = "default" if res.namespaced else ""
        return await self.objects.update(res, namespace, name, body, WriteOptions(**opts), subresource)

    async def patch(
        self, res: Resource, name: str, patch: Any, kind: str = "merge", subresource: str = "", **opts: Any
    ) -> Json:
        suffix = {"apply": "apply-patch+yaml", "strategic": "strategic-merge-patch+json"}.get(
            kind, f"{kind}-patch+json"
        )
        namespace = "default" if res.namespaced else ""
        raw = json.dumps(patch).encode()
        obj, _ = await self.objects.patch(
            res, namespace, name, raw, f"application/{suffix}", WriteOptions(**opts), subresource
        )
        return obj

    async def apply(self, res: Resource, config: Json, manager: str = "kubectl", **opts: Any) -> Json:
        full = {"apiVersion": res.api_version, "kind": res.kind, **config}
        return await self.patch(res, config["metadata"]["name"], full, "apply", field_manager=manager, **opts)

    def names(self, res: Resource, **opts: Any) -> list[str]:
        return [o["metadata"]["name"] for o in self.objects.list(res, None, ListOptions(**opts)).items]


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
