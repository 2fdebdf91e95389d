"""The CRI runtime against Debian's containerd with crun and CNI."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edgecore.pods.cri import CriRuntime
from proto.kit.clock import SystemClock
from tests.conformance.runtime.promises import RuntimeConformance
from tests.conformance.runtime.settings import NetworkPromises
from tests.conformance.runtime.stored import PullPromises
from tests.conformance.runtime.world import Node, World
from tests.kit import images
from tests.kit.containerd import Host
from tests.kit.registry import Registry


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One host for the module: nothing in it outlives a test but the images."""
    one = Host(tmp_path_factory.mktemp("host") / "h")

    async def start() -> None:
        await one.open()
        await one.start()

    try:
        asyncio.run(start())
        yield one
    finally:
        asyncio.run(one.close())


@pytest.fixture
def node(host: Host) -> Node:
    def reopen() -> CriRuntime:
        return CriRuntime(host.socket, SystemClock(), dial=host.connect)

    return Node(images.BUSYBOX_REF, host.cgroup, host.dial, host.run, reopen)


@pytest.fixture
async def world(node: Node, tmp_path: Path) -> AsyncIterator[World]:
    one = World(node.reopen(), node, tmp_path)
    yield one
    await one.close()


@pytest.fixture
def registry(host: Host) -> Iterator[Registry]:
    one = Registry(host.listener())
    yield one
    one.close()


class TestCri(RuntimeConformance, NetworkPromises, PullPromises):
    """All of the port's promises."""
