"""An edge of a Platform on a host of its own: edgecore inside, with containerd or as the runtime itself; the cloud outside."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from edgecore.data_dir import DataDir
from edgecore.pods import cgroups, clearing
from edgecore.settings import Settings
from proto.kit.clock import SystemClock
from tests.kit.containerd import Host
from tests.kit.leftovers import end_all, namespace, with_children
from tests.kit.platform import Edge, Platform, command
from tests.kit.relay import PIECE_BYTES, Relay
from tests.kit.wait import eventually

READY_S = 30.0


@asynccontextmanager
async def gateway(
    platform: Platform, folder: Path, name: str, *sets: str, runtime: str = "cri", subnet: str = "10.88.0.0/16"
) -> AsyncIterator[Edge]:
    """Run edgecore on a new host until the block ends; its Node is Ready. ``mqtt_port``, ``api_port`` and ``local_port`` lead inside.

    The host is ``edge.host``; a containerd runs there where ``runtime`` is ``cri``. Either runtime has the host's images.
    """
    host = Host(folder, subnet=subnet)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(host.close)
        await host.open()
        if runtime == "cri":
            await host.start()
        where = (f"pods.runtime={runtime}", f"pods.cri_socket={host.socket}", f"pods.process_subnet={subnet}")
        edge = await platform.add_edge(name, *where, *sets, start=False)
        edge.host, edge.runtime = host, runtime
        stack.push_async_callback(_end, edge)  # before the host goes: these are its processes
        if runtime == "process":
            here = ("--data-dir", str(edge.data_dir), "--set", "pods.runtime=process")
            for archive in host.archives:
                await command("edgecore", "images", "import", str(archive), *here)
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


async def power_cut(edge: Edge) -> None:
    """Everything on the host ends at once, and what a boot clears is cleared; disk and images stay."""
    host = edge.host
    assert host is not None
    end_all(lambda: _processes(edge))
    await edge.kill()
    host.power_cut()
    if edge.runtime == "process":
        host.run("sh", "-c", "ip link del skerry0; nft delete table ip skerry; true")


async def boot(edge: Edge) -> None:
    """Start what a boot starts, after a power cut."""
    assert edge.host is not None
    if edge.runtime == "cri":
        await edge.host.start()
    await edge.start()


def _processes(edge: Edge) -> list[int]:
    """What runs on the host: in its namespaces, or a supervisor of a pod, and all that came from these."""
    assert edge.host is not None
    spaces = {namespace(edge.host.pid, kind) for kind in ("mnt", "net")}

    def inside(pid: int) -> bool:
        return bool({namespace(pid, "mnt"), namespace(pid, "net")} & spaces) or str(edge.data_dir) in words(pid)

    return [pid for pid in with_children(inside) if pid not in {edge.host.pid, os.getpid()}]


def words(pid: int) -> str:
    """The command line of a process; "" when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


async def _end(edge: Edge) -> None:
    """Plain processes outlive their daemon, in namespaces of their own: nobody else ends them."""
    await edge.kill()
    if edge.runtime != "process":
        return

    def cleared() -> bool:
        try:
            clearing.clear(DataDir(edge.data_dir), Settings(), SystemClock())
        except cgroups.StillRunning:  # the dead are still being collected
            return False
        return True

    try:
        await eventually(lambda: asyncio.to_thread(cleared), READY_S)
    finally:
        end_all(lambda: _processes(edge))


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
