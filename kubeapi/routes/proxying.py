"""pods/proxy and services/proxy: HTTP to a port of a pod, through its node's port-forward, so that no pod network is needed."""

from dataclasses import dataclass
from typing import Any

from kubeapi.errors import ApiError, bad_request, not_found
from kubeapi.kubelet import KubeletAnswer, KubeletAway
from kubeapi.objects import Objects
from kubeapi.resources import Resource
from kubeapi.routes.target import Target
from kubeapi.streaming.front import SPDY
from kubeapi.streaming.portforward import SPDY_PROTOCOL, port_number
from kubeapi.streaming.spdy import Data, Reset, SpdyConnection
from kubeapi.streaming.spdy_session import SpdySession
from proto.kit.channels import ChannelsClosed

SPDY_HEAD = [("Connection", "Upgrade"), ("Upgrade", SPDY), ("X-Stream-Protocol-Version", SPDY_PROTOCOL)]
SERVICE_NAME = "kubernetes.io/service-name"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Aim:
    """The pod and its port that a proxied request goes to."""

    pod: Json
    port: int


def split_name(name: str) -> tuple[str, str]:
    """Return (name, port) of ``[http:]name[:port]``. Raises 400."""
    parts = name.split(":")
    if len(parts) == 3:
        if parts[0] not in ("", "http"):
            raise bad_request(f"only http is proxied, not {parts[0][:20]}")
        parts = parts[1:]
    if len(parts) > 2 or not parts[0]:
        raise bad_request(f'invalid name "{name[:80]}": must be name, name:port or http:name:port')
    return parts[0], parts[1] if len(parts) == 2 else ""


def aim(objects: Objects, target: Target) -> Aim:
    """Return what ``target``, a pod or a service, leads to. Raises 400, 404, 503."""
    name, port = split_name(target.name)
    if target.res.plural == "pods":
        pod = objects.get(target.res, target.space, name)
        return Aim(pod, _pod_port(pod, port))
    if target.res.plural == "services":
        return _service_aim(objects, target, objects.get(target.res, target.space, name), port)
    raise ApiError(501, "NotImplemented", f"{target.res.plural}/proxy is not served")


def _pod_port(pod: Json, asked: str) -> int:
    held = [p for c in pod["spec"].get("containers") or () for p in c.get("ports") or ()]
    if not asked:
        asked = str(held[0]["containerPort"]) if held else "80"
    named = next((p["containerPort"] for p in held if p.get("name") == asked), 0)
    found = port_number(asked) or int(named)
    if not found:
        raise bad_request(f'pod {pod["metadata"]["name"]} has no port "{asked[:40]}"')
    return found


def _service_aim(objects: Objects, target: Target, service: Json, asked: str) -> Aim:
    name, ports = service["metadata"]["name"], service["spec"].get("ports") or []
    chosen = [p for p in ports if not asked or asked in (p.get("name"), str(p.get("port")))]
    if not chosen or (not asked and len(ports) > 1):
        raise bad_request(f"service {name} needs one of its ports: {', '.join(str(p.get('port')) for p in ports)}")
    slices, pods = (_resource(objects, *path) for path in (("discovery.k8s.io", "endpointslices"), ("", "pods")))
    for one in objects.store.list(slices, target.space):
        if (one["metadata"].get("labels") or {}).get(SERVICE_NAME) != name:
            continue
        port = next(
            (p.get("port") for p in one.get("ports") or () if p.get("name", "") == chosen[0].get("name", "")), None
        )
        for endpoint in one.get("endpoints") or ():
            ref, condition = endpoint.get("targetRef") or {}, endpoint.get("conditions") or {}
            pod = objects.store.get(pods, target.space, str(ref.get("name", ""))) if ref.get("kind") == "Pod" else None
            if port and pod is not None and condition.get("ready") is not False:
                return Aim(pod, int(port))
    raise ApiError(503, "ServiceUnavailable", f'no endpoints available for service "{name}"')


def _resource(objects: Objects, group: str, plural: str) -> Resource:
    found = objects.registry.find(group, "v1", plural)
    if found is None:
        raise not_found(Resource(group, "v1", plural, plural), plural)
    return found


class SpdySource:
    """A connection through a kubelet's port-forward."""

    def __init__(self, answer: KubeletAnswer) -> None:
        self._answer = answer
        self._session = SpdySession(_Wire(answer), SpdyConnection(client=True))
        self._data = self._error = 0
        self._arrived = bytearray()
        self._ended = False

    async def send(self, port: int, data: bytes) -> None:
        """Open the connection to ``port`` and send a whole request. Raises KubeletAway."""
        headers = {"port": str(port), "requestID": "0"}
        self._error = self._session.spdy.open({"streamType": "error", **headers}, fin=True)
        self._data = self._session.spdy.open({"streamType": "data", **headers})
        try:
            await self._session.send(self._data, data)
        except ChannelsClosed as error:
            raise KubeletAway(str(error)) from error

    async def read(self, size: int) -> bytes:
        """Raises KubeletAway with what the node says on the error stream."""
        while not self._arrived and not self._ended and not self._session.ended:
            try:
                events = await self._session.pull()
            except ChannelsClosed as error:
                raise KubeletAway(str(error)) from error
            for event in events:
                self._take(event)
            await self._session.flush()
        data = bytes(self._arrived[:size])
        del self._arrived[:size]
        return data

    def write(self, data: bytes) -> None:
        """A proxied connection carries one request, and no upgrade."""
        raise NotImplementedError

    async def drain(self) -> None:
        """As ``write``."""
        raise NotImplementedError

    def close(self) -> None:
        self._answer.close()

    def _take(self, event: object) -> None:
        if isinstance(event, Data) and event.stream == self._error and event.data:
            raise KubeletAway(event.data.decode("utf-8", "replace")[:500])
        if isinstance(event, Data) and event.stream == self._data:
            self._arrived += event.data
            self._session.spdy.consumed(event.stream, len(event.data))
            self._ended = event.fin
        elif isinstance(event, Reset) and event.stream == self._data:
            self._ended = True


class _Wire:
    def __init__(self, answer: KubeletAnswer) -> None:
        self._answer = answer

    async def read(self) -> bytes:
        return await self._answer.read()

    async def write(self, data: bytes) -> None:
        self._answer.writer.write(data)
        await self._answer.writer.drain()
