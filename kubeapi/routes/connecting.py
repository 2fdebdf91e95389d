"""Subresources that a pod's node answers: log, exec, attach, portforward, and the proxies.

In the cloud the request goes on to the node's kubelet endpoint and, after an upgrade, bytes pass both ways untouched. A
node-local API has the node at hand (``open_call``) and serves the client itself. The right that is asked for follows the
method, as in Kubernetes 1.3x: GET, and so every WebSocket, needs ``get``, SPDY's POST needs ``create``.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote, urlencode

import msgspec

from kubeapi.errors import ApiError, bad_request
from kubeapi.http import Answer, Request, Response, StreamResponse, Upgrade
from kubeapi.http_tunnel import Tunnel, TunnelClosed
from kubeapi.http_wire import StreamCut
from kubeapi.kubelet import Endpoint, KubeletAccess, KubeletAnswer, KubeletAway, ask, endpoint
from kubeapi.objects import Objects
from kubeapi.routes.target import Target
from kubeapi.stored import encode
from proto.calls import Call, OpenCall
from proto.kit.channels import STDOUT, Channels, ChannelsClosed

if TYPE_CHECKING:
    from kubeapi.streaming.front import Streamed

TEXT = "text/plain; charset=utf-8"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
LOG_OPTIONS = (
    "follow",
    "previous",
    "timestamps",
    "tailLines",
    "sinceSeconds",
    "sinceTime",
    "limitBytes",
    "stream",
)
FLAGS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}
FORWARDED = (  # of the client's head, to the kubelet
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "user-agent",
    "accept",
    "content-type",
    "if-none-match",
    "range",
)
NOT_RETURNED = frozenset({"connection", "upgrade", "date", "content-length", "transfer-encoding", "content-type"})
MAX_REFUSAL_BYTES = 64 << 10
MAX_SUMMARY_BYTES = 4 << 20
SUMMARY_PATH = "/stats/summary?only_cpu_and_memory=true"
NODE_PROXY, POD_PROXY = 5, 7  # segments up to "proxy"
UPGRADING = frozenset({"upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"})
PATH_SAFE = "/:@!$&'()*+,;=~-._"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes on to: the node and the kubelet's path for it. ``what`` is for people."""

    node: Json
    path: str
    what: str


class Connecting:
    """Answers ``virtual_kinds.CONNECTIONS``. Without kubelets and without a node at hand they are 501."""

    def __init__(self, objects: Objects, kubelet: KubeletAccess | None, open_call: OpenCall | None) -> None:
        self._objects, self._kubelet, self._open_call = objects, kubelet, open_call

    async def answer(self, target: Target, request: Request) -> Answer:
        """Raises 400, 404, 405, 501, 503."""
        if target.subresource == "proxy" and target.res.plural != "nodes":
            return await self._proxied(target, request)
        held = self._objects.get(target.res, target.space, target.name)
        if target.res.plural == "pods" and target.subresource != "proxy":
            if target.subresource == "log" and target.verb != "get":
                raise ApiError(405, "MethodNotAllowed", "a log is read with GET")
            container = "" if target.subresource == "portforward" else chosen_container(held, target)
            if self._open_call is not None:
                return await self._here(target, request, held, container)
            return await self._there(self._pod_place(target, held, container), request)
        if target.res.plural == "nodes":
            return await self._there(Place(held, _proxied_path(request, NODE_PROXY), "endpoints"), request)
        raise ApiError(501, "NotImplemented", f"{target.res.plural}/{target.subresource} is not served")

    @property
    def reaches_nodes(self) -> bool:
        return self._kubelet is not None or self._open_call is not None

    async def summary(self, node: Json) -> bytes:
        """Return the node's kubelet Summary as JSON. Raises Retryable, ApiError, CallRefused."""
        if self._open_call is not None:
            return await _gathered(await self._open_call(Call("stats")))
        at, access = self.endpoint(node)
        answer = await ask(access, at, "GET", SUMMARY_PATH, [("Accept", "application/json")])
        try:
            if answer.status != 200:
                raise KubeletAway(f"the kubelet answered {answer.status}")
            return await answer.text(MAX_SUMMARY_BYTES)
        finally:
            answer.close()

    async def _here(self, target: Target, request: Request, pod: Json, container: str) -> Answer:
        from kubeapi.streaming.front import serve_call  # noqa: PLC0415  a megabyte that a gateway rarely needs

        assert self._open_call is not None
        kind = cast("Streamed", {"log": "logs"}.get(target.subresource, target.subresource))
        name = pod["metadata"]["name"]
        return await serve_call(request, kind, target.space, name, container, self._open_call)

    def _pod_place(self, target: Target, pod: Json, container: str) -> Place:
        node_name = (pod.get("spec") or {}).get("nodeName")
        if not node_name:
            raise bad_request(f"pod {target.name} does not have a host assigned")
        query, sub = target.query, target.subresource
        where = f"{quote(target.space, safe='')}/{quote(target.name, safe='')}"
        fields: list[tuple[str, str]] = []
        if sub == "portforward":
            ports = ",".join(query.all("ports"))
            return Place(
                self.node(node_name), f"/portForward/{where}{_query([('port', ports)] if ports else [])}", "ports"
            )
        if sub == "log":
            fields = [(name, query.text(name)) for name in LOG_OPTIONS if query.text(name)]
            return Place(self.node(node_name), f"/containerLogs/{where}/{quote(container)}{_query(fields)}", "logs")
        fields = [("command", word) for word in query.all("command")] if sub == "exec" else []
        fields += [(there, "1") for here, there in FLAGS.items() if query.flag(here)]
        return Place(self.node(node_name), f"/{sub}/{where}/{quote(container)}{_query(fields)}", "containers")

    def node(self, name: str) -> Json:
        """Return the Node. Raises 503."""
        res = self._objects.registry.find("", "v1", "nodes")
        found = self._objects.store.get(res, "", name) if res is not None else None
        if found is None:
            raise ApiError(503, "ServiceUnavailable", f"node {name} is not known here")
        return found

    async def _there(self, place: Place, request: Request) -> Answer:
        at, access = self.endpoint(place.node)
        headers = [(name, request.headers[name]) for name in FORWARDED if name in request.headers]
        if "upgrade" in request.headers:
            headers.append(("Connection", "Upgrade"))
        offered = request.headers.get("x-stream-protocol-version", "")
        headers += [("X-Stream-Protocol-Version", part.strip()) for part in offered.split(",") if part.strip()]
        try:
            answer = await ask(access, at, request.method, place.path, headers, request.body)
        except KubeletAway as error:
            raise away(place, str(error)) from error
        if answer.status == 101:
            kept = [header for header in answer.headers if header[0] not in NOT_RETURNED]
            return Upgrade(101, headers=kept, protocol=answer.header("upgrade"), serve=_Raw(answer))
        if answer.status >= 400:
            return await _refused(place, answer)
        return _passed(answer)

    async def _proxied(self, target: Target, request: Request) -> Answer:
        """Send a request to a pod's port, through its node's port-forward."""
        from kubeapi.routes import proxying  # noqa: PLC0415  as above

        aimed = proxying.aim(self._objects, target)
        metadata, node_name = aimed.pod["metadata"], aimed.pod["spec"].get("nodeName")
        if not node_name:
            raise bad_request(f"pod {metadata['name']} does not have a host assigned")
        where = f"/portForward/{quote(metadata['namespace'], safe='')}/{quote(metadata['name'], safe='')}"
        place = Place(self.node(node_name), where, "ports")
        at, access = self.endpoint(place.node)
        try:
            opened = await ask(access, at, "POST", where, proxying.SPDY_HEAD)
        except KubeletAway as error:
            raise away(place, str(error)) from error
        if opened.status != 101:
            return await _refused(place, opened)
        source = proxying.SpdySource(opened)
        inner = KubeletAnswer(source, source)
        try:
            async with asyncio.timeout(access.answer_timeout_s):
                await source.send(aimed.port, _head(request, metadata["name"], aimed.port) + request.body)
                await inner.begin()
        except (KubeletAway, TimeoutError) as error:
            opened.close()
            reason = str(error) or "it does not answer"
            text = f"port {aimed.port} of pod {metadata['name']} cannot be asked: {reason}"
            raise ApiError(503, "ServiceUnavailable", text) from error
        return _passed(inner)

    def endpoint(self, node: Json) -> tuple[Endpoint, KubeletAccess]:
        """Return where the node's kubelet is and how it is asked. Raises 501, 503."""
        if self._kubelet is None:
            raise ApiError(501, "NotImplemented", "this server was given no way to reach kubelets")
        return endpoint(node, self._kubelet.address_types), self._kubelet


async def _gathered(channels: Channels) -> bytes:
    """Return everything on STDOUT. Raises ChannelsClosed."""
    out = bytearray()
    try:
        while (chunk := await channels.read()) is not None:
            out += chunk.data if chunk.channel == STDOUT else b""
            if len(out) > MAX_SUMMARY_BYTES:
                raise ChannelsClosed(f"the summary is larger than {MAX_SUMMARY_BYTES} bytes")
    finally:
        await channels.close()
    return bytes(out)


class _Raw:
    """Bytes both ways until either side ends."""

    def __init__(self, answer: KubeletAnswer) -> None:
        self._answer = answer

    async def __call__(self, tunnel: Tunnel) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                upwards = group.create_task(self._send(tunnel), name="kubelet-send")
                with suppress(TunnelClosed):
                    while data := await self._answer.read():
                        await tunnel.write(data)
                upwards.cancel()
        finally:
            self._answer.close()

    async def _send(self, tunnel: Tunnel) -> None:
        with suppress(OSError):
            while data := await tunnel.read():
                self._answer.writer.write(data)
                await self._answer.writer.drain()
        self._answer.close()


class _Body:
    """The kubelet's body. Closes its connection also when nothing of it was read."""

    def __init__(self, answer: KubeletAnswer) -> None:
        self._answer = answer
        self._pieces = answer.body()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except KubeletAway as error:
            raise StreamCut(str(error)) from error

    async def aclose(self) -> None:
        async with aclosing(cast("Any", self._pieces)):
            self._answer.close()


async def _refused(place: Place, answer: KubeletAnswer) -> Response:
    """Return the kubelet's refusal as a Status."""
    try:
        body = await answer.text(MAX_REFUSAL_BYTES)
    except KubeletAway:
        body = b""
    finally:
        answer.close()
    if answer.status in (502, 503, 504) and not ready(place.node):
        return _status(away(place, ""))
    with suppress(msgspec.DecodeError):
        said = msgspec.json.decode(body)
        if isinstance(said, dict) and said.get("kind") == "Status":
            return Response(answer.status, body=body)
    text = " ".join(body.decode("utf-8", "replace").split())[:2000] or f"the kubelet answered {answer.status}"
    return _status(ApiError(answer.status, REASONS.get(answer.status, "InternalError"), text))


REASONS: dict[int, Literal["BadRequest", "Forbidden", "NotFound", "Conflict", "ServiceUnavailable"]] = {
    400: "BadRequest",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    503: "ServiceUnavailable",
}


def _status(error: ApiError) -> Response:
    return Response(error.status, body=encode(error.body()))


def ready(node: Json) -> bool:
    """Whether the Node says that it is there."""
    return _ready_condition(node).get("status") == "True"


def _ready_condition(node: Json) -> Json:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if isinstance(c, dict) and c.get("type") == "Ready"), {})


def away(place: Place, reason: str) -> ApiError:
    """Return 503 with the sentence that helps: since when the node is away, or why it cannot be reached."""
    name = place.node["metadata"]["name"]
    if not ready(place.node):
        since = _ready_condition(place.node).get("lastTransitionTime")
        when = f" since {since}" if since else ""
        return ApiError(
            503, "ServiceUnavailable", f"node {name} is away{when}: its {place.what} can be reached at the gateway"
        )
    return ApiError(503, "ServiceUnavailable", f"node {name} cannot be asked: {reason}")


def chosen_container(pod: Json, target: Target) -> str:
    """Return the container that is meant. Raises 400 naming the choices."""
    spec, asked = pod.get("spec") or {}, target.query.text("container")
    names = {
        key: [c["name"] for c in spec.get(key) or ()] for key in ("containers", "initContainers", "ephemeralContainers")
    }
    everything = [name for listed in names.values() for name in listed]
    if asked:
        if asked not in everything:
            raise bad_request(f"container {asked[:80]} is not valid for pod {target.name}")
        return asked
    if len(names["containers"]) == 1:
        return str(names["containers"][0])
    default = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER)
    if default in everything:
        return str(default)
    text = f"a container name must be specified for pod {target.name}, choose one of: [{' '.join(names['containers'])}]"
    if names["initContainers"]:
        text += f" or one of the init containers: [{' '.join(names['initContainers'])}]"
    raise bad_request(text)


def _proxied_path(request: Request, before: int) -> str:
    """Return the path and query for who is behind the proxy: what follows the first ``before`` segments."""
    parts, seen = request.path.split("/"), 0
    for at, part in enumerate(parts):
        seen += bool(part)
        if seen == before:
            parts = parts[at + 1 :]
            break
    query = f"?{request.query_string}" if request.query_string else ""
    return f"/{quote('/'.join(parts), safe=PATH_SAFE + '%')}{query}"


def _head(request: Request, host: str, port: int) -> bytes:
    """Return the head of the request that the pod gets: its last on this connection."""
    sent = [(name, request.headers[name]) for name in FORWARDED if name in request.headers and name not in UPGRADING]
    lines = [
        f"{request.method} {_proxied_path(request, POD_PROXY)} HTTP/1.1",
        f"Host: {host}:{port}",
        "Connection: close",
    ]
    lines += [f"{name}: {value}" for name, value in sent]
    return "\r\n".join([*lines, f"Content-Length: {len(request.body)}", "", ""]).encode("latin-1", "replace")


def _passed(answer: KubeletAnswer) -> StreamResponse:
    return StreamResponse(
        answer.status,
        answer.header("content-type") or TEXT,
        headers=[header for header in answer.headers if header[0] not in NOT_RETURNED],
        chunks=_Body(answer),
        patient=True,
    )


def _query(fields: list[tuple[str, str]]) -> str:
    return f"?{urlencode(fields)}" if fields else ""
