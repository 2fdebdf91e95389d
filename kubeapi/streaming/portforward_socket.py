"""port-forward as older WebSocket clients do it (the Python ones): two channels per port of the query, one connection each.

Data at ``2 i``, error at ``2 i + 1``; each begins with the port as two little-endian bytes. There is no half-close.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from kubeapi.streaming.channel_socket import ChannelSocket
from kubeapi.streaming.portforward import Dial, Inbox, forward
from kubeapi.streaming.spdy_session import Wire
from proto.kit.channels import DATA, ERROR, ChannelsClosed, Chunk

SOCKET_PROTOCOLS = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")
MAX_PORTS = 32


@dataclass
class SocketPort:
    """One port of the older form: the client's end of its only connection."""

    channel: int
    port: int
    send: Callable[[int, bytes], Awaitable[None]]
    inbox: Inbox = field(default_factory=Inbox)

    async def read(self) -> Chunk | None:
        data = await self.inbox.get()
        return None if data is None else Chunk(DATA, data)

    async def write(self, channel: int, data: bytes) -> None:
        await self.send(self.channel + (channel != DATA), data)

    async def finish(self, channel: int) -> None:
        """Without half-closes, the end of one direction is the end of the connection."""
        if channel == DATA:
            await self.inbox.end()

    async def close(self, error: str = "") -> None:
        if self.inbox.over is None and error:
            with suppress(ChannelsClosed):
                await self.write(ERROR, error.encode())
        await self.inbox.end(error)


async def serve_socket(wire: Wire, protocol: str, ports: list[int], dial: Dial) -> None:
    """Serve one connection per port, until all are over or the client leaves."""
    socket = ChannelSocket(wire, protocol)
    held = [SocketPort(2 * i, port, socket.send) for i, port in enumerate(ports)]
    with suppress(ChannelsClosed):
        for one in held:
            for channel in (one.channel, one.channel + 1):
                await socket.send(channel, one.port.to_bytes(2, "little"))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_deliver(socket, held), name="port-forward-in")
            async with asyncio.TaskGroup() as connections:
                for one in held:
                    connections.create_task(forward(one, one.port, dial), name="port-forward")
            reading.cancel()
    await socket.close()


async def _deliver(socket: ChannelSocket, ports: list[SocketPort]) -> None:
    """Bring what the client sends to its ports, until it leaves."""
    reason = "the client left"
    try:
        while (received := await socket.receive()) is not None:
            for channel, data in received:
                if channel % 2 == 0 and channel // 2 < len(ports):
                    await ports[channel // 2].inbox.put(data)
    except ChannelsClosed as error:
        reason = str(error)
    for one in ports:
        await one.inbox.end(reason)
