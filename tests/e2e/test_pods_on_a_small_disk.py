"""A real edgecore on a disk that a pod fills: that pod goes, the others stay, the node says so and recovers (POD-15)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgecore import offline
from proto.kit import canonical
from tests.e2e.conftest import LoneEdge
from tests.e2e.test_pods_of_a_lone_edge import events, is_ready, seed, status
from tests.kit.containerd import Host
from tests.kit.disk import SmallDisk
from tests.kit.pods import container, pod
from tests.kit.wait import eventually

Json = dict[str, Any]
SETTINGS = """
pods: {evict_after_s: 1, evict_disk_bytes: 25165824}
node_options: {disk_low_bytes: 25165824, status_every_s: 1}
"""


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[LoneEdge]:
    host, disk = Host(tmp_path / "h", subnet="10.92.0.0/16"), SmallDisk(tmp_path / "small")
    await disk.mount()
    try:
        await host.open()
        await host.start()
        one = LoneEdge(disk.path)
        with one.directory.settings.open("a") as file:
            file.write(SETTINGS)
        one.find_runtime()
        one.daemon.argv = [*host.argv_prefix, *one.daemon.argv]
        yield one
        await one.daemon.kill()
    finally:
        await host.close()
        await disk.unmount()


def pressure(edge: LoneEdge) -> str:
    """What the node says of its disk."""
    row = offline.read(edge.directory, lambda db: db.execute("SELECT body FROM node_status").fetchone())
    shown = canonical.decode(row[0])["status"] if row else {"conditions": []}
    return next((c["status"] for c in shown["conditions"] if c["type"] == "DiskPressure"), "")


async def test_the_pod_that_fills_the_disk_is_evicted_and_the_node_recovers(edge: LoneEdge) -> None:
    fills = ("sh", "-c", "dd if=/dev/zero of=/data/all bs=1M count=60; sleep 1000")
    hog = container(command=fills, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    wanted: Json = {"terminationGracePeriodSeconds": 0}
    await seed(
        edge,
        pod("modest", priority=-5, **wanted),
        pod("hog", hog, volumes=[{"name": "data", "emptyDir": {}}], **wanted),
    )
    await edge.daemon.start()

    await eventually(lambda: pressure(edge) == "True", 40)
    await eventually(lambda: status(edge, "hog").get("phase") == "Failed", 40)
    said = status(edge, "hog")
    assert said["reason"] == "Evicted"
    assert said["message"].startswith("The node was low on resource: ephemeral-storage. Threshold quantity: 24Mi")
    await eventually(lambda: events(edge, "Evicted"))

    await eventually(lambda: pressure(edge) == "False", 40)
    await asyncio.wait_for(edge.daemon.kill(), 10)
    await seed(edge, pod("later", **wanted))
    await edge.daemon.start()
    await eventually(lambda: is_ready(edge, "later"), 20)
    assert is_ready(edge, "modest"), "what takes little stays, whatever its priority"
    assert status(edge, "hog")["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
