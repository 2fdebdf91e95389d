"""Paths that are about no object: version, health, discovery, OpenAPI, metrics."""

import platform
import re
from collections.abc import Callable

from kubeapi.discovery import AGGREGATED, Discovery, Document
from kubeapi.errors import ApiError, unknown_resource
from kubeapi.http import Request, Response
from kubeapi.openapi import OpenApi
from kubeapi.routes.negotiation import JSON, pretty, wanted
from kubeapi.stored import encode
from proto.kit.metrics import Metrics

VERSION = "v1.33.1"  # of the schemas
BUILT_AT = "2025-05-15T00:00:00Z"
HEALTH = ("healthz", "livez", "readyz")
YEAR_S = 365 * 86400
FAR = "Thu, 31 Dec 2099 23:59:59 GMT"

# kubectl asks for this when v3 knows nothing of a kind, and says "no matches for kind" only after an answer: one that
# describes nothing, in gnostic's protobuf (1 swagger, 2 info {1 title, 2 version}, 8 paths).
SPEC_V2 = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
EMPTY_V2 = b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1\x42\x00"

Check = Callable[[], str]  # "" when well, else the sentence that says why not


class Documents:
    """Answers the paths outside the objects."""

    def __init__(
        self,
        discovery: Discovery,
        openapi: OpenApi,
        *,
        metrics: Metrics | None,
        checks: dict[str, Check],
        version: str = VERSION,
    ) -> None:
        self._discovery, self._openapi = discovery, openapi
        self._metrics, self._checks = metrics, checks
        self._version = encode(version_body(version))

    def answer(self, request: Request, segments: list[str]) -> Response:
        """Return the document at ``segments``. Raises 404, 405, 406."""
        if request.method not in ("GET", "HEAD"):
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        first = segments[0] if segments else ""
        if first in ("api", "apis"):
            return self._discover(request, segments)
        if first == "openapi":
            return self._describe(request, segments[1:])
        if first in HEALTH:
            return self._health(request, first, segments[1:])
        if segments == ["version"]:
            return Response(200, JSON, body=pretty(request, self._version))
        if segments == ["metrics"] and self._metrics is not None:
            return Response(200, "text/plain; version=0.0.4; charset=utf-8", body=self._metrics.render().encode())
        if not segments:
            paths = [
                "/api",
                "/apis",
                "/healthz",
                "/livez",
                "/metrics",
                "/openapi/v2",
                "/openapi/v3",
                "/readyz",
                "/version",
            ]
            return Response(200, JSON, body=pretty(request, encode({"paths": paths})))
        raise unknown_resource()

    def _discover(self, request: Request, segments: list[str]) -> Response:
        accept = request.headers.get("accept", "")
        asked = AGGREGATED.search(accept) if len(segments) == 1 else None
        if asked is not None:
            version = asked[1]
            document = self._discovery.aggregated(core=segments[0] == "api", version=version)
            kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            return _cached(request, document, kind)
        wanted(accept)
        found: Document | None = None
        if segments == ["api"]:
            found = self._discovery.core_versions(request.headers.get("host", ""))
        elif segments == ["apis"]:
            found = self._discovery.groups()
        elif segments[0] == "api" and len(segments) == 2:
            found = self._discovery.resources("", segments[1])
        elif segments[0] == "apis" and len(segments) == 2:
            found = self._discovery.group(segments[1])
        elif segments[0] == "apis" and len(segments) == 3:
            found = self._discovery.resources(segments[1], segments[2])
        if found is None:
            raise unknown_resource()
        return _cached(request, found, JSON)

    def _describe(self, request: Request, rest: list[str]) -> Response:
        if rest == ["v2"]:
            accept = request.headers.get("accept", "")
            if accept == SPEC_V2:
                return Response(200, SPEC_V2.replace("@", "."), body=EMPTY_V2)  # Go reads no "@" in a media type
            wanted(accept)
            return Response(200, JSON, body=self._openapi.v2())
        if rest == ["v3"]:
            return Response(200, JSON, body=self._openapi.index())
        if len(rest) < 2 or rest[0] != "v3":
            raise unknown_resource()
        path = "/".join(rest[1:])
        digest = self._openapi.hash_of(path)
        if digest is None:
            raise unknown_resource()
        asked = (re.search(r"(?:^|&)hash=([0-9A-Fa-f]*)", request.query_string) or ["", ""])[1]
        if asked and asked != digest:
            location = f"/openapi/v3/{path}?hash={digest}"
            return Response(301, "", headers=[("Location", location), ("Cache-Control", "no-cache, private")])
        response = _cached(request, (self._openapi.document(path), f'"{digest}"'), JSON)
        if asked:
            lasting = [("Cache-Control", f"public, immutable, max-age={YEAR_S}"), ("Expires", FAR)]
            response.headers = [h for h in response.headers if h[0] != "Cache-Control"] + lasting
        return response

    def _health(self, request: Request, kind: str, rest: list[str]) -> Response:
        problems = {name: check() for name, check in self._checks.items() if not rest or rest == [name]}
        failed = {name: text for name, text in problems.items() if text}
        if not failed and "verbose" not in request.query_string:
            return Response(200, "text/plain; charset=utf-8", body=b"ok")
        lines = [f"[-]{name} failed: {text}" if text else f"[+]{name} ok" for name, text in problems.items()]
        verdict = f"{kind} check {'failed' if failed else 'passed'}"
        return Response(
            500 if failed else 200, "text/plain; charset=utf-8", body="\n".join([*lines, verdict, ""]).encode()
        )


def version_body(version: str) -> dict[str, str]:
    """Return all nine fields of ``/version``; strict clients refuse a partial one."""
    major, minor = version.removeprefix("v").split(".")[:2]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{version}+skerry",
        "gitCommit": "0" * 40,
        "gitTreeState": "clean",
        "buildDate": BUILT_AT,
        "goVersion": "go1.22.12",
        "compiler": "gc",
        "platform": f"linux/{machine}",
    }


def _cached(request: Request, document: Document, kind: str) -> Response:
    body, tag = document
    headers = [("ETag", tag), ("Vary", "Accept"), ("Cache-Control", "no-cache, private")]
    if tag in [part.strip() for part in request.headers.get("if-none-match", "").split(",")]:
        return Response(304, "", headers=headers)
    return Response(200, kind, headers=headers, body=pretty(request, body) if kind == JSON else body)
