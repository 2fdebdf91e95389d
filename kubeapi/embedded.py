"""The whole API in one call, as cloudcore embeds it: store, kinds, CRDs, access, controllers, server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kubeapi.access import Access, Authenticator, User
from kubeapi.controllers.csr import Sign
from kubeapi.crds import Crds
from kubeapi.http import PeerCertificate
from kubeapi.kinds import registry
from kubeapi.nodeauth import NodeAuthorizer
from kubeapi.objects import Objects
from kubeapi.rbac import Rbac
from kubeapi.routes.documents import Check
from kubeapi.server import ApiServer, ApiSettings
from kubeapi.store import Limits as StoreLimits
from kubeapi.store import Store
from kubeapi.tokens import TokenSigner
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.database import Database
from proto.kit.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Identity:
    """Who may come in. ``token_key`` signs service-account tokens (``kubeapi.tokens.open_key``); None makes none."""

    token_key: bytes | None = None
    static_tokens: Mapping[str, User] = field(default_factory=dict)
    revoked: Callable[[PeerCertificate], bool] = lambda _: False
    sign: Sign | None = None


async def open_api(
    db: Database,
    *,
    clock: Clock,
    identity: Identity | None = None,
    settings: ApiSettings | None = None,
    store_limits: StoreLimits | None = None,
    metrics: Metrics | None = None,
    rng: Rng | None = None,
    checks: dict[str, Check] | None = None,
) -> ApiServer:
    """Return an API over ``db``, ready to ``start``. Close the server first, then ``db``. Raises what the store raises."""
    identity = identity or Identity()
    metrics = metrics or Metrics()
    kinds = registry()
    store = await Store.open(db, kinds, clock, limits=store_limits)
    crds = Crds(store, kinds, clock)
    crds.start()
    objects = Objects(store, kinds, clock, admission=[crds.admit], rng=rng)
    signer = TokenSigner(identity.token_key, clock) if identity.token_key is not None else None
    authenticator = Authenticator(
        store, kinds, clock, signer=signer, static_tokens=identity.static_tokens, revoked=identity.revoked
    )
    refused = metrics.counter("skerry_kube_refused_total", "API requests refused, by reason", ("reason",))
    access = Access(authenticator, [Rbac(store), NodeAuthorizer(store, kinds)], refused=refused)
    return ApiServer(
        objects, access, settings, clock=clock, sign=identity.sign, metrics=metrics, rng=rng, checks=checks
    )
