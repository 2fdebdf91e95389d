"""Cgroups as the kernel has them: the limits of a container in whichever version this machine has, and version 2 by itself (PROC-6)."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edgecore.pods import mounts
from edgecore.pods.process.plans import MAX_PIDS
from edgecore.pods.process.shim import cgroup
from edgecore.pods.runtime import Resources
from tests.conformance.runtime import test_process
from tests.conformance.runtime.world import FOREVER, Node, World
from tests.kit.leftovers import cgroup_folders, remove_cgroup
from tests.kit.wait import eventually

host, node = test_process.host, test_process.node
TOP = f"/skerry-{os.getpid()}-two"
POD = f"{TOP}/pod"
SPINS = "import os; os.fork(); os.fork()\nwhile True: pass"
LIMITS = Resources(cpu_shares=512, cpu_quota_us=50_000, cpu_period_us=100_000, memory_bytes=64 << 20)
VERSION_1 = {"cpu.shares": "512", "cpu.cfs_quota_us": "50000", "memory.limit_in_bytes": str(64 << 20)}
VERSION_2 = {"cpu.weight": "20", "cpu.max": "50000 100000", "memory.max": str(64 << 20)}


@pytest.fixture
async def world(node: Node, tmp_path: Path) -> AsyncIterator[World]:
    one = World(node.reopen(), node, tmp_path)
    yield one
    await one.close()


async def test_the_kernel_holds_the_limits_of_a_container(world: World) -> None:
    pod = world.sandbox()
    container_id = await world.run(*FOREVER, pod=pod, resources=LIMITS)

    where = cgroup.Hierarchies()
    wanted = {**(VERSION_2 if where.version == 2 else VERSION_1), "pids.max": str(MAX_PIDS)}
    folders = {name: where.folder(name.split(".")[0], f"{pod.cgroup_parent}/{container_id}") for name in wanted}
    assert {name: text(f"{folder}/{name}") for name, folder in folders.items()} == wanted


def text(file: str) -> str:
    return Path(file).read_text().strip()


@pytest.fixture
def unified() -> Iterator[cgroup.Hierarchies]:
    """The unified hierarchy by itself. Where version 1 has taken the controllers, cgroups have none, and all else is as it is."""
    where = cgroup.Hierarchies()
    where.v1, where.v2 = {}, next(mount.path for mount in mounts.table() if mount.kind == "cgroup2")
    yield where
    cgroup.kill([where.v2 + POD])
    remove_cgroup(TOP)


async def test_a_cgroup_of_version_two_is_made_joined_measured_killed_and_removed(unified: cgroup.Hierarchies) -> None:
    cgroup.make(unified, POD)
    folders = unified.folders(POD)
    process = subprocess.Popen([sys.executable, "-c", SPINS], preexec_fn=lambda: cgroup.join(folders))  # noqa: ASYNC220, PLW1509

    await eventually(lambda: len(cgroup.processes(folders)) == 4)
    await eventually(lambda: cgroup.usage(unified, POD)[0] > 0)
    killed = cgroup.kill(folders)
    process.wait()
    cgroup.remove(folders)

    assert (folders, killed, process.returncode) == ([unified.v2 + POD], True, -signal.SIGKILL)
    assert cgroup_folders(POD) == []


async def test_a_limit_without_its_controller_is_told_by_its_file(unified: cgroup.Hierarchies) -> None:
    cgroup.make(unified, POD)
    has = (Path(unified.v2) / "cgroup.controllers").read_text().split()

    refused = cgroup.limit(unified, POD, {"memory_bytes": 1 << 20, "pids": 9})

    files = {"memory": "memory.max", "pids": "pids.max"}
    assert [said.split(": ")[0] for said in refused] == [
        f"{unified.v2}{POD}/{file}" for name, file in files.items() if name not in has
    ]
