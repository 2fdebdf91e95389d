"""An edge of a Platform on a host of its own: edgecore inside, with containerd; the cloud outside."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from tests.kit.containerd import Host
from tests.kit.platform import Edge, Platform
from tests.kit.relay import PIECE_BYTES, Relay
from tests.kit.wait import eventually

READY_S = 30.0


@asynccontextmanager
async def gateway(
    platform: Platform, folder: Path, name: str, *sets: str, runtime: str = "cri", subnet: str = "10.88.0.0/16"
) -> AsyncIterator[Edge]:
    """Run edgecore on a new host until the block ends; its Node is Ready. ``mqtt_port``, ``api_port`` and ``local_port`` lead inside.

    The host is ``edge.host``; a containerd runs there where ``runtime`` is ``cri``.
    """
    host = Host(folder, subnet=subnet)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(host.close)
        await host.open()
        if runtime == "cri":
            await host.start()
        where = (f"pods.runtime={runtime}", f"pods.cri_socket={host.socket}")
        edge = await platform.add_edge(name, *where, *sets, start=False)
        edge.host = host
        stack.push_async_callback(edge.kill)  # before the host goes: it is one of its processes
        await edge.relay.close()
        edge.relay = Relay(platform.broker_port)
        await edge.relay.start(sock=host.listener())
        daemon = edge.process
        daemon.argv = [*host.argv_prefix, *daemon.argv]
        await daemon.start()
        edge.mqtt_port = await _door(host, edge.mqtt_port, stack)
        edge.api_port = await _door(host, edge.api_port, stack)
        edge.local_port = await _door(host, edge.local_port, stack)
        await eventually(lambda: _is_ready(platform, name), READY_S)
        yield edge


async def _is_ready(platform: Platform, name: str) -> bool:
    node = await platform.kube.find(f"/api/v1/nodes/{name}")
    status = (node or {}).get("status") or {}
    ready = [c["status"] for c in status.get("conditions") or [] if c["type"] == "Ready"]
    pods = (status.get("allocatable") or {}).get("pods", "0")
    return ready == ["True"] and pods != "0"


async def _door(host: Host, port: int, stack: AsyncExitStack) -> int:
    """Listen outside for what listens inside on ``port``."""

    async def one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await host.dial("127.0.0.1", port)
        await asyncio.gather(one_way(reader, there_writer), one_way(there_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])
