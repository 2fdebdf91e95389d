"""The cloud's disk is full: it acknowledges nothing that it cannot keep, lives, says so, and goes on when there is room."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.kit.devices import MODEL, oven, report
from tests.kit.disk import SmallDisk
from tests.kit.platform import Edge, Platform, command
from tests.kit.wait import eventually


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SmallDisk]:
    made = SmallDisk(tmp_path / "cloud")
    await made.mount()
    yield made
    await made.unmount()


@pytest.fixture
async def platform(disk: SmallDisk, tmp_path: Path) -> AsyncIterator[Platform]:
    async with Platform(tmp_path) as made:
        await made.start_cloud()
        yield made


async def has_device(edge: Edge) -> bool:
    return bool((await edge.status())["devices"]["total"])


async def test_reports_wait_on_the_edge_while_the_clouds_disk_is_full(platform: Platform, disk: SmallDisk) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: has_device(edge))
    await report(edge.mqtt_port, temperature="0")
    await edge.drained()

    disk.fill()
    values = [str(n) for n in range(1, 400)]
    for value in values:
        await report(edge.mqtt_port, temperature=value)
    out = await command("cloudcore", "doctor", "-o", "json", "--data-dir", str(platform.cloud_dir), check=False)
    levels = {check["name"]: check["level"] for check in msgspec.json.decode(out)["checks"]}
    assert levels["disk space"] == "Error"
    assert platform.cloud.running

    disk.free()
    await edge.drained(60)
    said = await command("cloudcore", "history", "kiln", "-o", "json", "--data-dir", str(platform.cloud_dir))
    assert [row["value"] for row in msgspec.json.decode(said)] == ["0", *values]
    assert "Traceback" not in platform.cloud.log.read_text()
