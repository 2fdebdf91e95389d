"""A tiny Kubernetes client for tests: paths in, JSON out, over HTTPS with the identity of a kubeconfig."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from cloudcore.kube import config
from proto.kit.httpclient import HttpClient

DEVICES = "/apis/devices.kubeedge.io/v1beta1"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class KubeError(Exception):
    """The API said no: ``status`` is the HTTP code, the text its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Kube:
    """One identity at one API server."""

    def __init__(self, kubeconfig: Path) -> None:
        access = config.load(kubeconfig)
        self._token = access.token
        self._http = HttpClient(access.server, tls=access.context, server_hostname=access.server_hostname)

    async def get(self, path: str) -> dict[str, Any]:
        return await self._send("GET", path)

    async def find(self, path: str) -> dict[str, Any] | None:
        """As ``get``; None when there is no such object."""
        try:
            return await self.get(path)
        except KubeError as error:
            if error.status != 404:
                raise
            return None

    async def list(self, path: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.get(path))["items"]
        return items

    async def apply(self, *objects: dict[str, Any]) -> None:
        """Server-side apply, as ``kubectl apply --server-side``."""
        for each in objects:
            query = urlencode({"fieldManager": "tests", "force": "true"})
            await self._send("PATCH", f"{path_of(each)}?{query}", each, APPLY)

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST to a collection."""
        return await self._send("POST", path, body)

    async def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """JSON merge patch."""
        return await self._send("PATCH", path, body, MERGE)

    async def delete(self, path: str) -> dict[str, Any]:
        return await self._send("DELETE", path)

    async def watch(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield watch events of a collection from its present state on."""
        query = urlencode({"watch": "true"})
        async with self._http.stream("GET", f"{path}?{query}", headers=self._headers()) as stream:
            rest = b""
            async for chunk in stream.chunks():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield msgspec.json.decode(line)

    async def close(self) -> None:
        await self._http.close()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}"} if self._token else {}

    async def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        headers = {"Accept": "application/json", **self._headers()}
        if body is not None:
            headers["Content-Type"] = content_type
        raw = msgspec.json.encode(body) if body is not None else b""
        answer = await self._http.request(method, path, headers=headers, body=raw)
        document: dict[str, Any] = msgspec.json.decode(answer.body) if answer.body else {}
        if answer.status >= 400:
            raise KubeError(answer.status, str(document.get("message", answer.body[:200])))
        return document


PLURALS = {
    "Device": "devices",
    "DeviceModel": "devicemodels",
    "DeviceStatus": "devicestatuses",
    "Namespace": "namespaces",
}
CLUSTER = {"Namespace", "Node"}


def path_of(obj: dict[str, Any]) -> str:
    """The API path of one object."""
    version, kind, metadata = obj["apiVersion"], obj["kind"], obj["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    space = "" if kind in CLUSTER else f"/namespaces/{metadata.get('namespace', 'default')}"
    return f"{root}{space}/{PLURALS.get(kind, kind.lower() + 's')}/{metadata['name']}"
