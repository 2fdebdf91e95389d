"""Who asks, and whether they may: authentication and the order of the authorizers.

A client certificate names a user by its CN and groups by its O; a bearer token is a static one or a service account's.
Authorizers are asked in turn; the first that allows wins. ``system:masters`` may do everything.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kubeapi.errors import ApiError
from kubeapi.http_parser import PeerCertificate, Request
from kubeapi.resources import Registry
from kubeapi.store import Store
from kubeapi.tokens import BadToken, TokenSigner
from proto.kit.clock import Clock
from proto.kit.metrics import Counter

AUTHENTICATED, UNAUTHENTICATED, MASTERS = "system:authenticated", "system:unauthenticated", "system:masters"
NODES, NODE_PREFIX = "system:nodes", "system:node:"
ACCOUNT_PREFIX, ACCOUNTS = "system:serviceaccount:", "system:serviceaccounts"
POD_NAME, POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True, slots=True)
class User:
    """Who a request is from."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """The node that this user is, "" for everybody else."""
        return self.name.removeprefix(NODE_PREFIX) if NODES in self.groups and self.name.startswith(NODE_PREFIX) else ""

    def body(self) -> dict[str, Any]:
        """Return the ``userInfo`` of reviews."""
        out: dict[str, Any] = {"username": self.name, "uid": self.uid, "groups": list(self.groups)}
        if self.extra:
            out["extra"] = {key: list(values) for key, values in self.extra.items()}
        return {key: value for key, value in out.items() if value}


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))
INTERNAL = User("system:apiserver", (MASTERS, AUTHENTICATED))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request wants, as authorizers see it. ``path`` is set for requests that are about no resource."""

    user: User
    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)  # equality requirements of the field selector

    def sentence(self) -> str:
        """Return why it was refused, in Kubernetes' words."""
        if self.path:
            return f'User "{self.user.name}" cannot {self.verb} path "{self.path}"'
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        scope = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return f'User "{self.user.name}" cannot {self.verb} resource "{resource}" in API group "{self.group}" {scope}'

    def refusal(self) -> ApiError:
        """Return 403 for this request."""
        if self.path:
            return ApiError(403, "Forbidden", f"forbidden: {self.sentence()}", {})
        qualified = f"{self.resource}.{self.group}" if self.group else self.resource
        shown = qualified + (f' "{self.name}"' if self.name else "")
        details = {"name": self.name, "group": self.group, "kind": self.resource}
        return ApiError(
            403, "Forbidden", f"{shown} is forbidden: {self.sentence()}", {k: v for k, v in details.items() if v}
        )


class Authorizer(Protocol):
    """Says why a request is allowed; "" has no opinion."""

    def allows(self, wanted: Attributes) -> str: ...


class Masters:
    """``system:masters`` may do everything, even with no role left in the store."""

    def allows(self, wanted: Attributes) -> str:
        return f"group {MASTERS}" if MASTERS in wanted.user.groups else ""


class AlwaysAllow:
    """For a store that only its own process can reach."""

    def allows(self, wanted: Attributes) -> str:
        del wanted
        return "everything is allowed"


class Authenticator:
    """Finds the user of a request. ``revoked`` is asked at every request, so a revocation works on open connections."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        *,
        signer: TokenSigner | None = None,
        static_tokens: Mapping[str, User] | None = None,
        revoked: Callable[[PeerCertificate], bool] = lambda _: False,
        anonymous: bool = True,
    ) -> None:
        self.signer = signer
        self._store, self._registry, self._clock = store, registry, clock
        # Looked up by digest, so that no comparison leaks how much of a guess was right.
        self._static = {_digest(token): user for token, user in (static_tokens or {}).items()}
        self._revoked = revoked
        self._anonymous = anonymous

    def authenticate(self, request: Request) -> User:
        """Return who asks. Raises 401."""
        certificate = request.certificate
        if certificate is not None and certificate.common_name:
            return self._by_certificate(certificate)
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer":
                raise unauthorized("only client certificates and bearer tokens are accepted")
            return self.by_token(token.strip())
        if not self._anonymous:
            raise unauthorized("a client certificate or a bearer token is required")
        return ANONYMOUS

    def by_token(self, token: str, audiences: tuple[str, ...] = ()) -> User:
        """Return the user of a bearer token. Raises 401."""
        static = self._static.get(_digest(token))
        if static is not None:
            return _authenticated(static)
        if self.signer is None:
            raise unauthorized("the bearer token is unknown")
        try:
            claims = self.signer.read(token, audiences)
        except BadToken as error:
            raise unauthorized(str(error)) from error
        return self._account(claims)

    def unwelcome(self, certificate: PeerCertificate) -> str:
        """Why nobody comes in with ``certificate`` any more; "" while it is good."""
        if certificate.not_after_s < self._clock.wall().timestamp():
            return "the client certificate has expired"
        return "the client certificate has been revoked" if self._revoked(certificate) else ""

    def _by_certificate(self, certificate: PeerCertificate) -> User:
        why = self.unwelcome(certificate)
        if why:
            raise unauthorized(why)
        return _authenticated(User(certificate.common_name, certificate.organizations))

    def _account(self, claims: dict[str, Any]) -> User:
        bound = claims.get("kubernetes.io") or {}
        namespace, account, pod = bound.get("namespace", ""), bound.get("serviceaccount") or {}, bound.get("pod")
        if not self._lives("serviceaccounts", namespace, account):
            raise unauthorized("the token's service account is gone")
        if pod is not None and not self._lives("pods", namespace, pod):
            raise unauthorized("the token's pod is gone")
        extra = {POD_NAME: (str(pod["name"]),), POD_UID: (str(pod["uid"]),)} if pod else {}
        name = f"{ACCOUNT_PREFIX}{namespace}:{account['name']}"
        groups = (ACCOUNTS, f"{ACCOUNTS}:{namespace}", AUTHENTICATED)
        return User(name, groups, str(account.get("uid", "")), extra)

    def _lives(self, plural: str, namespace: str, bound: Mapping[str, Any]) -> bool:
        res = self._registry.find("", "v1", plural)
        found = self._store.get(res, namespace, str(bound.get("name", ""))) if res is not None else None
        return found is not None and found["metadata"].get("uid") == bound.get("uid")


class Access:
    """Authentication and authorization together, for the server. Decisions of RBAC are cached by RBAC itself."""

    def __init__(
        self, authenticator: Authenticator, authorizers: Iterable[Authorizer], *, refused: Counter | None = None
    ) -> None:
        self.authenticator = authenticator
        self.authorizers: tuple[Authorizer, ...] = (Masters(), *authorizers)
        self._refused = refused

    def user(self, request: Request) -> User:
        """Return who asks, after impersonation where it is allowed. Raises 401, 403."""
        user = self.authenticator.authenticate(request)
        if "impersonate-user" not in request.headers:
            if any(name.startswith("impersonate-") for name in request.headers):
                raise ApiError(400, "BadRequest", "Impersonate-Group and Impersonate-Uid need Impersonate-User")
            return user
        wanted = _impersonated(request.headers)
        account = wanted.name.removeprefix(ACCOUNT_PREFIX).split(":") if wanted.name.startswith(ACCOUNT_PREFIX) else []
        if len(account) == 2:  # it brings its own groups: who may be the account is in them
            namespace, name = account
            self.check(Attributes(user, "impersonate", "", "serviceaccounts", namespace=namespace, name=name))
        else:
            self.check(Attributes(user, "impersonate", "", "users", name=wanted.name))
        for group in _groups(request.headers):
            if group != AUTHENTICATED:
                self.check(Attributes(user, "impersonate", "", "groups", name=group))
        return wanted

    def why(self, wanted: Attributes) -> str:
        """Return why ``wanted`` is allowed, "" when it is not."""
        return next((reason for a in self.authorizers if (reason := a.allows(wanted))), "")

    def check(self, wanted: Attributes) -> None:
        """Return when ``wanted`` is allowed. Raises 403."""
        if not self.why(wanted):
            if self._refused is not None:
                self._refused.inc("forbidden")
            raise wanted.refusal()


def unauthorized(message: str) -> ApiError:
    """401: we do not know you."""
    return ApiError(401, "Unauthorized", f"Unauthorized: {message}")


def _authenticated(user: User) -> User:
    return user if AUTHENTICATED in user.groups else replace(user, groups=(*user.groups, AUTHENTICATED))


def _impersonated(headers: Mapping[str, str]) -> User:
    name = headers["impersonate-user"]
    groups = _groups(headers)
    if name.startswith(ACCOUNT_PREFIX) and not groups and name.count(":") == 3:
        groups = (ACCOUNTS, f"{ACCOUNTS}:{name.split(':')[2]}")
    return _authenticated(User(name, groups, headers.get("impersonate-uid", "")))


def _groups(headers: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(g.strip() for g in headers.get("impersonate-group", "").split(",") if g.strip())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
