"""The process runtime, in a network of its own on this machine."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edgecore.pods.process.runtime import ProcessRuntime
from edgecore.pods.runtime import Security
from proto.kit.clock import SystemClock
from tests.conformance.runtime.promises import RuntimeConformance
from tests.conformance.runtime.settings import NetworkPromises, field
from tests.conformance.runtime.stored import PullPromises
from tests.conformance.runtime.world import Node, World
from tests.kit import images
from tests.kit.containerd import Host
from tests.kit.registry import Registry


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A network and a mount namespace; its containerd is never started."""
    one = Host(tmp_path_factory.mktemp("host") / "h")
    try:
        asyncio.run(one.open())
        runtime = open_on(one)
        asyncio.run(runtime.import_archive(images.archive("busybox")))
        yield one
    finally:
        asyncio.run(one.close())


def open_on(host: Host) -> ProcessRuntime:
    prefix = tuple(host.argv_prefix)
    return ProcessRuntime(host.folder / "data", SystemClock(), subnet="10.88.0.0/24", prefix=prefix)


@pytest.fixture
def node(host: Host) -> Node:
    return Node(images.BUSYBOX_REF, host.cgroup, host.dial, host.run, lambda: open_on(host))


@pytest.fixture
async def world(node: Node, tmp_path: Path) -> AsyncIterator[World]:
    one = World(node.reopen(), node, tmp_path)
    yield one
    await one.close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    one = Registry(socket.create_server(("127.0.0.1", 0)))
    yield one
    one.close()


class TestProcess(RuntimeConformance, NetworkPromises, PullPromises):
    """All of the port's promises."""

    async def test_no_new_privileges_and_seccomp_are_set_as_asked(self, world: World) -> None:
        """bubblewrap takes new privileges from whatever it starts, so a container never has them (PROC-9)."""
        strict = await world.shell("cat /proc/self/status", security=Security(seccomp="RuntimeDefault"))
        loose = await world.shell("cat /proc/self/status", security=Security(seccomp="Unconfined"))

        assert (field(strict, "NoNewPrivs"), field(strict, "Seccomp")) == ("1", "2")
        assert (field(loose, "NoNewPrivs"), field(loose, "Seccomp")) == ("1", "0")
