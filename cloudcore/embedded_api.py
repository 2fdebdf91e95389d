"""The Kubernetes API that cloudcore brings along: kubeapi on kube.db, behind TLS, RBAC and the node authorizer."""

import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.x509.oid import NameOID

from cloudcore.broker_access import CLOUD_USER
from cloudcore.certs import ADMIN_GROUP, NODE_GROUP, Authority, CertificateRefused, parse_csr
from cloudcore.device_admission import refuse_impossible_devices, refuse_old_devices
from cloudcore.revocation import Revocations
from cloudcore.settings import Api
from kubeapi import kinds
from kubeapi.access import Access, Authenticator
from kubeapi.audit import AuditSettings
from kubeapi.bootstrap import ensure_api_service
from kubeapi.cel_rules import CelRules
from kubeapi.controllers.builtin import BuiltinControllers
from kubeapi.controllers.csr import SERVING, SigningRequest
from kubeapi.crds import Crds
from kubeapi.http import Limits as HttpLimits
from kubeapi.kubelet import KubeletAccess
from kubeapi.nodeauth import NodeAuthorizer
from kubeapi.objects import Objects
from kubeapi.pod_admission import PodAdmission
from kubeapi.rbac import Rbac
from kubeapi.server import ApiServer, ApiSettings
from kubeapi.service_admission import ServiceAddresses, api_address
from kubeapi.storage_admission import StorageAdmission
from kubeapi.store import Store
from kubeapi.tokens import TokenSigner, open_key
from kubeapi.watchlog import Limits as StoreLimits
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.daemon import Supervisor
from proto.kit.database import Database
from proto.kit.metrics import Metrics

TOKEN_KEY = "service-account.key"  # noqa: S105  a file's name
AUDIT_LOG = "audit.log"
DAY_S = 86_400.0
MAX_DAYS = 365.0


class EmbeddedApi:
    """Everything between kube.db and the socket."""

    def __init__(
        self, options: Api, objects: Objects, server: ApiServer, closing: AsyncExitStack, root_ca: bytes
    ) -> None:
        self._options, self._root_ca = options, root_ca
        self.objects = objects
        self._server = server
        self._closing = closing

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        authority: Authority,
        revocations: Revocations,
        options: Api,
        *,
        kubelet: KubeletAccess | None = None,
        clock: Clock,
        rng: Rng,
        metrics: Metrics,
    ) -> Self:
        """Open the store and compose the server; nothing listens yet. Raises DatabaseDamaged."""
        closing = AsyncExitStack()
        database = Database.open(data_dir / "kube.db")
        closing.push_async_callback(database.close)
        registry = kinds.registry()
        store = await Store.open(
            database, registry, clock, limits=StoreLimits(rows=options.history_rows, bytes=options.history_bytes)
        )
        store.register(metrics)
        crds = Crds(store, registry, clock)
        crds.start()
        hooks = [crds.admit, refuse_old_devices, refuse_impossible_devices]
        hooks += [PodAdmission(store, rng).admit, ServiceAddresses(store, options.service_range).admit]
        hooks += [StorageAdmission(store).admit, CelRules().admit]
        objects = Objects(store, registry, clock, admission=hooks, rng=rng)
        authenticator = Authenticator(
            store,
            registry,
            clock,
            signer=TokenSigner(open_key(data_dir / "pki" / TOKEN_KEY), clock),
            revoked=lambda peer: revocations.is_revoked(peer.common_name, peer.serial),
        )
        access = Access(
            authenticator,
            [NodeAuthorizer(store, registry), Rbac(store)],
            refused=metrics.counter("skerry_cloud_api_refused_total", "Requests that were not allowed", ("reason",)),
        )
        limits = HttpLimits(max_body_bytes=options.max_body_bytes, max_connections=options.max_connections)
        server = ApiServer(
            objects,
            access,
            ApiSettings(limits=limits, kubelet=kubelet, audit=audit_of(data_dir, options)),
            clock=clock,
            sign=lambda asked: sign(authority, asked),
            metrics=metrics,
            rng=rng,
        )
        return cls(options, objects, server, closing, authority.ca_pem)

    async def start(self, supervisor: Supervisor) -> None:
        """Run the built-in controllers until the supervisor ends."""
        controllers = BuiltinControllers(self.objects, run_workloads=self._options.controllers, root_ca=self._root_ca)
        await controllers.start()
        supervisor.spawn(controllers.run(), "kube-controllers")

    async def listen(self, context: ssl.SSLContext) -> int:
        """Serve; returns the bound port. Raises OSError."""
        port = await self._server.start(self._options.host, self._options.port, context)
        address = api_address(self._options.service_range)
        await ensure_api_service(self.objects, address, self._options.host, port)
        return port

    async def close(self) -> None:
        await self._server.close()
        await self._closing.aclose()


def audit_of(data_dir: Path, options: Api) -> AuditSettings | None:
    """Return how the API is audited, None: not at all."""
    if not options.audit:
        return None
    return AuditSettings(
        Path(options.audit_path) if options.audit_path else data_dir / AUDIT_LOG,
        max_bytes=options.audit_bytes,
        files=options.audit_files,
        reads=options.audit_reads,
        reporters=frozenset({CLOUD_USER}),
    )


def sign(authority: Authority, asked: SigningRequest) -> bytes:
    """Sign an approved CertificateSigningRequest. Raises CertificateRefused, MalformedMessage.

    Nodes get theirs from the join endpoint, where tokens and revocation live, so their group is not given here.
    """
    csr = parse_csr(asked.request)
    days = min(asked.lifetime.total_seconds() / DAY_S, MAX_DAYS)
    groups = _names(csr, NameOID.ORGANIZATION_NAME)
    user = _names(csr, NameOID.COMMON_NAME)
    if asked.signer == SERVING:
        return authority.sign_csr(asked.request, user=asked.username, days=days, sans=_sans(csr)).pem
    if len(user) != 1:
        raise CertificateRefused("the request must name one user as its common name")
    if user[0].startswith(
        "system:"
    ):  # reserved: a broker that knows only the common name would take it for the part itself
        raise CertificateRefused(f"a certificate for {user[0]} is not signed by request")
    refused = {ADMIN_GROUP, NODE_GROUP} & set(groups)
    if refused:
        raise CertificateRefused(f"a certificate for group {refused.pop()} is not signed by request")
    return authority.sign_csr(asked.request, user=user[0], groups=groups, days=days).pem


def _names(csr: x509.CertificateSigningRequest, kind: x509.ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in csr.subject.get_attributes_for_oid(kind)]


def _sans(csr: x509.CertificateSigningRequest) -> list[str]:
    try:
        found = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise CertificateRefused("a server's request must carry subject alternative names") from error
    return [str(name.value) for name in found]
