"""The API over HTTPS: one handler that authenticates, authorizes, dispatches, and answers every refusal as a Status."""

import ssl
from dataclasses import dataclass, field
from typing import Any

from kubeapi.access import Access, Attributes, User
from kubeapi.audit import Audit, AuditSettings
from kubeapi.bootstrap import ensure_defaults
from kubeapi.controllers.csr import Sign, SigningController, guard
from kubeapi.discovery import Discovery
from kubeapi.errors import ApiError, method_not_supported, unknown_resource
from kubeapi.http import Answer, HttpServer, Limits, Request, Response, StreamResponse, Upgrade
from kubeapi.http_gate import Allows
from kubeapi.kubelet import KubeletAccess
from kubeapi.nodeauth import node_restriction
from kubeapi.objects import Objects
from kubeapi.openapi import OpenApi
from kubeapi.rbac import Rbac, RbacAdmission
from kubeapi.routes import reads
from kubeapi.routes.connecting import Connecting
from kubeapi.routes.documents import VERSION, Check, Documents
from kubeapi.routes.negotiation import Wanted, answer, read_body, refusal, wanted
from kubeapi.routes.target import METHODS, Target, resolve
from kubeapi.routes.usage import Usage
from kubeapi.routes.virtual import Virtual
from kubeapi.routes.watching import Watches, WatchTimes
from kubeapi.routes.writes import Writes, require_served
from kubeapi.virtual_kinds import CONNECTIONS, USAGE, VIRTUAL
from proto.calls import OpenCall
from proto.kit.backoff import Rng
from proto.kit.clock import Clock, rfc3339_micro
from proto.kit.daemon import Supervisor
from proto.kit.errors import Retryable
from proto.kit.metrics import Metrics

REASONS = {
    400: "BadRequest",
    408: "Timeout",
    413: "RequestEntityTooLarge",
    429: "TooManyRequests",
    431: "RequestHeaderFieldsTooLarge",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How the API serves; ``bootstrap`` False leaves namespaces and default roles to somebody else (the edge).

    Logs, exec and the like go to the pod's node by ``kubelet``; a node's own API has the node at hand: ``open_call``.
    """

    version: str = VERSION
    limits: Limits = field(default_factory=Limits)
    watch: WatchTimes = field(default_factory=WatchTimes)
    bootstrap: bool = True
    kubelet: KubeletAccess | None = None
    open_call: OpenCall | None = None
    audit: AuditSettings | None = None


@dataclass(slots=True)
class _Seen:
    """What became known of a request, for counting and auditing, also when it was refused halfway."""

    verb: str
    plural: str = ""
    user: User | None = None
    wanted: Attributes | None = None


class ApiServer:
    """The Kubernetes API over ``objects``. ``sign`` signs approved CSRs; without it they wait for another signer."""

    def __init__(
        self,
        objects: Objects,
        access: Access,
        settings: ApiSettings | None = None,
        *,
        clock: Clock,
        sign: Sign | None = None,
        metrics: Metrics | None = None,
        rng: Rng | None = None,
        checks: dict[str, Check] | None = None,
    ) -> None:
        self.settings = settings or ApiSettings()
        self.objects, self.access, self.clock = objects, access, clock
        metrics = metrics or Metrics()
        self._requests = metrics.counter(
            "skerry_kube_requests_total", "API requests by verb, resource and status code", ("verb", "resource", "code")
        )
        self._latency = metrics.histogram("skerry_kube_request_seconds", "Time to answer an API request; not watches")
        ended = metrics.counter("skerry_kube_watches_ended_total", "Watches that ended, by reason", ("reason",))
        self._watches = Watches(objects, self.settings.watch, clock=clock, rng=rng or Rng(), ended=ended)
        metrics.gauge("skerry_kube_watches", "Open watches", source=lambda: self._watches.open)
        rbac = next((a for a in access.authorizers if isinstance(a, Rbac)), None)
        self._virtual = Virtual(objects, access, rbac)
        self._writes = Writes(objects, access)
        self._connecting = Connecting(objects, self.settings.kubelet, self.settings.open_call)
        missing = metrics.counter("skerry_kube_usage_missing_total", "Nodes left out of metrics.k8s.io: no answer")
        self._usage = Usage(objects, self._connecting, clock, missing)
        self._documents = Documents(
            Discovery(objects.registry, (*VIRTUAL, *USAGE) if self._connecting.reaches_nodes else VIRTUAL),
            OpenApi(objects.registry, self.settings.version),
            metrics=metrics,
            checks={"ping": lambda: "", **(checks or {})},
            version=self.settings.version,
        )
        objects.admission += [node_restriction, guard, RbacAdmission(objects.store, access.authorizers)]
        self._http = HttpServer(
            self.handle,
            self.settings.limits,
            clock=clock,
            refuse=_refuse,
            metrics=metrics,
            name="kube",
            unwelcome=lambda certificate: bool(access.authenticator.unwelcome(certificate)),
        )
        self._tasks = Supervisor(clock)
        self._audit = Audit(self.settings.audit, clock, metrics) if self.settings.audit is not None else None
        self._signing = SigningController(objects, sign) if sign is not None else None

    async def start(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None, *, allows: Allows | None = None
    ) -> int:
        """Make what every API has at the start, listen, and return the bound port; ``allows`` as in HttpServer. Raises OSError."""
        if self.settings.bootstrap:
            await ensure_defaults(self.objects)
        if self._signing is not None:
            self._tasks.spawn(self._signing.run(), "csr-signing")
        if self._audit is not None:
            self._tasks.spawn(self._audit.run(), "audit")
        return await self._http.start(host, port, ssl_context, allows=allows)

    async def close(self) -> None:
        """Stop serving; requests in progress get a moment."""
        await self._http.close()
        await self._tasks.close()

    async def handle(self, request: Request) -> Answer:
        """Answer one request."""
        started_s = self.clock.now_s()
        seen = _Seen(METHODS.get(request.method, "other"))
        received = rfc3339_micro(self.clock.wall()) if self._audit is not None else ""
        try:
            response = await self._dispatch(request, seen)
        except ApiError as error:
            response = refusal(error)
        except Retryable as error:  # the disk is full, or the store is closing
            response = refusal(ApiError(503, "ServiceUnavailable", str(error), {"retryAfterSeconds": 1}))
        self._requests.inc(seen.verb, seen.plural, str(response.status))
        if self._audit is not None:
            self._audit.record(request, seen.user, seen.wanted, response.status, received)
        if not isinstance(response, StreamResponse | Upgrade):
            self._latency.observe(self.clock.now_s() - started_s)
        return response

    async def _dispatch(self, request: Request, seen: "_Seen") -> Answer:
        user = seen.user = self.access.user(request)
        segments = request.segments()
        first = segments[0] if segments else ""
        if not ((first == "api" and len(segments) > 2) or (first == "apis" and len(segments) > 3)):
            path = "/" + "/".join(segments)
            self.access.check(Attributes(user, METHODS.get(request.method, "get"), path=path))
            return self._documents.answer(request, segments)
        target = resolve(self.objects.registry, request, segments, user)
        seen.verb, seen.plural, seen.wanted = target.verb, target.res.plural, target.attributes()
        self.access.check(seen.wanted)
        require_served(target)
        if target.subresource in CONNECTIONS:
            return await self._connecting.answer(target, request)
        asked = wanted(request.headers.get("accept", ""))
        if target.res in USAGE:
            if not self._connecting.reaches_nodes:
                raise unknown_resource()
            return await self._usage.answer(target, request, asked)
        if target.verb == "watch":
            return self._watches.start(target, asked)
        if target.verb in ("get", "list"):
            serve = reads.get if target.verb == "get" else reads.list_
            return serve(self.objects, target, request, asked, self.clock.wall())
        return await self._write(target, request, asked)

    async def _write(self, target: Target, request: Request, asked: Wanted) -> Response:
        warnings: list[str]
        changed: dict[str, Any]
        status = 200
        if target.verb == "create":
            changed, warnings = await self._create(target, request)
            status = 201
        elif target.verb == "update":
            changed, opts = await self._writes.update(target, request)
            warnings = opts.warnings
        elif target.verb == "patch":
            changed, created, opts = await self._writes.patch(target, request)
            status, warnings = 201 if created else 200, opts.warnings
        elif target.verb == "delete":
            changed, deletion = await self._writes.delete(target, request)
            warnings = deletion.warnings
        else:
            found, deletion = await self._writes.delete_collection(target, request)
            changed = reads.shaped_list(found, asked, target.query, self.clock.wall())
            return answer(request, asked, changed, warnings=deletion.warnings)
        if asked.transform and changed.get("kind") == target.res.kind:
            changed = reads.shaped(target.res, changed, asked, target.query, self.clock.wall())
        return answer(request, asked, changed, status, warnings=warnings)

    async def _create(self, target: Target, request: Request) -> tuple[dict[str, Any], list[str]]:
        if target.res in VIRTUAL:
            return self._virtual.review(target, read_body(request)), []
        if not target.subresource:
            changed, opts = await self._writes.create(target, request)
            return changed, opts.warnings
        body = read_body(request, optional=True)
        if target.subresource == "token":
            return self._virtual.token(target, body), []
        if target.subresource == "eviction":
            return await self._virtual.evict(target, body), []
        if target.subresource == "binding":
            return await self._virtual.bind(target, body), []
        raise method_not_supported(target.res)


def _refuse(status: int, message: str) -> Response:
    return refusal(ApiError(status, REASONS.get(status, "BadRequest"), message))
