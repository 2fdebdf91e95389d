"""Health, metrics and status over HTTP: ``/healthz /readyz /metrics /status``, GET and HEAD only."""

from collections.abc import Callable
from typing import Any

import msgspec

from kubeapi.http import HttpServer, Limits, Request, Response
from proto.kit.clock import Clock
from proto.kit.metrics import Metrics

TEXT = "text/plain; charset=utf-8"
METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
LIMITS = Limits(max_head_bytes=16384, max_body_bytes=1024, max_connections=64, idle_timeout_s=30.0)


class Pages:
    """The daemon's own page for probes, Prometheus and the commands. ``unready`` returns why not, or "" when ready."""

    def __init__(
        self,
        *,
        status: Callable[[], dict[str, Any]],
        unready: Callable[[], str],
        metrics: Metrics,
        clock: Clock,
        name: str,
    ) -> None:
        self._status, self._unready, self._metrics = status, unready, metrics
        self._server = HttpServer(self.answer, LIMITS, clock=clock, metrics=metrics, name=name)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the bound port. Raises OSError."""
        return await self._server.start(host, port)

    async def close(self) -> None:
        await self._server.close()

    async def answer(self, request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return Response(405, TEXT, [("Allow", "GET, HEAD")], body=b"only GET\n")
        if request.path in {"/healthz", "/livez"}:
            return Response(200, TEXT, body=b"ok\n")
        if request.path == "/readyz":
            reason = self._unready()
            return Response(503 if reason else 200, TEXT, body=f"{reason or 'ok'}\n".encode())
        if request.path == "/metrics":
            return Response(200, METRICS_TEXT, body=self._metrics.render().encode())
        if request.path == "/status":
            return Response(200, body=msgspec.json.encode(self._status()))
        return Response(404, TEXT, body=b"known paths: /healthz /readyz /metrics /status\n")
