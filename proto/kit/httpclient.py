"""A small asyncio HTTP/1.1 client: keep-alive pool, TLS with client certificates, bounded bodies, streams for watches.

One ``HttpClient`` talks to one origin. ``request`` reads a whole bounded answer; ``stream`` hands out chunks as they come
and ends a connection that stays silent for too long (half-open connections exist).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from proto.kit.errors import Retryable, Terminal, UsageError

MAX_HEADER_BYTES = 64 * 1024  # what an answer's headers may take before the connection is dropped
STREAM_HIGH_WATER_BYTES = 1 << 20  # unread stream bytes at which reading from the socket pauses
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class HttpUnreachable(Retryable):
    """No connection, or it broke: the request may or may not have been carried out."""

    code = "HttpUnreachable"


class HttpTimeout(Retryable):
    """No answer within the time allowed."""

    code = "HttpTimeout"


class HttpUntrusted(Terminal):
    """The TLS handshake failed on a certificate: wrong CA, wrong name, expired, or ours was refused."""

    code = "HttpUntrusted"


class HttpMalformed(Retryable):
    """The peer's answer is no HTTP, or larger than allowed."""

    code = "HttpMalformed"


@dataclass(slots=True)
class Response:
    """One whole answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class HttpLimits:
    """Bounds of one client."""

    connect_timeout_s: float = 10.0
    request_timeout_s: float = 30.0
    max_body_bytes: int = 32 << 20
    max_connections: int = 64


class _Stale(Exception):
    """A kept-alive connection was closed before a byte of the answer came."""


class _Wire(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.error: Exception | None = None
        self.reusable = False
        self._parser: Any = None
        self._exchange: _Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's TLS transport is none by class

    def start(self, exchange: "_Exchange", head: bytes, body: bytes) -> None:
        if self.closed or self.transport is None:
            raise _Stale
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(exchange)
        exchange.parser = self._parser
        exchange.wire = self
        self.transport.write(head + body if len(body) < 65536 else head)
        if len(body) >= 65536:
            self.transport.write(body)

    def data_received(self, chunk: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # bytes nobody asked for
            self.abort(None)
            return
        exchange.begun = True
        try:
            self._parser.feed_data(chunk)
        except httptools.HttpParserUpgrade:
            self.abort(HttpMalformed("the peer switched protocols unasked"))
            return
        except (httptools.HttpParserError, HttpMalformed) as error:
            cause = error.__context__ if isinstance(error.__context__, HttpMalformed) else error
            self.abort(cause if isinstance(cause, HttpMalformed) else HttpMalformed(f"not an HTTP answer: {error}"))
            return
        if exchange.complete:
            self._exchange = None
            self.reusable = exchange.keep_alive

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost(self.error or (HttpUnreachable(f"connection lost: {exc or 'closed by peer'}")))

    def abort(self, error: Exception | None) -> None:
        self.error = self.error or error
        self.closed = True
        if self.transport is not None:
            self.transport.abort()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost(self.error or HttpUnreachable("connection aborted"))


@dataclass(slots=True, eq=False)
class _Exchange:
    """What the parser fills. ``wake`` is the one waiter."""

    max_body_bytes: int
    streaming: bool
    head_only: bool = False
    parser: Any = None
    wire: Any = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    header_bytes: int = 0
    chunks: deque[bytes] = field(default_factory=deque)
    size: int = 0
    begun: bool = False
    head_done: bool = False
    complete: bool = False
    keep_alive: bool = False
    error: Exception | None = None
    waiter: "asyncio.Future[None] | None" = None
    paused: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.header_bytes += len(name) + len(value)
        if self.header_bytes > MAX_HEADER_BYTES:
            raise HttpMalformed(f"the answer's headers exceed {MAX_HEADER_BYTES} bytes")
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.keep_alive = self.parser.should_keep_alive()
        length = self.headers.get("content-length", "")
        if not self.streaming and length.isdigit() and int(length) > self.max_body_bytes:
            raise HttpMalformed(f"the answer has {length} bytes, more than the {self.max_body_bytes} allowed")
        self.head_done = True
        if self.streaming:
            self.wake()

    def on_body(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self.chunks.append(chunk)
        if not self.streaming:
            if self.size > self.max_body_bytes:
                raise HttpMalformed(f"the answer is larger than the {self.max_body_bytes} bytes allowed")
            return
        if self.size > STREAM_HIGH_WATER_BYTES and not self.paused:
            self.paused = True
            self.wire.transport.pause_reading()
        self.wake()

    def on_message_begin(self) -> None:
        if self.complete:
            raise HttpMalformed("two answers to one request")

    def on_message_complete(self) -> None:
        if 100 <= self.status < 200:
            return
        self.complete = True
        self.wake()

    def lost(self, error: Exception) -> None:
        unframed = "content-length" not in self.headers and "chunked" not in self.headers.get("transfer-encoding", "")
        if self.head_done and unframed and isinstance(error, HttpUnreachable):
            self.complete = True  # a body that ends with the connection
        elif not self.complete:
            self.error = error
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def take(self) -> bytes:
        chunk = self.chunks.popleft()
        self.size -= len(chunk)
        if self.paused and self.size < STREAM_HIGH_WATER_BYTES // 2:
            self.paused = False
            self.wire.transport.resume_reading()
        return chunk


class Stream:
    """An answer whose body is still coming."""

    def __init__(self, exchange: _Exchange, idle_timeout_s: float) -> None:
        self._exchange = exchange
        self._idle_timeout_s = idle_timeout_s
        self.status = exchange.status
        self.headers = exchange.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield body bytes as they arrive; ends at the end of the body. Raises HttpTimeout, HttpUnreachable."""
        exchange = self._exchange
        while True:
            while exchange.chunks:
                yield exchange.take()
            if exchange.complete:
                return
            if exchange.error is not None:
                raise exchange.error
            try:
                async with asyncio.timeout(self._idle_timeout_s):
                    await exchange.wait()
            except TimeoutError as error:
                raise HttpTimeout(f"nothing came for {self._idle_timeout_s:g} s") from error

    async def read(self, limit: int = 1 << 20) -> bytes:
        """Return the rest of the body. Raises HttpMalformed when it is longer than ``limit``."""
        out = bytearray()
        async for chunk in self.chunks():
            out += chunk
            if len(out) > limit:
                raise HttpMalformed(f"the answer is larger than the {limit} bytes allowed")
        return bytes(out)


class HttpClient:
    """Requests to one origin (``https://host:port``). ``tls`` is asked for a context at each new connection."""

    def __init__(
        self,
        origin: str,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        server_hostname: str | None = None,
        limits: HttpLimits | None = None,
    ) -> None:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"{origin!r} is no address: write https://HOST:PORT")
        if parts.scheme == "https" and tls is None:
            tls = ssl.create_default_context
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.prefix = parts.path.rstrip("/")
        self.limits = limits or HttpLimits()
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls if parts.scheme == "https" else None
        self._server_hostname = server_hostname or self._host
        self._host_header = parts.netloc.rpartition("@")[2]
        self._idle: list[_Wire] = []
        self._slots = asyncio.Semaphore(self.limits.max_connections)
        self._closed = False

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float | None = None,
        max_body_bytes: int | None = None,
    ) -> Response:
        """Send one request and return its whole answer. Raises HttpUnreachable, HttpTimeout, HttpUntrusted, HttpMalformed."""
        limit_s = timeout_s or self.limits.request_timeout_s
        exchange = _Exchange(max_body_bytes or self.limits.max_body_bytes, streaming=False)
        head = self._head(method, target, headers, len(body))
        wire: _Wire | None = None
        try:
            async with asyncio.timeout(limit_s), self._slots:
                wire, exchange = await self._exchange(method, exchange, head, body)
                while not exchange.complete and exchange.error is None:
                    await exchange.wait()
                self._give_back(wire)
                wire = None
        except TimeoutError as error:
            raise HttpTimeout(f"{method} {self.origin}{target}: no answer within {limit_s:g} s") from error
        finally:
            if wire is not None:
                wire.abort(None)
        if exchange.error is not None:
            raise exchange.error
        return Response(exchange.status, exchange.headers, b"".join(exchange.chunks))

    @asynccontextmanager
    async def stream(
        self, method: str, target: str, *, headers: Mapping[str, str] | None = None, idle_timeout_s: float = 60.0
    ) -> AsyncIterator[Stream]:
        """Open a long answer on a connection of its own; closed on leaving. Errors as ``request``."""
        exchange = _Exchange(0, streaming=True)
        wire = await self._connect()
        try:
            wire.start(exchange, self._head(method, target, headers, 0), b"")
            async with asyncio.timeout(self.limits.request_timeout_s):
                while not exchange.head_done and exchange.error is None:
                    await exchange.wait()
            if exchange.error is not None:
                raise exchange.error
            yield Stream(exchange, idle_timeout_s)
        except _Stale as error:
            raise HttpUnreachable(f"{self.origin}: closed by peer") from error
        except TimeoutError as error:
            raise HttpTimeout(f"{method} {self.origin}{target}: no answer") from error
        finally:
            wire.abort(None)

    async def close(self) -> None:
        """Close idle connections; running requests end with theirs."""
        self._closed = True
        while self._idle:
            wire = self._idle.pop()
            if wire.transport is not None:
                wire.transport.close()

    async def _exchange(self, method: str, exchange: _Exchange, head: bytes, body: bytes) -> tuple[_Wire, _Exchange]:
        """Start on an idle connection if one answers, else on a new one."""
        while self._idle:
            wire = self._idle.pop()
            with suppress(_Stale):
                wire.start(exchange, head, body)
                while not exchange.begun and exchange.error is None:
                    await self._first_byte(wire, exchange)
                if exchange.begun or method not in REPEATABLE:
                    return wire, exchange
            exchange = _Exchange(exchange.max_body_bytes, streaming=False)
        wire = await self._connect()
        try:
            wire.start(exchange, head, body)
        except _Stale as error:
            raise HttpUnreachable(f"{self.origin}: closed by peer") from error
        return wire, exchange

    @staticmethod
    async def _first_byte(wire: _Wire, exchange: _Exchange) -> None:
        try:
            await exchange.wait()
        except asyncio.CancelledError:
            wire.abort(None)
            raise

    async def _connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        where = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                context = self._tls() if self._tls is not None else None
                _, wire = await loop.create_connection(
                    _Wire,
                    self._host,
                    self._port,
                    ssl=context,
                    server_hostname=self._server_hostname if context is not None else None,
                )
        except TimeoutError as error:
            raise HttpTimeout(f"{where}: no connection within {self.limits.connect_timeout_s:g} s") from error
        except ssl.SSLError as error:
            raise HttpUntrusted(
                f"{where}: TLS failed ({error.reason or error}): check the CA and both clocks"
            ) from error
        except OSError as error:
            raise HttpUnreachable(f"{where}: {error.strerror or error}") from error
        return wire

    def _give_back(self, wire: _Wire) -> None:
        if wire.closed or not wire.reusable or self._closed:
            if not wire.closed and wire.transport is not None:
                wire.transport.close()
            return
        self._idle.append(wire)

    def _head(self, method: str, target: str, headers: Mapping[str, str] | None, length: int) -> bytes:
        lines = [f"{method} {self.prefix}{target} HTTP/1.1", f"host: {self._host_header}"]
        if headers:
            lines += [f"{k}: {v}" for k, v in headers.items()]
        if length or method in {"POST", "PUT", "PATCH"}:
            lines.append(f"content-length: {length}")
        if " " in target or any(c in line for line in lines for c in "\r\n\0"):
            raise UsageError("a header or an address holds a line break, or an address a space")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
