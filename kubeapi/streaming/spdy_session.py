"""A SPDY connection over a byte wire: pulls events in, pushes frames out, waits for windows."""

import asyncio
from typing import Protocol

from kubeapi.streaming import websocket
from kubeapi.streaming.spdy import Event, SpdyConnection, SpdyError
from kubeapi.streaming.spdy_wire import PROTOCOL_ERROR
from proto.kit.channels import ChannelsClosed

SEND_BYTES = 32 << 10
LINGER_S = (
    5.0  # Go's spdystream drops what it has not handled yet when the connection ends, so its end waits for the peer's
)


class Wire(Protocol):
    """Bytes both ways. ``kubeapi.http_tunnel.Tunnel`` is one."""

    async def read(self) -> bytes:
        """Return what arrived, ``b""`` at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send, waiting while the peer is slow. Raises ConnectionError."""
        ...


class WebSocketWire:
    """Bytes inside the binary messages of a WebSocket: what kubectl wraps SPDY in."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._socket = websocket.WebSocket(client=False)

    async def read(self) -> bytes:
        while not self._socket.closed:
            data = await self._wire.read()
            if not data:
                return b""
            try:
                events = self._socket.receive(data)
            except websocket.WebSocketError:
                events = []
            await self._flush()
            found = b"".join(event.data for event in events if isinstance(event, websocket.Piece))
            if found:
                return found
        return b""

    async def write(self, data: bytes) -> None:
        self._socket.send(data)
        await self._flush()

    async def close(self) -> None:
        """Say that nothing more comes."""
        self._socket.close()
        await self._flush()

    async def _flush(self) -> None:
        out = self._socket.take()
        if out:
            await self._wire.write(out)


class SpdySession:
    """One task pulls; any number may send."""

    def __init__(self, wire: Wire, spdy: SpdyConnection | None = None) -> None:
        self._wire = wire
        self.spdy = spdy or SpdyConnection(client=False)
        self._credit = asyncio.Event()
        self.ended = False

    async def pull(self) -> list[Event]:
        """Return the next events, nothing when some bytes meant none; ``ended`` afterwards says whether it was the last time.

        Raises ChannelsClosed.
        """
        data = await self._wire.read()
        if not data:
            self._end()
            return []
        try:
            events = self.spdy.receive(data)
        except SpdyError as error:
            self.spdy.goaway(PROTOCOL_ERROR)
            await self.flush()
            self._end()
            raise ChannelsClosed(str(error)) from error
        self._credit.set()
        await self.flush()
        return events

    async def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Send on a stream, in turn with the others and within its window. Raises ChannelsClosed."""
        view = memoryview(data)
        while view or fin:
            if self.ended or not self.spdy.writable(stream):
                raise ChannelsClosed("the stream is closed")
            room = min(self.spdy.sendable(stream), SEND_BYTES)
            if view and not room:
                self._credit.clear()
                await self._credit.wait()
                continue
            last = room >= len(view)
            self.spdy.send(stream, bytes(view[:room]), fin=fin and last)
            await self.flush()
            if last:
                return
            view = view[room:]

    async def consumed(self, stream: int, size_bytes: int) -> None:
        self.spdy.consumed(stream, size_bytes)
        await self.flush()

    async def flush(self) -> None:
        """Send what waits. Raises ChannelsClosed."""
        out = self.spdy.take()
        if out:
            try:
                await self._wire.write(out)
            except ConnectionError as error:
                self._end()
                raise ChannelsClosed(str(error)) from error

    async def goodbye(self) -> None:
        """End in order: say so, then let the peer be the one that hangs up."""
        self.spdy.goaway()
        try:
            async with asyncio.timeout(LINGER_S):
                await self.flush()
                while not self.ended:
                    await self.pull()
        except (TimeoutError, ChannelsClosed):
            return

    def _end(self) -> None:
        self.ended = True
        self._credit.set()
