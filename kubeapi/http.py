"""A small HTTP/1.1 server: an asyncio Protocol on httptools that bounds everything a client can make it hold.

``HttpServer(handler, limits, clock=clock)`` serves ``async handler(Request) -> Response | StreamResponse | Upgrade``.
Requests of one connection are answered in order, one at a time. The peer's certificate is on the request.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from kubeapi.http_answers import Answer, Response, StreamResponse, Upgrade, plain_refusal
from kubeapi.http_gate import BACKLOG, Allows, Gate
from kubeapi.http_parser import PeerCertificate, Refused, Request, RequestParser, peer_certificate
from kubeapi.http_tunnel import Tunnel, keep_alive
from kubeapi.http_wire import FINAL_CHUNK, Limits, StreamCut, encode_chunk, encode_head, finish_body
from proto.kit.clock import Clock
from proto.kit.daemon import Supervisor, forever
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.kit.tls import Handshakes, ServerContext

__all__ = ["Answer", "HttpServer", "Limits", "PeerCertificate", "Request", "Response", "StreamResponse", "Upgrade"]

log = Logger("http")

SWEEP_EVERY_S = 1.0
WRITE_HIGH_BYTES = 256 * 1024


Handler = Callable[[Request], Awaitable[Answer]]
Refuse = Callable[[int, str], Response]
Unwelcome = Callable[[PeerCertificate], bool]


class _Gone(Exception):
    """The client left while we were answering."""


class HttpServer:
    """Listen and serve. ``refuse(status, message)`` shapes the answers to requests that never reach the handler.

    A stream ends within a second once ``unwelcome(its client's certificate)``; requests are the handler's to refuse.
    """

    def __init__(
        self,
        handler: Handler,
        limits: Limits | None = None,
        *,
        clock: Clock,
        refuse: Refuse = plain_refusal,
        metrics: Metrics | None = None,
        name: str = "http",
        unwelcome: Unwelcome = lambda _: False,
    ) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.clock = clock
        self.refuse = refuse
        self.name = name
        self.unwelcome = unwelcome
        self.connections: set[Connection] = set()
        self.handshakes = Handshakes(self.limits.max_handshakes, self.limits.head_timeout_s, clock)
        metrics = metrics or Metrics()
        self.refused = metrics.counter(
            "skerry_http_refused_total",
            "Requests and connections refused or cut, by server and reason",
            ("server", "reason"),
        )
        metrics.gauge(f"skerry_{name}_connections", "Open HTTP connections", source=lambda: len(self.connections))
        self.tasks = Supervisor(clock)
        self._servers: list[asyncio.Server | Gate] = []

    async def start(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None, *, allows: Allows | None = None
    ) -> int:
        """Listen and return the bound port; called again, listen at another address as well. Raises OSError.

        ``allows`` says of a peer's address whether it may call there at all.
        """
        tls: dict[str, Any] = {}
        if ssl_context is not None:
            if isinstance(ssl_context, ServerContext):
                ssl_context.handshakes = self.handshakes
            tls = {"ssl": ssl_context, "ssl_handshake_timeout": self.limits.head_timeout_s, "ssl_shutdown_timeout": 2.0}
        server = await self._listen(host, port, tls, allows)
        if not self._servers:
            sweeping = forever(self.sweep, every_s=SWEEP_EVERY_S, clock=self.clock, name=self.name)
            self.tasks.spawn(sweeping, f"{self.name}-sweep")
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def _listen(self, host: str, port: int, tls: dict[str, Any], allows: Allows | None) -> asyncio.Server | Gate:
        if allows is None:
            loop = asyncio.get_running_loop()
            return await loop.create_server(lambda: Connection(self), host, port, backlog=BACKLOG, **tls)
        gate = Gate.listen(host, port, lambda: Connection(self), tls, allows, lambda _: self.count("foreign"))
        gate.start(self.tasks.spawn)
        return gate

    async def close(self) -> None:
        """Stop listening, let requests in progress finish for a moment, cut the rest."""
        if not self._servers:
            return
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in list(self.connections):
            connection.shut()
        busy = [c.task for c in self.connections if c.task is not None and not c.task.done()]
        if busy:
            await asyncio.wait(busy, timeout=self.limits.close_grace_s)
        for connection in list(self.connections):
            connection.transport.abort()
        await self.tasks.close()

    async def sweep(self) -> None:
        """Cut every connection that is past its deadline, or a stream to a client that may no longer have it.

        One timer for all instead of one each.
        """
        now_s = self.clock.now_s()
        for connection in list(self.connections):
            client = connection.streams_to()
            if client is not None and self.unwelcome(client):
                self.count("certificate")
                connection.transport.abort()
            elif now_s > connection.deadline_s:
                connection.expired()

    def count(self, reason: str) -> None:
        self.refused.inc(self.name, reason)


class Connection(asyncio.Protocol):
    """One client. Reads are parsed as they come; answers are written by this connection's own task."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.limits = server.limits
        self.task: asyncio.Task[None] | None = None
        self.deadline_s = float("inf")
        self._queue: deque[Request] = deque()
        self._stage = "idle"  # idle, handling, streaming: decides what a lost connection cancels
        self._wake: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._write_paused = False
        self._reading_paused = False
        self._continue_due = False
        self._closing = False  # nothing more is parsed; the connection ends when the queue is empty
        self._refusal: Response | None = None  # the connection's last answer; what still comes is thrown away
        self._ended = False  # the client sends nothing more
        self._gone = False
        self._tunnel: Tunnel | None = None  # from the request for an upgrade on
        self._patient = False
        server.handshakes.begin(self)

    # asyncio.Protocol

    def __del__(self) -> None:
        # asyncio tells nobody when a TLS handshake fails; nothing refers to this one then.
        if not hasattr(self, "transport"):
            self.server.handshakes.end(self)
            self.server.count("tls_handshake")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's own classes do not inherit it
        self.transport = transport
        self.server.handshakes.end(self)
        if len(self.server.connections) >= self.limits.max_connections:
            self.server.count("too_many_connections")
            self.transport.abort()
            return
        self.server.connections.add(self)
        self._parser = RequestParser(self.limits, self._on_request, self._on_head)
        peer = transport.get_extra_info("peername")
        self._parser.peer_host = str(peer[0]) if peer else ""
        self._parser.certificate = peer_certificate(transport.get_extra_info("ssl_object"))
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._expire_in(self.limits.head_timeout_s)
        self.task = self.server.tasks.spawn(self._serve(), f"{self.server.name}-connection")
        self.task.add_done_callback(self._rested)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # how a client leaves is its own business
        self.server.connections.discard(self)
        self._gone = True
        _wake(self._drained)
        if self._tunnel is not None:
            self._tunnel.lose()
        if self.task is None:
            self._rested()
        elif self._stage != "handling":
            self.task.cancel()

    def _rested(self, _: object = None) -> None:
        self.task = None
        if self._gone and hasattr(self, "_parser"):  # else one too many
            self._parser.release()  # no cycle stays behind: a connection with TLS is large, and the collector comes late

    def eof_received(self) -> bool:
        self._closing = self._ended = True
        if self._tunnel is not None:
            self._tunnel.end()
        # A client that half-closes still gets the answer it waits for; TLS has no half-close.
        waits = self._queue or self._stage == "handling" or self._tunnel is not None or self._refusal is not None
        answering = self.task is not None and not self.task.done()
        return bool(waits) and answering and self.transport.get_extra_info("ssl_object") is None

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.feed(data)
            return
        if self._refusal is not None or self._closing:
            return
        if not self._parser.started and not self._busy():
            self._expire_in(self.limits.head_timeout_s)
        try:
            self._parser.feed(data)
        except Refused as refusal:
            self._refuse(refusal)
        if self._parser.upgrade_asked and self._refusal is None:
            self._closing = True
            self._tunnel = Tunnel(self.transport)
            self._tunnel.feed(self._parser.after_upgrade)
        if len(self._queue) >= self.limits.max_pipelined and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._tunnel is not None:
            self._tunnel.pause()
        if not self._patient:
            self._expire_in(self.limits.write_timeout_s)

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._tunnel is not None:
            self._tunnel.resume()
        self.deadline_s = float("inf")
        _wake(self._drained)

    # What the parser finds

    def _on_head(self, expectation: str | None) -> None:
        if self._busy():
            # An answer is being written; 100 Continue must not land inside it.
            self._continue_due = expectation is not None
            return
        self._expire_in(self.limits.body_timeout_s)
        if expectation is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _on_request(self, request: Request) -> None:
        if len(self._queue) >= 4 * self.limits.max_pipelined:
            raise Refused(429, f"more than {self.limits.max_pipelined} requests sent ahead", "pipelined")
        self._queue.append(request)
        self._continue_due = False
        if not self._write_paused:
            self.deadline_s = float("inf")
        _wake(self._wake)

    def _refuse(self, refusal: Refused) -> None:
        self.server.count(refusal.reason)
        self._refusal = self.server.refuse(refusal.status, refusal.message)
        _wake(self._wake)

    # Answers

    async def _serve(self) -> None:
        """Answer the queue in order until the connection ends."""
        try:
            await self._answer_all()
        except (_Gone, ConnectionError):
            return
        except Exception:
            log.exception("a connection failed", server=self.server.name)
            self.server.count("failed")
            self.transport.abort()
            return
        self._end()

    async def _answer_all(self) -> None:
        while self._queue or not (self._closing or self._gone or self._refusal):
            if not self._queue:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
                continue
            self._stage = "handling"
            keep = await self._answer(self._queue.popleft())
            self._stage, self._patient = "idle", False
            if not keep:
                self._refusal = None
                return
            if not self._queue:
                self._rest()

    async def _answer(self, request: Request) -> bool:
        """Write the answer to ``request``; return whether the connection may carry another."""
        response = await self._handle(request)
        if isinstance(response, Upgrade):
            return await self._upgrade(request, response)
        keep = request.keep_alive and not response.close
        if isinstance(response, StreamResponse):
            try:
                return await self._stream(request, response, keep=keep)
            finally:
                await _close_iterator(response.chunks)
        body, extra = await finish_body(self.limits, request.headers.get("accept-encoding", ""), response.body)
        if self._gone:
            raise _Gone
        head = encode_head(response, self.server.clock, keep=keep, length=len(body), extra=extra)
        self.transport.write(head if request.method == "HEAD" else head + body)
        await self._drain()
        return keep

    async def _handle(self, request: Request) -> Answer:
        try:
            async with asyncio.timeout(self.limits.handler_timeout_s):
                return await self.server.handler(request)
        except TimeoutError:
            self.server.count("handler_timeout")
            return self.server.refuse(504, "the request took too long")
        except Exception:
            log.exception("a request failed", server=self.server.name, method=request.method, path=request.path)
            self.server.count("failed")
            return self.server.refuse(500, "an internal error occurred; the server's log has it")

    async def _stream(self, request: Request, response: StreamResponse, *, keep: bool) -> bool:
        chunked = request.version == "1.1"
        if self._gone:
            raise _Gone
        self._stage, self._patient = "streaming", response.patient
        if response.patient:
            keep_alive(self.transport)
        self.transport.write(encode_head(response, self.server.clock, keep=keep and chunked, chunked=chunked))
        if request.method == "HEAD" or response.chunks is None:
            return False
        try:
            async for piece in response.chunks:
                self.transport.write(encode_chunk(piece) if chunked else piece)
                await self._drain()
        except _Gone:
            raise
        except StreamCut as error:
            self.server.count("stream_cut")
            self.transport.close()
            raise _Gone from error
        except Exception as error:
            # The head is out: only a cut tells the client honestly that the answer is not whole.
            log.exception("a stream failed", server=self.server.name, path=request.path)
            self.server.count("failed")
            self.transport.abort()
            raise _Gone from error
        if chunked:
            self.transport.write(FINAL_CHUNK)
        await self._drain()
        return keep and chunked

    async def _upgrade(self, request: Request, response: Upgrade) -> bool:
        """Hand the connection over, also one that is gone already: what was opened for it must be closed."""
        if self._tunnel is None or response.serve is None:
            raise ValueError(f"{request.path} is answered with an upgrade that was not asked for")
        self._stage, self._patient = "streaming", True
        self.deadline_s = float("inf")
        keep_alive(self.transport)
        response.content_type = ""
        response.headers += [("Connection", "Upgrade"), ("Upgrade", response.protocol)]
        if not self._gone:
            self.transport.write(encode_head(response, self.server.clock, keep=True))
        await response.serve(self._tunnel)
        return False

    async def _drain(self) -> None:
        if self._write_paused and not self._gone:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        if self._gone:
            raise _Gone

    def _rest(self) -> None:
        """Nothing is waiting: read on, and give the client its time for the next request."""
        self._expire_in(self.limits.head_timeout_s if self._parser.started else self.limits.idle_timeout_s)
        if self._continue_due:
            self._continue_due = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def _end(self) -> None:
        if self._gone:
            return
        if self._refusal is None:
            self.transport.close()
            return
        body = self._refusal.body
        self.transport.write(encode_head(self._refusal, self.server.clock, keep=False, length=len(body)) + body)
        if self._ended:
            self.transport.close()
        # Closing at once would reset the connection under a client that still sends, and it would never see why.
        self._expire_in(self.limits.linger_s)

    # Ends

    def shut(self) -> None:
        """The server closes: cut what is idle or endless, let a request in progress finish."""
        self._closing = True
        if self._stage == "handling":
            return
        if self.task is not None:
            self.task.cancel()
        self.transport.close()

    def expired(self) -> None:
        """The deadline has passed: say why where the client may still listen, then cut."""
        if self._refusal is None and not self._write_paused and self._parser.started and not self._busy():
            self._refuse(Refused(408, "the request did not arrive in time", "slow_sender"))
            self._expire_in(self.limits.linger_s)
            return
        if self._write_paused:
            self.server.count("slow_reader")
        self.transport.abort()

    def streams_to(self) -> PeerCertificate | None:
        """The certificate of the client that an endless answer goes to, if there is one."""
        return self._parser.certificate if self._stage == "streaming" else None

    def _busy(self) -> bool:
        return self._stage != "idle" or bool(self._queue)

    def _expire_in(self, delay_s: float) -> None:
        self.deadline_s = self.server.clock.now_s() + delay_s


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


async def _close_iterator(chunks: AsyncIterator[bytes] | None) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()
