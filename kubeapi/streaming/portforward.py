"""port-forward for a client: one ``Channels`` and one Call per TCP connection.

SPDY (plain, or inside a WebSocket): per connection an error and a data stream that share a requestID header.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kubeapi.streaming import spdy
from kubeapi.streaming.spdy_session import SpdySession, WebSocketWire, Wire
from kubeapi.streaming.spdy_wire import PROTOCOL_ERROR
from proto.calls import CallRefused
from proto.kit.channels import DATA, ERROR, Channels, ChannelsClosed, Chunk, pipe
from proto.kit.errors import SkerryError

SPDY_PROTOCOL = "portforward.k8s.io"
TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io"  # inside a WebSocket
HOLD_BYTES = 256 << 10  # unread bytes of one connection that stop the reading for all of them, as Go's SPDY does
MAX_CONNECTIONS = 120  # of one client at once; two streams each

Dial = Callable[[int], Awaitable[Channels]]  # opens a connection to a port of the pod; raises CallRefused, Retryable


class Inbox:
    """What came for one connection and was not read yet."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()  # b"": the end of this direction
        self._held_bytes = 0
        self._changed = asyncio.Condition()
        self.over: str | None = None  # "": orderly; else why it broke

    async def put(self, data: bytes) -> None:
        """Take ``data``, waiting for room."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._held_bytes < HOLD_BYTES or self.over is not None)
            self._chunks.append(data)
            self._held_bytes += len(data)
            self._changed.notify_all()

    async def get(self) -> bytes | None:
        """Return the next bytes, None when all is over. Raises ChannelsClosed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._chunks or self.over is not None)
            if self._chunks:
                data = self._chunks.popleft()
                self._held_bytes -= len(data)
                self._changed.notify_all()
                return data
            if self.over:
                raise ChannelsClosed(self.over)
            return None

    async def end(self, reason: str = "") -> None:
        async with self._changed:
            if self.over is None:
                self.over = reason
            self._changed.notify_all()


class SpdyPair:
    """The client's end of one forwarded connection: a data and an error stream."""

    def __init__(self, session: SpdySession, port: int) -> None:
        self._session = session
        self.port = port
        self.data = self.error = 0  # streams
        self.inbox = Inbox()
        self._ended = False  # the client writes no more

    @property
    def whole(self) -> bool:
        return bool(self.data and self.error)

    async def read(self) -> Chunk | None:
        data = await self.inbox.get()
        if data is None:
            return None
        if data:
            await self._session.consumed(self.data, len(data))
        else:
            self._ended = True
            await self._maybe_over()
        return Chunk(DATA, data)

    async def write(self, channel: int, data: bytes) -> None:
        await self._session.send(self.data if channel == DATA else self.error, data)

    async def finish(self, channel: int) -> None:
        stream = self.data if channel == DATA else self.error
        if self._session.spdy.writable(stream):
            await self._session.send(stream, b"", fin=True)
        await self._maybe_over()

    async def close(self, error: str = "") -> None:
        await self.inbox.end(error)
        with suppress(ChannelsClosed):
            if error and self._session.spdy.writable(self.error):
                await self._session.send(self.error, error.encode())
            await self.finish(ERROR)
            await self.finish(DATA)
            if not self._ended:
                # The client may go on sending; what nobody reads must not block the other connections.
                self._session.spdy.reset(self.data)
                await self._session.flush()

    async def _maybe_over(self) -> None:
        if self._ended and not self._session.spdy.writable(self.data):
            await self.inbox.end()


async def serve_spdy(wire: Wire, dial: Dial) -> None:
    """Serve every connection that the client opens, until it leaves."""
    forward = _SpdyForward(SpdySession(wire, spdy.SpdyConnection(client=False, max_streams=2 * MAX_CONNECTIONS)), dial)
    await forward.run()
    if isinstance(wire, WebSocketWire):
        with suppress(ConnectionError):
            await wire.close()


class _SpdyForward:
    def __init__(self, session: SpdySession, dial: Dial) -> None:
        self._session, self._dial = session, dial
        self._pairs: dict[str, SpdyPair] = {}
        self._by_stream: dict[int, SpdyPair] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            with suppress(ChannelsClosed):
                while not self._session.ended:
                    for event in await self._session.pull():
                        await self._on(event, group)
                    await self._session.flush()
            for pair in list(self._by_stream.values()):
                await pair.inbox.end("the client left")

    async def _on(self, event: spdy.Event, group: asyncio.TaskGroup) -> None:
        if isinstance(event, spdy.Opened):
            opened = self._open(event)
            if opened is not None and opened.whole:
                group.create_task(self._serve(opened), name="port-forward")
            return
        pair = self._by_stream.get(getattr(event, "stream", 0))
        if pair is None:
            return
        if isinstance(event, spdy.Data):
            await self._on_data(pair, event)
        elif isinstance(event, spdy.Reset) and event.stream == pair.data:
            await pair.inbox.end("the client gave up the connection")

    async def _on_data(self, pair: SpdyPair, event: spdy.Data) -> None:
        if event.stream == pair.error or pair.inbox.over is not None:
            self._session.spdy.consumed(event.stream, len(event.data))
            return
        if event.data:
            await pair.inbox.put(event.data)
        if event.fin:
            await pair.inbox.put(b"")

    def _open(self, event: spdy.Opened) -> SpdyPair | None:
        kind, port = event.headers.get("streamtype", ""), event.headers.get("port", "")
        if kind not in ("data", "error") or not port_number(port):
            self._session.spdy.reset(event.stream, PROTOCOL_ERROR)
            return None
        # Clients from before requestID open the error stream first and the data stream next.
        key = event.headers.get("requestid") or str(event.stream if kind == "error" else event.stream - 2)
        pair = self._pairs.setdefault(key, SpdyPair(self._session, port_number(port)))
        if getattr(pair, kind) or pair.port != port_number(port) or len(self._pairs) > MAX_CONNECTIONS:
            self._session.spdy.reset(event.stream, PROTOCOL_ERROR)
            return None
        setattr(pair, kind, event.stream)
        self._by_stream[event.stream] = pair
        self._session.spdy.reply(event.stream)
        return pair

    async def _serve(self, pair: SpdyPair) -> None:
        try:
            await forward(pair, pair.port, self._dial)
        finally:
            self._pairs = {key: held for key, held in self._pairs.items() if held is not pair}
            for stream in (pair.data, pair.error):
                self._by_stream.pop(stream, None)


async def forward(client: Channels, port: int, dial: Dial) -> None:
    """Join ``client`` with the pod's port; a refusal is what the client reads on its error channel."""
    try:
        there = await dial(port)
    except CallRefused as error:
        await client.close(str(error))
        return
    except SkerryError as error:
        await client.close(f"port {port} cannot be reached: {error}")
        return
    await pipe(client, there)


def port_number(text: str) -> int:
    """Return the port, 0 when it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 65536 else 0
