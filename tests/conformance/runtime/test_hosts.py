"""The kit itself: hosts stand side by side, survive a power cut as a machine does, and leave nothing behind."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from edgecore.pods.cri import CriRuntime
from edgecore.pods.runtime import State
from proto.kit.clock import SystemClock
from tests.conformance.runtime.world import Node, World
from tests.kit import images
from tests.kit.containerd import Host, host
from tests.kit.leftovers import cgroup_folders, end_leftovers, with_children
from tests.kit.relay import Relay
from tests.kit.wait import eventually

ROOT = Path(__file__).parents[3]
ABANDONING = """
import asyncio, sys
from pathlib import Path
from tests.conformance.runtime.test_hosts import world_on
from tests.kit.containerd import Host

async def main():
    host = Host(Path(sys.argv[1]))
    await host.open()
    await host.start()
    world = world_on(host, Path(sys.argv[1]))
    await world.run("sleep", sys.argv[2])
    print(host.cgroup, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def world_on(one: Host, folder: Path) -> World:
    def reopen() -> CriRuntime:
        return CriRuntime(one.socket, SystemClock(), dial=one.connect)

    node = Node(images.BUSYBOX_REF, one.cgroup, one.dial, one.run, reopen)
    return World(reopen(), node, folder)


async def test_two_hosts_give_their_pods_the_same_address_and_do_not_meet(tmp_path: Path) -> None:
    async with host() as first, host() as second:
        worlds = [world_on(one, tmp_path / name) for one, name in ((first, "a"), (second, "b"))]
        pods = [await world.run_sandbox(world.sandbox()) for world in worlds]

        found = [await world.runtime.sandbox_status(pod) for world, pod in zip(worlds, pods, strict=True)]
        listed = [len(await world.runtime.sandboxes()) for world in worlds]
        for world in worlds:
            await world.runtime.close()

    assert found[0].ips == found[1].ips != ()
    assert listed == [1, 1]


async def test_after_a_power_cut_images_are_there_and_nothing_runs(tmp_path: Path) -> None:
    async with host() as one:
        world = world_on(one, tmp_path)
        container_id = await world.run()
        await world.runtime.close()

        one.power_cut()
        await one.start()
        world = world_on(one, tmp_path)

        assert (await world.runtime.container_status(container_id)).state is not State.RUNNING
        assert await world.runtime.image(images.BUSYBOX_REF) is not None
        assert await world.shell("echo again") == "again\n"
        await world.close()


async def test_a_closed_host_leaves_nothing_behind(tmp_path: Path) -> None:
    one = Host(tmp_path / "host")
    await one.open()
    await one.start()
    world = world_on(one, tmp_path)
    marker = str(20_000_000 + os.getpid())
    await world.run("sleep", marker)
    await world.runtime.close()
    await eventually(lambda: running(f"sleep {marker}"))
    assert cgroup_folders(one.cgroup)

    await one.close()

    assert not running(f"sleep {marker}")
    assert not running(str(one.folder))
    assert cgroup_folders(one.cgroup) == []


async def test_what_a_killed_test_left_is_ended_by_the_next(tmp_path: Path) -> None:
    marker = str(10_000_000 + os.getpid())
    argv = [sys.executable, "-c", ABANDONING, str(tmp_path / "host"), marker]
    abandoning = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    try:
        assert abandoning.stdout is not None
        cgroup = (await asyncio.to_thread(abandoning.stdout.readline)).strip()
        await eventually(lambda: running(f"sleep {marker}"))
    finally:
        abandoning.kill()
        abandoning.communicate()

    end_leftovers.cache_clear()
    end_leftovers()

    assert not running(f"sleep {marker}")
    await eventually(lambda: cgroup_folders(cgroup) == [])


async def test_a_cable_and_a_relay_lead_out_of_a_host(tmp_path: Path) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    async with host() as one:
        outside, _ = one.uplink()
        relay = Relay(port)
        await relay.start(sock=one.listener(port=7000))

        for address, number in ((outside, port), ("127.0.0.1", 7000)):
            reader, writer = await one.dial(address, number)
            assert await reader.readline() == b"hello\n"
            writer.close()
        await relay.close()
    server.close()


def running(text: str) -> list[int]:
    """Processes whose command line holds ``text``."""

    def says(pid: int) -> bool:
        try:
            return text in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return False

    return with_children(says)


async def test_the_python_image_serves_http(tmp_path: Path) -> None:
    async with host(archives=("python",)) as one:
        world = world_on(one, tmp_path)
        pod = world.sandbox()
        sandbox_id = await world.run_sandbox(pod)
        await world.add(sandbox_id, pod, image=images.PYTHON_REF, args=("-m", "http.server", "8000"))
        (address,) = (await world.runtime.sandbox_status(sandbox_id)).ips

        async def answer() -> bytes:
            try:
                reader, writer = await one.dial(address, 8000)
            except OSError:
                return b""
            writer.write(b"GET /usr/bin/ HTTP/1.0\r\n\r\n")
            heard = await reader.read()
            writer.close()
            return heard

        assert b"python3" in await eventually(answer)
        await world.close()
