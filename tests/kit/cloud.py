"""The cloud's rooms without link and daemon: the real embedded API over HTTPS, the real database, the real hub."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from cloudcore import crds, kubeconfig
from cloudcore.certs import Authority
from cloudcore.embedded_api import EmbeddedApi
from cloudcore.history import History
from cloudcore.hub.hub import Hub
from cloudcore.kube import config
from cloudcore.kube.client import KubeClient
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import DEVICE, DEVICE_MODEL, DEVICE_STATUS, Kind
from cloudcore.revocation import Revocations
from cloudcore.settings import Api, Nodes, Settings
from cloudcore.sql import Sql
from kubeapi.kubelet import KubeletAccess
from proto.kit import tls
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.metrics import Metrics
from proto.link.replica import StateChange

PLAIN_USER = "skerry-cloudcore"
QUICK = Settings(nodes=Nodes(away_after_s=0.0, settle_s=0.0), api=Api(host="127.0.0.1", port=0))


class Cloud:
    """A running hub. ``changes`` is what the link would have been told."""

    def __init__(self, client: KubeClient, cluster: Cluster, hub: Hub, sql: Sql, metrics: Metrics) -> None:
        self.client, self.cluster, self.hub, self.sql, self.metrics = client, cluster, hub, sql, metrics
        self.changes: list[tuple[str, str]] = []

    async def create(self, kind: Kind, name: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, "spec": spec or {}}
        return await self.client.create(kind, "default" if kind.namespaced else "", body)

    async def device(self, name: str, node: str = "gw-1", model: str = "thermo", **spec: Any) -> dict[str, Any]:
        return await self.create(DEVICE, name, {"nodeName": node, "deviceModelRef": {"name": model}, **spec})

    async def model(self, name: str = "thermo") -> dict[str, Any]:
        prop = {"name": "temp", "type": "STRING", "accessMode": "ReadWrite"}
        return await self.create(DEVICE_MODEL, name, {"protocol": "mqtt", "properties": [prop]})

    async def status(self, name: str) -> dict[str, Any]:
        """The device's reported status; empty before it has one."""
        try:
            found = await self.client.get(DEVICE_STATUS, "default", name)
        except NotFound:
            return {}
        return found.get("status") or {}


def status_change(name: str, uid: str, version: int, **status: Any) -> StateChange:
    """What an edge sends about one device."""
    body = {"uid": uid, "version": version, "status": {"state": "online", "twins": [], **status}}
    return StateChange(DEVICE_STATUS.key("default", name), json.dumps(body).encode())


@asynccontextmanager
async def bare_api(path: Path, options: Api = QUICK.api, kubelet: KubeletAccess | None = None) -> AsyncIterator[Path]:
    """A Kubernetes API with nothing of Skerry in it; yields an administrator's kubeconfig.

    Beside it, ``plain.kubeconfig`` is for a user without any right. Without ``kubelet`` no node is asked for logs.
    """
    clock, metrics = SystemClock(), Metrics()
    async with AsyncExitStack() as stack:
        authority = Authority.open_or_create(path / "pki", clock)
        sql = Sql.open(f"sqlite:///{path / 'cloud.db'}")
        stack.push_async_callback(sql.close)
        api = await EmbeddedApi.open(
            path,
            authority,
            Revocations(sql, clock),
            options,
            kubelet=kubelet,
            clock=clock,
            rng=Rng(1),
            metrics=metrics,
        )
        stack.push_async_callback(api.close)
        supervisor = Supervisor(clock)
        stack.push_async_callback(supervisor.close)
        await api.start(supervisor)
        server = authority.server_certificate()
        port = await api.listen(tls.server_context(server.cert, server.key, authority.ca_file))
        admin = authority.client_certificate("admin", "skerry-admin")
        file = path / "admin.kubeconfig"
        kubeconfig.write(file, f"https://127.0.0.1:{port}", authority.ca_pem, admin, user="skerry-admin")
        plain = authority.client_certificate("plain", PLAIN_USER, groups=())
        kubeconfig.write(
            path / "plain.kubeconfig", f"https://127.0.0.1:{port}", authority.ca_pem, plain, user=PLAIN_USER
        )
        yield file


@asynccontextmanager
async def running(path: Path, settings: Settings = QUICK) -> AsyncIterator[Cloud]:
    """Start everything under ``path``, synced."""
    async with bare_api(path, settings.api) as kubeconfig_file, hub_on(kubeconfig_file, settings) as cloud:
        yield cloud


@asynccontextmanager
async def hub_on(file: Path, settings: Settings = QUICK, *, definitions: bool = True) -> AsyncIterator[Cloud]:
    """Start the hub over the API of a kubeconfig, synced; its database is beside that file.

    ``definitions`` False: somebody has installed them.
    """
    clock, rng, metrics = SystemClock(), Rng(1), Metrics()
    path = file.parent
    async with AsyncExitStack() as stack:
        sql = Sql.open(f"sqlite:///{path / 'history.db'}")
        stack.push_async_callback(sql.close)
        client = KubeClient(config.load(file))
        stack.push_async_callback(client.close)
        if definitions:
            await crds.apply(client, clock=clock, rng=rng)
        cluster = Cluster(client, clock=clock, rng=rng, metrics=metrics)
        changes: list[tuple[str, str]] = []

        def changed(node: str, key: str) -> None:
            changes.append((node, key))
            hub.send_again(node, key)

        hub = Hub(
            cluster,
            sql,
            History(sql, clock=clock, metrics=metrics),
            settings,
            changed,
        )
        supervisor = Supervisor(clock)
        stack.push_async_callback(supervisor.close)
        await hub.start(supervisor)
        await cluster.wait_settled()
        cloud = Cloud(client, cluster, hub, sql, metrics)
        cloud.changes = changes
        yield cloud
