"""Composition root of cloudcore: opens everything in order, says ``ready``, closes everything in reverse.

cloudcore speaks to its embedded API only over HTTPS with a client certificate, as to any API server.
"""

import asyncio
import os
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from cloudcore import backup, broker, crds, data_dir, gauges, kubeconfig, status
from cloudcore.broker_access import CLOUD_USER, BrokerAccess
from cloudcore.certs import Authority, Pair
from cloudcore.embedded_api import EmbeddedApi
from cloudcore.history import Backlog, History
from cloudcore.hub.hub import Hub
from cloudcore.join import JoinServer, JoinSettings
from cloudcore.kube import config
from cloudcore.kube.client import KubeClient
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.informer import InformerSettings
from cloudcore.kubelet.access import Callers
from cloudcore.kubelet.address import address_of, type_of
from cloudcore.kubelet.server import KubeletApi
from cloudcore.link_log import SqlLog
from cloudcore.revocation import Revocations
from cloudcore.settings import Settings
from cloudcore.sql import Sql
from kubeapi.http import PeerCertificate
from kubeapi.kubelet import KubeletAccess
from kubeapi.pages import Pages
from proto.kit import daemon, tls
from proto.kit.backoff import Rng
from proto.kit.clock import Clock, SystemClock
from proto.kit.errors import SkerryError, Terminal, UsageError
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.broker import Broker
from proto.link.cloud import CloudLink

ADMIN_USER = "skerry-admin"
KUBECONFIG_CHECK_S = 600.0
SYNC_TIMEOUT_S = 20.0
log = Logger("cloudcore")


class PortTaken(Terminal):
    """A listener could not start."""

    code = "PortTaken"


class App:
    """One cloudcore. ``run`` serves until a signal."""

    def __init__(self, directory: Path, settings: Settings, *, clock: Clock | None = None) -> None:
        self.directory = directory
        self.settings = settings
        self.clock = clock or SystemClock()
        self.rng = Rng()
        self.metrics = Metrics()
        self.supervisor = daemon.Supervisor(self.clock)
        self.started_at: datetime = self.clock.wall()
        self.addresses: dict[str, str] = {}
        self.hub: Hub
        self.link: CloudLink | None = None
        self.authority: Authority
        self.sql: Sql
        self.revocations: Revocations
        self.broker_port = 0
        self.ready = False

    async def run(self) -> int:
        """Serve. Raises SkerryError with one sentence when something cannot start."""
        with data_dir.lock(self.directory):
            if backup.interrupted(self.directory):
                raise UsageError(f"a restore of {self.directory} was interrupted: run `cloudcore restore FILE` again")
            async with AsyncExitStack() as stack:
                try:
                    await self._start(stack)
                    self._announce()
                    return await self._until_signal()
                finally:
                    await self.supervisor.close()  # before what its tasks speak to

    async def _until_signal(self) -> int:
        try:
            await self.supervisor.run_until_signal()
        except Exception:
            log.exception("cloudcore stops: a part of it failed")
            return 1
        return 0

    def _announce(self) -> None:
        where = {part: self.addresses.get(part, "") for part in ("api", "broker", "join", "admin")}
        data_dir.write_addresses(self.directory, data_dir.Addresses(pid=os.getpid(), **where))
        self.ready = True
        self.supervisor.listen_for_signals()
        daemon.ready("cloudcore", self.addresses)

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        self.authority = Authority.open_or_create(self.directory / "pki", self.clock)
        self.authority.check_clock()
        self.sql = Sql.open(settings.database_url(self.directory))
        stack.push_async_callback(self.sql.close)
        self.revocations = Revocations(self.sql, self.clock)
        await self.revocations.load()
        access = await self._api(stack)
        client = KubeClient(access)
        stack.push_async_callback(client.close)
        await self._install_crds(client)
        informers = InformerSettings(idle_timeout_s=settings.api.idle_timeout_s)
        cluster = Cluster(client, clock=self.clock, rng=self.rng, metrics=self.metrics, settings=informers)
        backlog = Backlog(settings.nodes.backlog_rows, settings.nodes.backlog_bytes)
        history = History(self.sql, clock=self.clock, metrics=self.metrics, backlog=backlog)
        self.hub = Hub(cluster, self.sql, history, settings, self._changed)
        await self.hub.start(self.supervisor)
        self.supervisor.spawn(history.run_retention(settings.history.keep_days), "retention")
        self.supervisor.spawn(self.revocations.run(), "revocations")
        await self._link(await self._broker(stack))
        await self._kubelets(stack, cluster)
        await self._join(stack)
        await self._admin(stack)
        gauges.register(self.metrics, self.directory, now=self.clock.wall)
        self.supervisor.spawn(self._keep_certificates(), "certificates")
        await self._first_sync(cluster)

    def _changed(self, node: str, key: str) -> None:
        if self.link is not None:
            self.link.changed(node, key)

    async def _api(self, stack: AsyncExitStack) -> config.KubeAccess:
        """Start the embedded API, or read the kubeconfig of another one."""
        api = self.settings.api
        if not self.settings.embedded_api:
            access = config.load(None if api.kubeconfig == "in-cluster" else Path(api.kubeconfig))
            self.addresses["api"] = access.server
            return access
        embedded = await EmbeddedApi.open(
            self.directory,
            self.authority,
            self.revocations,
            api,
            kubelet=self._kubelet_access(),
            clock=self.clock,
            rng=self.rng,
            metrics=self.metrics,
        )
        stack.push_async_callback(embedded.close)
        await embedded.start(self.supervisor)
        port = await self._listen(
            "api", api.host, api.port, lambda: embedded.listen(self._context(require_client=False))
        )
        self.addresses["api"] = f"https://{_local(api.host)}:{port}"
        self._write_kubeconfig()
        own = self._own()
        contexts = tls.client_contexts(own.cert, own.key, self.authority.ca_file)
        return config.KubeAccess(server=f"https://{_local(api.host)}:{port}", context=contexts)

    async def _install_crds(self, client: KubeClient) -> None:
        """Our own API gets our definitions at start; into a real cluster a person puts them, with `crds apply`."""
        if self.settings.embedded_api:
            await crds.apply(client, clock=self.clock, rng=self.rng)

    async def _broker(self, stack: AsyncExitStack) -> Broker:
        options = self.settings.broker
        if not self.settings.embedded_broker:
            self.addresses["broker"] = options.url
            own = self._own()
            return broker.foreign(
                options,
                ca=self.authority.ca_file,
                cert=own.cert,
                key=own.key,
                clock=self.clock,
                frame_bytes=self.settings.link.frame_bytes,
            )
        embedded = broker.EmbeddedBroker(
            self.directory / "broker.db",
            options,
            BrokerAccess(self.revocations, self.metrics),
            clock=self.clock,
            metrics=self.metrics,
        )
        stack.push_async_callback(embedded.close)
        self.revocations.subscribe(embedded.kick_node)
        context = self._context(require_client=True)
        port = await self._listen("broker", options.host, options.port, lambda: embedded.listen(context))
        self.broker_port = port
        self.addresses["broker"] = f"mqtts://{_local(options.host)}:{port}"
        return embedded.local

    async def _link(self, over: Broker) -> None:
        link = CloudLink(
            over,
            SqlLog(self.sql),
            self.hub.replica,
            self.settings.link,
            clock=self.clock,
            rng=self.rng,
            metrics=self.metrics,
        )
        self.link = self.hub.link = link
        self.revocations.subscribe(lambda node: self._spawn_kick(link, node))
        self.supervisor.spawn(link.run(), "link")

    def _spawn_kick(self, link: CloudLink, node: str) -> None:
        self.supervisor.spawn(link.kick(node, "its certificate was revoked"), f"kick-{node}")

    def _kubelet_access(self) -> KubeletAccess:
        """How the embedded API asks nodes' kubelets: as anybody would, over HTTPS with a client certificate."""
        own, options = self._own(), self.settings.kubelet
        context = tls.client_context(own.cert, own.key, self.authority.ca_file)
        self.supervisor.spawn(tls.Reloading(context, own.cert, own.key, clock=self.clock).run(), "kubelet-certificate")
        # Only the address that we write ourselves: a node says the others.
        types = (type_of(options.address_type, embedded=True),)
        return KubeletAccess(context, types, dial="" if options.advertise else _local(options.host))

    async def _kubelets(self, stack: AsyncExitStack, cluster: Cluster) -> None:
        options = self.settings.kubelet
        assert self.link is not None
        callers = Callers(
            cluster.client, clock=self.clock, foreign_ca=bool(options.client_ca), unwelcome=self._unwelcome
        )
        server = KubeletApi(
            cluster,
            self.link.streams,
            callers.check,
            clock=self.clock,
            metrics=self.metrics,
            unwelcome=self._unwelcome,
        )
        stack.push_async_callback(server.close)
        context = self._context(require_client=False, client_ca=options.client_ca)
        port = await self._listen(
            "kubelet", options.host, options.port, lambda: server.start(options.host, options.port, context)
        )
        self.addresses["kubelet"] = f"https://{_local(options.host)}:{port}"
        embedded, api = self.settings.embedded_api, self.addresses["api"]
        address = address_of(options.address_type, options.advertise, port, embedded=embedded, server=api)
        self.hub.nodes.serve_kubelets(address)

    def _unwelcome(self, certificate: PeerCertificate) -> bool:
        """Whether nobody comes in with this client certificate any more; the serials of another CA are not ours to revoke."""
        if certificate.not_after_s < self.clock.wall().timestamp():
            return True
        ours = not self.settings.kubelet.client_ca
        return ours and self.revocations.is_revoked(certificate.common_name, certificate.serial)

    async def _join(self, stack: AsyncExitStack) -> None:
        options = self.settings.join
        server = JoinServer(
            self.authority,
            self.sql,
            self._told_to_nodes(),
            clock=self.clock,
            metrics=self.metrics,
            revocations=self.revocations,
        )
        stack.push_async_callback(server.close)
        context = self._context(require_client=False)
        port = await self._listen(
            "join", options.host, options.port, lambda: server.start(options.host, options.port, context)
        )
        self.addresses["join"] = f"https://{_local(options.host)}:{port}"

    def _told_to_nodes(self) -> JoinSettings:
        """What a node that joins is told about the broker, and the limits of the endpoint."""
        join, options = self.settings.join, self.settings.broker
        return JoinSettings(
            broker_url=options.url,
            broker_port=self.broker_port or options.port,
            broker_server_name=options.server_name or tls.SERVER_NAME,
            broker_mqtt_version=options.mqtt_version if options.url else 5,
            node_days=join.node_days,
            grace_days=join.grace_days,
            calls_per_s=join.calls_per_s,
            refusals_per_s=join.refusals_per_s,
            refusals_burst=join.refusals_burst,
        )

    async def _admin(self, stack: AsyncExitStack) -> None:
        options = self.settings.admin
        server = Pages(
            status=lambda: status.of(self), unready=self._unready, metrics=self.metrics, clock=self.clock, name="admin"
        )
        stack.push_async_callback(server.close)
        port = await self._listen("admin", options.host, options.port, lambda: server.start(options.host, options.port))
        self.addresses["admin"] = f"{_local(options.host)}:{port}"

    async def _first_sync(self, cluster: Cluster) -> None:
        """Wait a while for the first lists; a real API server that is away is no reason to give up."""
        try:
            async with asyncio.timeout(SYNC_TIMEOUT_S):
                await cluster.wait_settled()
        except TimeoutError:
            lacking = [i.kind.plural for i in cluster.informers if not i.settled.is_set()]
            log.warning("serving before the first list is complete", resources=",".join(lacking))

    def _unready(self) -> str:
        if not self.ready:
            return "starting"
        lacking = [i.kind.plural for i in self.hub.cluster.informers if not i.settled.is_set()]
        return f"not listed yet: {', '.join(lacking)}" if lacking else ""

    # certificates

    def _own(self) -> Pair:
        return self.authority.client_certificate("cloudcore", CLOUD_USER)

    def _names(self) -> list[str]:
        parts = (self.settings.api, self.settings.broker, self.settings.join, self.settings.kubelet)
        hosts = [part.host for part in parts]
        return sorted({*self.settings.api.names, *(h for h in hosts if h not in {"0.0.0.0", "::", ""})})  # noqa: S104

    def _context(self, *, require_client: bool, client_ca: str = "") -> ssl.SSLContext:
        """Return a listener's context whose certificate is swapped when it is renewed; ``client_ca`` "": our own CA."""
        pair = self.authority.server_certificate(self._names())
        ca = Path(client_ca) if client_ca else self.authority.ca_file
        context = tls.server_context(pair.cert, pair.key, ca, require_client=require_client)
        self.supervisor.spawn(tls.Reloading(context, pair.cert, pair.key, clock=self.clock).run(), "certificate-reload")
        return context

    async def _keep_certificates(self) -> None:
        clients = [("cloudcore", CLOUD_USER, ["system:masters"]), ("admin", ADMIN_USER, ["system:masters"])]
        self.supervisor.spawn(self.authority.keep_fresh(self._names(), clients), "certificate-renewal")
        while self.settings.embedded_api:
            await self.clock.sleep(KUBECONFIG_CHECK_S)
            self._write_kubeconfig()

    def _write_kubeconfig(self) -> None:
        try:
            pair = self.authority.client_certificate("admin", ADMIN_USER)
            path = self.directory / data_dir.ADMIN_KUBECONFIG
            kubeconfig.write(path, self.addresses["api"], self.authority.ca_pem, pair, user=ADMIN_USER)
        except OSError as error:
            log.warning("admin.kubeconfig not written", error=error)

    @staticmethod
    async def _listen(what: str, host: str, port: int, start: Callable[[], Any]) -> int:
        try:
            bound: int = await start()
        except SkerryError:
            raise
        except OSError as error:
            raise PortTaken(
                f"{what} cannot listen on {host}:{port} ({error.strerror or error}): stop the other process,"
                f" or use --set {what}.port=PORT"
            ) from error
        return bound


def _local(host: str) -> str:
    """Return the address by which this machine reaches a listener on ``host``."""
    found = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{found}]" if ":" in found else found
