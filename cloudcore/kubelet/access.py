"""Who may call the kubelet API: a client certificate or a bearer token, and the API server's word about nodes/….

The API server itself is let through by its certificate; everybody else is looked up there, as a kubelet does in webhook mode.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cloudcore.certs import ADMIN_GROUP
from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import ApiRefused
from cloudcore.kube.resources import Kind
from kubeapi.http import PeerCertificate, Request
from proto.calls import CallRefused
from proto.kit.clock import Clock

TOKEN_REVIEW = Kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
ACCESS_REVIEW = Kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
API_SERVER = "kube-apiserver-kubelet-client"  # the common name that kubeadm gives it
AUTHENTICATED = "system:authenticated"
KNOWN_S = 10.0  # how long a yes of the API server is believed
MAX_KNOWN = 2048
VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
SUBRESOURCES = {"stats": "stats", "metrics": "metrics", "logs": "log", "containerLogs": "proxy"}

Unwelcome = Callable[[PeerCertificate], bool]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. ``trusted``: the API server itself."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    trusted: bool = False


class Callers:
    """Authentication and authorization. ``foreign_ca``: client certificates are signed by somebody else's CA."""

    def __init__(self, client: KubeClient, *, clock: Clock, foreign_ca: bool, unwelcome: Unwelcome) -> None:
        self._client = client
        self._clock = clock
        self._foreign_ca = foreign_ca
        self.unwelcome = unwelcome
        self._callers: dict[str, tuple[float, Caller]] = {}
        self._allowed: dict[tuple[Caller, str, str, str], float] = {}

    async def check(self, request: Request, node: str, path: str) -> None:
        """Return when the request may go on to ``node``. Raises CallRefused 401, 403, and ApiUnavailable."""
        caller = await self._caller(request)
        if caller.trusted:
            return
        verb = VERBS.get(request.method, "get")
        subresource = SUBRESOURCES.get(path, "proxy")
        asked = (caller, verb, subresource, node)
        now_s = self._clock.now_s()
        if self._allowed.get(asked, 0.0) > now_s:
            return
        if not await self._may(caller, verb, subresource, node):
            text = f"Forbidden (user={caller.name}, verb={verb}, resource=nodes, subresource={subresource})"
            raise CallRefused(403, "Forbidden", text)
        if len(self._allowed) >= MAX_KNOWN:
            self._allowed.clear()
        self._allowed[asked] = now_s + KNOWN_S

    async def _caller(self, request: Request) -> Caller:
        certificate = request.certificate
        if certificate is not None and certificate.common_name:
            if self.unwelcome(certificate):
                raise CallRefused(401, "Unauthorized", "Unauthorized: the client certificate is revoked or has expired")
            return self._by_certificate(certificate)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise CallRefused(401, "Unauthorized", "Unauthorized")
        return await self._by_token(token.strip())

    def _by_certificate(self, certificate: PeerCertificate) -> Caller:
        groups = certificate.organizations
        # With our own CA the name alone proves nothing: anybody may have had it signed by request.
        server = self._foreign_ca and certificate.common_name == API_SERVER
        trusted = server or ADMIN_GROUP in groups
        return Caller(certificate.common_name, (*groups, AUTHENTICATED), trusted=trusted)

    async def _by_token(self, token: str) -> Caller:
        key = hashlib.sha256(token.encode()).hexdigest()
        until_s, known = self._callers.get(key, (0.0, Caller("")))
        if until_s > self._clock.now_s():
            return known
        review = await self._ask(TOKEN_REVIEW, {"token": token})
        user = review.get("user") or {}
        if review.get("authenticated") is not True or not user.get("username"):
            raise CallRefused(401, "Unauthorized", "Unauthorized")
        caller = Caller(str(user["username"]), tuple(user.get("groups") or ()), str(user.get("uid") or ""))
        if len(self._callers) >= MAX_KNOWN:
            self._callers.clear()
        self._callers[key] = (self._clock.now_s() + KNOWN_S, caller)
        return caller

    async def _may(self, caller: Caller, verb: str, subresource: str, node: str) -> bool:
        wanted = {
            "verb": verb,
            "group": "",
            "version": "v1",
            "resource": "nodes",
            "subresource": subresource,
            "name": node,
        }
        spec: dict[str, Any] = {"user": caller.name, "groups": list(caller.groups), "resourceAttributes": wanted}
        if caller.uid:
            spec["uid"] = caller.uid
        return (await self._ask(ACCESS_REVIEW, spec)).get("allowed") is True

    async def _ask(self, kind: Kind, spec: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}, "spec": spec}
        try:
            answer = await self._client.create(kind, "", body)
        except ApiRefused as error:
            text = f"the API server does not let cloudcore ask about callers: {error}"
            raise CallRefused(503, "ServiceUnavailable", text) from error
        status = answer.get("status")
        return status if isinstance(status, dict) else {}


Check = Callable[[Request, str, str], Awaitable[None]]
