"""A kubelet for tests: kubelet's paths on loopback over an OpenCall, and the Node and Pod that lead there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from kubeapi.http import Answer, HttpServer, Request, Response
from kubeapi.streaming.front import Streamed, serve_call
from proto.calls import OpenCall
from proto.kit.clock import SystemClock

KINDS = {"containerLogs": "logs", "exec": "exec", "attach": "attach", "portForward": "portforward"}


class Kubelet:
    """``asked`` are the paths, in order; ``summary`` answers ``/stats/summary``."""

    def __init__(self, open_call: OpenCall) -> None:
        self._open_call = open_call
        self.asked: list[str] = []
        self.summary: bytes = b"{}"
        self.port = 0

    async def answer(self, request: Request) -> Answer:
        self.asked.append(request.path)
        first, *rest = request.segments()
        if first == "stats":
            return Response(200, body=self.summary)
        if first not in KINDS:
            return Response(404, "text/plain", body=b"404 page not found\n")
        namespace, pod, container = [*rest, ""][:3]
        kind = cast("Streamed", KINDS[first])
        return await serve_call(request, kind, namespace, pod, container, self._open_call, plain=True)

    def node(self, name: str = "gw-1", ready: str = "True") -> dict[str, Any]:
        """Return a Node whose endpoint is this kubelet."""
        condition = {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "x"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
                "conditions": [condition],
                "capacity": {"cpu": "2", "memory": "2Gi"},
                "allocatable": {"cpu": "2", "memory": "2Gi"},
            },
        }


def pod(name: str = "web", node: str = "gw-1", containers: tuple[str, ...] = ("app",)) -> dict[str, Any]:
    """Return a running pod on ``node``."""
    states = [
        {"name": c, "ready": True, "restartCount": 0, "image": "x", "imageID": "x", "state": {"running": {}}}
        for c in containers
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": c, "image": "x"} for c in containers]},
        "status": {"phase": "Running", "containerStatuses": states},
    }


@asynccontextmanager
async def serving_kubelet(open_call: OpenCall) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet(open_call)
    server = HttpServer(kubelet.answer, clock=SystemClock())
    kubelet.port = await server.start("127.0.0.1", 0)
    try:
        yield kubelet
    finally:
        await server.close()
