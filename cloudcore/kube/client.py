"""Requests to an API server: plain dicts in, plain dicts out, errors by class."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import msgspec

from cloudcore.kube.config import KubeAccess
from cloudcore.kube.errors import ApiUnavailable, from_status
from cloudcore.kube.resources import Kind
from proto.kit import canonical
from proto.kit.errors import Retryable
from proto.kit.httpclient import HttpClient, HttpLimits, Stream

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML
USER_AGENT = "cloudcore"

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class KubeClient:
    """One API server, as one user. Raises ApiUnavailable, ApiRefused (NotFound, Conflict, Gone), HttpUntrusted."""

    def __init__(self, access: KubeAccess, *, limits: HttpLimits | None = None) -> None:
        self.server = access.server
        self._token, self._token_blocks = access.token, access.token_blocks
        self._http = HttpClient(
            access.server, tls=access.context, server_hostname=access.server_hostname, limits=limits
        )

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        return await self._send("GET", kind.path(namespace, name))

    async def list(self, kind: Kind, query: Mapping[str, str] | None = None, namespace: str = "") -> dict[str, Any]:
        """Return one page: the List object as the server sent it."""
        return await self._send("GET", kind.path(namespace or None) + _query(query))

    async def create(self, kind: Kind, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._send("POST", kind.path(namespace), body)

    async def update(self, kind: Kind, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._send("PUT", kind.path(namespace, name), body)

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Any, *, content_type: str, subresource: str = ""
    ) -> dict[str, Any]:
        return await self._send("PATCH", kind.path(namespace, name, subresource), patch, content_type)

    async def apply(
        self, kind: Kind, namespace: str, name: str, body: dict[str, Any], *, manager: str
    ) -> dict[str, Any]:
        """Make the object say ``body`` (server-side apply): fields that ``manager`` does not name any more go, others' stay."""
        path = kind.path(namespace, name) + _query({"fieldManager": manager, "force": "true"})
        return await self._send("PATCH", path, body, APPLY_PATCH)

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        grace_s: int | None = None,
        propagation: str = "",
    ) -> dict[str, Any]:
        """Delete; ``uid`` and ``resource_version`` are preconditions: another state raises Conflict. ``grace_s`` 0: at once."""
        given = {"uid": uid, "resourceVersion": resource_version}
        conditions = {name: value for name, value in given.items() if value}
        options: dict[str, Any] = {"preconditions": conditions} if conditions else {}
        if propagation:
            options["propagationPolicy"] = propagation
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        body = {"kind": "DeleteOptions", "apiVersion": "v1", **options} if options else None
        return await self._send("DELETE", kind.path(namespace, name), body)

    async def raw(self, method: str, path: str) -> dict[str, Any]:
        """Ask for a path that is no resource, such as ``/version``."""
        return await self._send(method, path)

    @asynccontextmanager
    async def watch(self, kind: Kind, query: Mapping[str, str], *, idle_timeout_s: float) -> AsyncIterator[Stream]:
        """Open a watch; the stream's chunks are JSON lines. Raises what a request raises, Gone among them."""
        path = kind.path() + _query({**query, "watch": "1"})
        try:
            async with self._http.stream(
                "GET", path, headers=await self._headers(), idle_timeout_s=idle_timeout_s
            ) as stream:
                if stream.status != 200:
                    raise from_status(stream.status, _parse(await stream.read()), f"watch {kind.plural}")
                yield stream
        except Retryable as error:
            raise ApiUnavailable(f"watch {kind.plural}: {error}") from error

    async def close(self) -> None:
        await self._http.close()

    async def _send(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        headers = await self._headers()
        encoded = b""
        if body is not None:
            encoded = _encoder.encode(body)
            headers["content-type"] = content_type
        try:
            response = await self._http.request(method, path, headers=headers, body=encoded)
        except Retryable as error:
            raise ApiUnavailable(f"{method} {path}: {error}") from error
        parsed = _parse(response.body)
        if response.status >= 300:
            raise from_status(response.status, parsed, f"{method} {path}")
        if not isinstance(parsed, dict):
            raise ApiUnavailable(f"{method} {path}: the answer is no JSON object")
        return parsed

    async def _headers(self) -> dict[str, str]:
        """Raises ApiUnavailable."""
        headers = {"accept": "application/json", "user-agent": USER_AGENT}
        if self._token is not None:
            try:
                token = await asyncio.to_thread(self._token) if self._token_blocks else self._token()
            except Exception as error:  # a file that is being replaced, a plugin that fails: asked again next time
                raise ApiUnavailable(f"no token for the API server: {error}") from error
            headers["authorization"] = f"Bearer {token}"
        return headers


def _query(query: Mapping[str, str] | None) -> str:
    return "?" + urlencode(query) if query else ""


def _parse(body: bytes) -> Any:
    try:
        return _decoder.decode(body) if body else {}
    except canonical.UNREADABLE:
        return None
