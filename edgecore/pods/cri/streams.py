"""exec, attach and port-forward: the client's side of Kubernetes' SPDY protocols towards the runtime's streaming server.

CRI answers such a call with a URL that is good once. Remote commands speak v4.channel.k8s.io (one SPDY stream per channel,
a metav1.Status on the error stream), port-forward speaks portforward.k8s.io (a pair of streams, data and error).
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgecore.pods.runtime import RuntimeAway, RuntimeRefused
from kubeapi.streaming import spdy
from proto.kit.channels import DATA, ERROR, RESIZE, STDERR, STDIN, STDOUT, ChannelsClosed, Chunk

Dial = Callable[[str, int], Awaitable[socket.socket]]  # a connected, non-blocking socket

COMMAND_PROTOCOL = "v4.channel.k8s.io"
FORWARD_PROTOCOL = "portforward.k8s.io"
OPEN_S = 10.0
READ_BYTES = 64 << 10
MAX_HEAD_BYTES = 16 << 10
MAX_STATUS_BYTES = 64 << 10
STREAM_TYPES = {ERROR: "error", RESIZE: "resize", STDIN: "stdin", STDOUT: "stdout", STDERR: "stderr"}


@dataclass(frozen=True, slots=True)
class Shape:
    """Which channels a remote command has."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    def channels(self) -> list[int]:
        wanted = ((ERROR, True), (RESIZE, self.tty), (STDIN, self.stdin), (STDOUT, self.stdout), (STDERR, self.stderr))
        return [channel for channel, wants in wanted if wants]


async def dial(host: str, port: int) -> socket.socket:
    """Connect to a streaming server on this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


class SpdyChannels:
    """Channels over one SPDY connection. Nothing is read ahead: a slow reader slows the container's writer.

    Bare sockets, not asyncio's streams: a server that ends a call while we still write resets the connection, and
    a transport then forgets what it has not read yet, the exit code among it.
    """

    def __init__(self, sock: socket.socket, received: bytes) -> None:
        self._sock = sock
        self._received = received  # after the head of the HTTP answer
        self._loop = asyncio.get_running_loop()
        self._spdy = spdy.SpdyConnection(client=True)
        self._stream_of: dict[int, int] = {}
        self._channel_of: dict[int, int] = {}
        self._ended: set[int] = set()  # channels that the runtime ended
        self._inbox: deque[Chunk] = deque()
        self._error = b""  # the error stream so far; passed on whole
        self._room = asyncio.Event()  # set when the runtime let us send more
        self._sending = asyncio.Lock()
        self._using = 0  # reads and writes of the socket that are under way
        self._deaf = False  # the runtime reads no more; it may still have things to say
        self._closed: str | None = None  # why nothing more comes; "" for an orderly end
        self._shut = False

    def open(self, channel: int, headers: spdy.Headers, *, fin: bool = False) -> None:
        stream = self._spdy.open(headers, fin=fin)
        self._stream_of[channel], self._channel_of[stream] = stream, channel

    async def flush(self) -> None:
        """Send what is due."""
        async with self._sending:
            while (out := self._spdy.take()) and not self._deaf and self._closed is None:
                try:
                    with self._in_use():
                        await self._loop.sock_sendall(self._sock, out)
                except OSError:
                    self._deaf = True

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep the socket open, after ``close`` too, until whoever waits for it has noticed."""
        self._using += 1
        try:
            yield
        finally:
            self._using -= 1
            if self._shut and not self._using:
                self._sock.close()

    async def read(self) -> Chunk | None:
        while not self._inbox:
            if self._closed is not None:
                if self._closed:
                    raise ChannelsClosed(self._closed)
                return None
            await self._receive()
        chunk = self._inbox.popleft()
        stream = self._stream_of.get(chunk.channel)
        if chunk.data and stream is not None and self._spdy.sendable(stream) != spdy.UNLIMITED_BYTES:
            self._spdy.consumed(stream, len(chunk.data))  # Go's SPDY has no windows and reads no credits
        return chunk

    async def write(self, channel: int, data: bytes) -> None:
        stream = self._stream_of.get(channel)
        view = memoryview(data)
        while view and stream is not None and self._listens(channel):
            if not (room := self._spdy.sendable(stream)):
                self._room.clear()
                await self._room.wait()
                continue
            piece = bytes(view[: min(READ_BYTES, room)])
            view = view[len(piece) :]
            self._spdy.send(stream, piece)
            await self.flush()

    async def finish(self, channel: int) -> None:
        stream = self._stream_of.get(channel)
        if stream is not None and self._listens(channel) and self._spdy.sendable(stream):
            self._spdy.send(stream, b"", fin=True)
            await self.flush()

    async def close(self, error: str = "") -> None:
        if self._closed is None:
            self._closed = error
        self._room.set()
        if self._shut:
            return
        self._shut = True
        self._inbox.clear()
        with suppress(OSError):  # the other end was faster
            self._sock.shutdown(socket.SHUT_RDWR)
        if not self._using:
            self._sock.close()

    def _listens(self, channel: int) -> bool:
        """Whether the runtime still reads ``channel``. If not, writing is as to a pipe without a reader, and ``read`` ends the call.

        Raises ChannelsClosed.
        """
        if self._closed is not None:
            raise ChannelsClosed(self._closed or "the call has ended")
        return not self._deaf and channel not in self._ended

    async def _receive(self) -> None:
        try:
            with self._in_use():
                received = self._received or await self._loop.sock_recv(self._sock, READ_BYTES)
            self._received = b""
            events = self._spdy.receive(received)
        except (OSError, spdy.SpdyError) as error:
            self._over(f"the container runtime cut the connection: {error}")
            return
        for event in events:
            self._on(event)
        if not received:
            self._over()
        self._room.set()
        if (
            not self._sending.locked()
        ):  # else who sends now sends this too; waiting for a stuck writer would stop the reading
            await self.flush()

    def _on(self, event: spdy.Event) -> None:
        if isinstance(event, spdy.Data | spdy.Replied | spdy.Reset):
            channel = self._channel_of.get(event.stream)
            if channel is None:
                return
            if isinstance(event, spdy.Data) and event.data:
                self._arrived(channel, event.data)
            if isinstance(event, spdy.Reset) or event.fin:
                self._end(channel)

    def _arrived(self, channel: int, data: bytes) -> None:
        if channel == ERROR:
            self._error = (self._error + data)[:MAX_STATUS_BYTES]
        else:
            self._inbox.append(Chunk(channel, data))

    def _end(self, channel: int) -> None:
        if channel in self._ended:
            return
        self._ended.add(channel)
        if self._shut:
            return
        if channel != ERROR:
            self._inbox.append(Chunk(channel, b""))
        elif self._error:
            self._inbox.append(Chunk(ERROR, self._error))
        self._after(channel)

    def _after(self, channel: int) -> None:
        """Decide whether the end of ``channel`` ends the call."""
        raise NotImplementedError

    def _over(self, reason: str = "") -> None:
        """Take note that nothing more comes."""
        for channel in sorted(
            self._channel_of.values(), key=lambda channel: channel == ERROR
        ):  # the status is the last word
            self._end(channel)
        if self._closed is None:
            self._closed = reason


class _CommandChannels(SpdyChannels):
    """The error stream's status is the last word: what the command wrote was sent before it."""

    def _after(self, channel: int) -> None:
        if channel == ERROR and self._closed is None:
            self._closed = "" if self._error else "the container runtime ended the call without a status"


class _ForwardChannels(SpdyChannels):
    """Ends once both streams have ended."""

    def _after(self, channel: int) -> None:  # noqa: ARG002  either may be the later one
        if self._closed is None and self._ended >= {DATA, ERROR}:
            self._closed = ""


async def remote_command(dial: Dial, url: str, shape: Shape) -> SpdyChannels:
    """Open exec or attach. Raises RuntimeAway, RuntimeRefused."""
    channels = _CommandChannels(*await _upgraded(dial, url, COMMAND_PROTOCOL))
    for channel in shape.channels():
        channels.open(channel, {"streamtype": STREAM_TYPES[channel]})
    await channels.flush()
    return channels


async def port_forward(dial: Dial, url: str, port: int) -> SpdyChannels:
    """Open one TCP connection to ``port`` of a pod. Raises RuntimeAway, RuntimeRefused."""
    channels = _ForwardChannels(*await _upgraded(dial, url, FORWARD_PROTOCOL))
    pair = {"port": str(port), "requestid": "0"}
    channels.open(ERROR, {"streamtype": "error", **pair}, fin=True)
    channels.open(DATA, {"streamtype": "data", **pair})
    await channels.flush()
    return channels


async def _upgraded(dial: Dial, url: str, protocol: str) -> tuple[socket.socket, bytes]:
    """Return the connection and what came after the answer's head."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise RuntimeRefused(
            f"the container runtime wants its streams over {parts.scheme}; only http on this machine is spoken"
        )
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        f"X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    )
    try:
        async with asyncio.timeout(OPEN_S):
            sock = await dial(host, port)
            try:
                await asyncio.get_running_loop().sock_sendall(sock, head.encode("ascii"))
                return sock, await _switched(sock)
            except BaseException:
                sock.close()
                raise
    except (OSError, TimeoutError) as error:
        raise RuntimeAway(f"the container runtime's streams at {host}:{port} do not answer: {error}") from error


async def _switched(sock: socket.socket) -> bytes:
    """Read the head of the answer, and return what came after it. Raises RuntimeRefused."""
    received = b""
    while b"\r\n\r\n" not in received and len(received) < MAX_HEAD_BYTES:
        more = await asyncio.get_running_loop().sock_recv(sock, READ_BYTES)
        if not more:
            raise ConnectionError("the connection ended within the answer")
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["101"]:
        said = rest.decode(errors="replace").strip()
        raise RuntimeRefused(f"the container runtime refuses the call: {status} {said}")
    return rest
