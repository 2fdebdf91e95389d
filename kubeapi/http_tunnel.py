"""The raw bytes of a connection after an HTTP upgrade, with back-pressure both ways."""

import asyncio
import socket
from contextlib import suppress

KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))  # a dead peer: 2 minutes
HOLD_BYTES = 64 << 10  # unread bytes that stop the reading from the network


class TunnelClosed(ConnectionError):
    """The client is gone."""


class Tunnel:
    """One end of an upgraded connection: ``read`` and ``write`` may be awaited by one task each, or several writers."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._paused = False
        self._ended = self._gone = False
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def read(self) -> bytes:
        """Return what arrived, in order; ``b""`` once the client sends nothing more."""
        while not self._chunks:
            if self._ended or self._gone:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held_bytes = 0
        if self._paused and not self._gone:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send ``data``; returns once the buffer has room again. Raises TunnelClosed."""
        if self._gone:
            raise TunnelClosed("the client is gone")
        if data:
            self._transport.write(data)
        await self._writable.wait()
        if self._gone:
            raise TunnelClosed("the client is gone")

    # What the connection tells

    def feed(self, data: bytes) -> None:
        """Take bytes from the network."""
        if not data or self._gone:
            return
        self._chunks.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > HOLD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._changed.set()

    def end(self) -> None:
        """The client sends nothing more."""
        self._ended = True
        self._changed.set()

    def lose(self) -> None:
        """The connection is gone."""
        self._gone = True
        self._changed.set()
        self._writable.set()

    def pause(self) -> None:
        self._writable.clear()

    def resume(self) -> None:
        self._writable.set()


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the kernel find out when a silent peer is dead."""
    sock = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
