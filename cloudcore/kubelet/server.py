"""The kubelet API over HTTPS. For what is about a pod, the pod's node; else the node that the path or the host names.

/containerLogs/NS/POD/CONTAINER   /exec, /attach/NS/POD[/UID]/CONTAINER   /portForward/NS/POD[/UID]
/stats/summary   /metrics/resource   /pods   /runningpods/   /healthz   /ping      all of them also below /nodes/NODE
"""

import asyncio
import ssl
from functools import partial
from typing import Any, cast

from cloudcore.controllers.nodes import is_edge
from cloudcore.kube.cluster import Cluster
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import POD
from cloudcore.kubelet.access import Check, Unwelcome
from kubeapi.http import Answer, HttpServer, Limits, Request, Response
from kubeapi.streaming.front import Streamed, serve_call
from proto.calls import Call, CallRefused
from proto.kit import canonical
from proto.kit.channels import STDIN, STDOUT, ChannelsClosed
from proto.kit.clock import Clock
from proto.kit.errors import Retryable, SkerryError
from proto.kit.metrics import Metrics
from proto.link.streams import CloudStreams

STREAMED: dict[str, Streamed] = {
    "containerLogs": "logs",
    "exec": "exec",
    "attach": "attach",
    "portForward": "portforward",
}
MAX_FIGURES_BYTES = 16 << 20
PING_S = 5.0
FIGURES_S = 30.0
TEXT = "text/plain; charset=utf-8"
Json = dict[str, Any]


class KubeletApi:
    """Serve every edge node's kubelet API. ``check`` raises CallRefused for who may not."""

    def __init__(
        self,
        cluster: Cluster,
        streams: CloudStreams,
        check: Check,
        *,
        clock: Clock,
        metrics: Metrics,
        unwelcome: Unwelcome,
    ) -> None:
        self._cluster = cluster
        self._streams = streams
        self._check = check
        self._clock = clock
        self._http = HttpServer(
            self.handle,
            Limits(max_body_bytes=64 << 10),
            clock=clock,
            metrics=metrics,
            name="kubelet",
            unwelcome=unwelcome,
        )

    async def start(self, host: str, port: int, context: ssl.SSLContext | None) -> int:
        """Listen and return the bound port. Raises OSError."""
        return await self._http.start(host, port, context)

    async def close(self) -> None:
        await self._http.close()

    async def handle(self, request: Request) -> Answer:
        """Answer one request; refusals are lines of text, as a kubelet's are."""
        try:
            return await self._answer(request)
        except CallRefused as error:
            return _text(error.status, str(error))
        except ChannelsClosed as error:
            return _text(502, str(error))
        except TimeoutError:
            return _text(504, "the node did not answer in time")
        except Retryable as error:
            return _text(503, str(error))
        except SkerryError as error:
            return _text(500, str(error))

    async def _answer(self, request: Request) -> Answer:
        segments = request.segments()
        named = ""
        if len(segments) > 1 and segments[0] == "nodes":
            named, segments = segments[1], segments[2:]
            if self._by_host(request) not in ("", named):
                raise CallRefused(404, "NotFound", f"node {named} is not the one that was asked")
        path = segments[0] if segments else ""
        if path in STREAMED:
            return await self._stream(request, STREAMED[path], segments, named)
        node = named or self._by_host(request)
        await self._check(request, node, path)
        if path == "healthz":
            return _text(200, "ok")
        if request.method not in ("GET", "HEAD"):
            raise CallRefused(405, "MethodNotAllowed", "405: Method Not Allowed")
        if segments == ["stats", "summary"]:
            return await self._figures(self._edge(node), "stats", "application/json")
        if segments == ["metrics", "resource"]:
            return await self._figures(self._edge(node), "metrics", "text/plain; version=0.0.4; charset=utf-8")
        if segments == ["ping"]:
            return await self._ping(self._edge(node))
        if segments in (["pods"], ["runningpods"]):
            return self._pods(self._edge(node), running=path == "runningpods")
        raise CallRefused(404, "NotFound", "404 page not found")

    # pods

    async def _stream(self, request: Request, kind: Streamed, segments: list[str], named: str) -> Answer:
        rest = segments[1:]
        names = 2 if kind == "portforward" else 3
        uid = ""
        if kind != "logs" and len(rest) == names + 1:
            uid = rest.pop(2)
        if len(rest) != names:
            raise CallRefused(404, "NotFound", "404 page not found")
        named = named or self._by_host(request)  # whoever may ask one node's kubelet may not ask all of them
        namespace, name = rest[:2]
        pod = await self._pod(namespace, name)
        node = str(pod["spec"].get("nodeName") or "") if pod is not None else ""
        await self._check(request, node or named, segments[0])
        if pod is None or (named and node != named) or (uid and pod["metadata"].get("uid") != uid):
            raise CallRefused(404, "NotFound", f'pods "{name}" not found')
        container = rest[2] if names == 3 else ""
        call = partial(self._streams.open, self._edge(node))
        return await serve_call(request, kind, namespace, name, container, call, plain=True)

    async def _pod(self, namespace: str, name: str) -> Json | None:
        found = self._cluster.pods.get(namespace, name)
        if found is not None:
            return found
        try:  # made a moment ago, or pods are not watched
            return await self._cluster.client.get(POD, namespace, name)
        except NotFound:
            return None

    def _pods(self, node: str, *, running: bool) -> Response:
        found = [pod for pod in self._cluster.pods.objects.values() if pod["spec"].get("nodeName") == node]
        if running:
            found = [pod for pod in found if (pod.get("status") or {}).get("phase") == "Running"]
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found}
        return Response(200, "application/json", body=canonical.encode(body))

    # nodes

    def _by_host(self, request: Request) -> str:
        """Return the edge node that the host is, or that its first label is."""
        host = request.headers.get("host", "").lower()
        host = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        for name in (host, host.partition(".")[0]):
            if self._is_edge(name):
                return name
        return ""

    def _is_edge(self, name: str) -> bool:
        node = self._cluster.nodes.get("", name)
        return node is not None and is_edge(node)

    def _edge(self, name: str) -> str:
        """Return ``name`` when it is one of ours. Raises CallRefused 404."""
        if name and self._is_edge(name):
            return name
        text = (
            f"node {name} is not an edge of this cloud" if name else "name the node: /nodes/NODE in front of the path"
        )
        raise CallRefused(404, "NotFound", text)

    async def _ping(self, node: str) -> Response:
        """Send a few bytes to the node and back: whether logs and exec can reach it."""
        began_s = self._clock.now_s()
        async with asyncio.timeout(PING_S):
            channels = await self._streams.open(node, Call("ping"))
            try:
                await channels.write(STDIN, b"ping")
                await channels.read()
            finally:
                await channels.close()
        body = {"node": node, "milliseconds": round(1000 * (self._clock.now_s() - began_s), 1)}
        return Response(200, body=canonical.encode(body))

    async def _figures(self, node: str, kind: str, content_type: str) -> Response:
        out = bytearray()
        async with asyncio.timeout(FIGURES_S):
            channels = await self._streams.open(node, Call(cast("Any", kind)))
            try:
                while (chunk := await channels.read()) is not None:
                    out += chunk.data if chunk.channel == STDOUT else b""
                    if len(out) > MAX_FIGURES_BYTES:
                        raise CallRefused(502, "InternalError", f"node {node} says more than {MAX_FIGURES_BYTES} bytes")
            finally:
                await channels.close()
        return Response(200, content_type, body=bytes(out))


def _text(status: int, message: str) -> Response:
    return Response(status, TEXT, body=message.encode() + b"\n")
