"""The CRI runtime against Debian's containerd with crun and CNI."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edgecore.pods.cri import CriRuntime
from edgecore.pods.runtime import State
from proto.kit.clock import SystemClock
from tests.conformance.runtime.daemon import DaemonPromises
from tests.conformance.runtime.promises import RuntimeConformance
from tests.conformance.runtime.settings import NetworkPromises
from tests.conformance.runtime.stored import PullPromises
from tests.conformance.runtime.world import Node, World
from tests.kit import images
from tests.kit.containerd import Host, hosted
from tests.kit.leftovers import cgroup_folders
from tests.kit.registry import Registry


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One host for the module: nothing in it outlives a test but the images."""
    with hosted(tmp_path_factory.mktemp("host") / "h") as one:
        yield one


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


@pytest.fixture
def daemon(host: Host) -> Host:
    return host


@pytest.fixture
async def impatient(host: Host) -> AsyncIterator[CriRuntime]:
    """A client that takes the runtime for hanging sooner."""
    one = CriRuntime(host.socket, SystemClock(), dial=host.connect, quick_s=0.5)
    yield one
    await one.close()


class TestCri(RuntimeConformance, NetworkPromises, PullPromises, DaemonPromises):
    """All of the port's promises."""

    async def test_changes_name_a_pod_whose_sandbox_ended_by_itself(self, world: World, host: Host) -> None:
        pod = world.sandbox()
        sandbox_id = await world.run_sandbox(pod)
        changes = world.runtime.changes()
        heard = asyncio.ensure_future(anext(changes))
        await world.runtime.sandbox_status(sandbox_id)

        for folder in cgroup_folders(f"{pod.cgroup_parent}/{sandbox_id}"):
            for pid in (folder / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        async with asyncio.timeout(20):
            while await heard != pod.uid:
                heard = asyncio.ensure_future(anext(changes))

        assert (await world.runtime.sandbox_status(sandbox_id)).state is State.EXITED
        await changes.aclose()  # type: ignore[attr-defined]

    async def test_a_pod_starts_where_the_sandbox_image_can_be_had_from_nowhere(self, world: World) -> None:
        brought = await world.runtime.image(images.PAUSE_REF)
        assert brought is not None
        await world.runtime.remove_image(brought.id)
        assert await world.runtime.image(images.PAUSE_REF) is None

        sandbox_id = await world.run_sandbox(world.sandbox())

        assert (await world.runtime.sandbox_status(sandbox_id)).state is State.RUNNING
