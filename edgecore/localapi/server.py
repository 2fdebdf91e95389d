"""The node-local Kubernetes API: kubeapi over the edge's own store, with the node's own CA, tokens and rights."""

import ssl
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Self

from edgecore.data_dir import DataDir
from edgecore.enrol import KeyFailed
from edgecore.localapi import address
from edgecore.localapi.access import NodeRights
from edgecore.localapi.admission import belongs_to
from edgecore.localapi.certificates import Certificates
from edgecore.localapi.journal import Journal
from edgecore.localapi.peers import Peers, RunningAddresses
from edgecore.localapi.settings import LocalApiSettings
from kubeapi.access import Access, Authenticator
from kubeapi.controllers.expiry import EventExpiry
from kubeapi.http import Answer, Limits, Request
from kubeapi.objects import Objects
from kubeapi.rbac import Rbac
from kubeapi.server import ApiServer, ApiSettings
from kubeapi.store import Store
from kubeapi.tokens import TokenSigner, open_key
from proto.calls import OpenCall
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.daemon import Supervisor
from proto.kit.errors import SkerryError, UsageError
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.kit.tls import Reloading, server_context

TOKEN_KEY = "service-account.key"  # noqa: S105  a file's name

TRY_AGAIN_S = 30.0

log = Logger("local-api")


class LocalApi:
    """``objects`` is the store behind the API's rules, for whoever writes as a user does. ``port`` is set by ``start``."""

    def __init__(
        self,
        directory: DataDir,
        node: str,
        settings: LocalApiSettings,
        objects: Objects,
        server: ApiServer,
        peers: Peers,
        *,
        clock: Clock,
    ) -> None:
        self.objects = objects
        self.port = 0
        self.pod_address = ""  # where pods reach it; "" while they cannot
        self._settings, self._server, self._peers, self._clock = settings, server, peers, clock
        addresses = [host for host in (settings.host, settings.pod_address) if _is_address(host)]
        self._certificates = Certificates(directory, node, addresses, clock)
        self._added = False

    @classmethod
    def open(  # noqa: PLR0913  composition
        cls,
        directory: DataDir,
        node: str,
        settings: LocalApiSettings,
        store: Store,
        journal: Journal,
        *,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
        open_call: OpenCall | None = None,
        pod_addresses: RunningAddresses = tuple,
    ) -> Self:
        """Compose it; nothing listens yet. ``pod_addresses`` are those from which pods may call. Raises OSError."""
        objects = Objects(
            store,
            store.registry,
            clock,
            admission=[belongs_to(node, store, rng)],
            rng=rng,
            need_namespaces=False,
            record=journal.record,
        )
        directory.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
        signer = TokenSigner(open_key(directory.pki / TOKEN_KEY), clock)
        refused = metrics.counter(
            "skerry_edge_local_api_refused_total", "Requests to the node-local API that were not allowed", ("reason",)
        )
        access = Access(
            Authenticator(store, store.registry, clock, signer=signer, anonymous=False),
            [NodeRights(node), Rbac(store)],
            refused=refused,
        )
        limits = Limits(max_connections=settings.max_connections)
        server = ApiServer(
            objects,
            access,
            ApiSettings(limits=limits, bootstrap=False, open_call=open_call),
            clock=clock,
            metrics=metrics,
            rng=rng,
        )
        return cls(directory, node, settings, objects, server, Peers(store, pod_addresses), clock=clock)

    async def start(self, supervisor: Supervisor) -> None:
        """Make the certificates and listen. Raises SkerryError naming the address and the setting.

        A node that cannot make a certificate now, as on a full disk, runs its pods all the same and tries again.
        """
        try:
            context = await self._context()
        except (KeyFailed, UsageError, OSError) as error:
            log.warning("the node-local API has no certificate", error=error)
            supervisor.spawn(self._start_later(supervisor), "local-api-later")
            return
        await self._listen(supervisor, context)

    async def _start_later(self, supervisor: Supervisor) -> None:
        while True:
            await self._clock.sleep(TRY_AGAIN_S)
            try:
                await self._listen(supervisor, await self._context())
            except (SkerryError, OSError) as error:
                log.debug("the node-local API cannot start yet", error=error)
            else:
                log.info("the node-local API serves", port=self.port)
                return

    async def _listen(self, supervisor: Supervisor, context: ssl.SSLContext) -> None:
        settings = self._settings
        try:
            self.port = await self._server.start(settings.host, settings.port, context)
        except OSError as error:
            raise SkerryError(
                f"the node-local API cannot listen on {settings.host}:{settings.port} ({error.strerror or error});"
                " stop the other process or set local_api.port"
            ) from error
        if settings.pod_address:
            self._claim()
            try:
                await self._server.start(settings.pod_address, self.port, context, allows=self._peers.allows)
                self.pod_address = settings.pod_address
            except OSError as error:
                log.warning("pods cannot reach the node-local API", address=settings.pod_address, error=error.strerror)
        reloading = Reloading(context, self._certificates.certificate, self._certificates.key, clock=self._clock)
        supervisor.spawn(reloading.run(), "local-api-reload")
        supervisor.spawn(self._certificates.run(), "local-api-certificates")
        supervisor.spawn(EventExpiry(self.objects).run(), "local-api-events")

    async def handle(self, request: Request) -> Answer:
        """Answer one request, as if it had come through the socket."""
        return await self._server.handle(request)

    def summary(self) -> dict[str, Any]:
        """Return where it answers."""
        return {"port": self.port, "pod_address": self.pod_address}

    async def close(self) -> None:
        """Stop serving, and take the address back that was put on the loopback interface."""
        await self._server.close()
        if self._added:
            with suppress(OSError):
                address.remove(self._settings.pod_address)

    async def _context(self) -> ssl.SSLContext:
        files = self._certificates
        await files.ensure()
        try:
            return server_context(files.certificate, files.key, files.ca)
        except UsageError:  # a crash between key and certificate leaves a pair that is none
            files.certificate.unlink(missing_ok=True)
            await files.ensure()
            return server_context(files.certificate, files.key, files.ca)

    def _claim(self) -> None:
        wanted = self._settings.pod_address
        try:
            self._added = address.ensure(wanted)
        except (OSError, ValueError) as error:
            if not address.is_here(wanted):
                log.warning("the pods' address of the node-local API is not here", address=wanted, error=error)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
