"""A full disk: devices are refused instead of told a lie, a restart needs nobody, and everything drains."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest

from tests.kit.devices import MODEL, oven, report, report_body
from tests.kit.disk import SmallDisk
from tests.kit.kube import DEVICES
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

UPDATE = "$hw/events/device/kiln/twin/update"
STATUS = f"{DEVICES}/namespaces/default/devicestatuses/kiln"


@pytest.fixture
async def small(platform: Platform, tmp_path: Path) -> AsyncIterator[tuple[Edge, SmallDisk]]:
    """An edge with one oven on a disk of its own."""
    disk = SmallDisk(tmp_path / "gw-1", size_mib=48)
    await disk.mount()
    try:
        edge = await platform.add_edge("gw-1")
        await platform.kube.apply(MODEL, oven())

        async def held() -> bool:
            return bool((await edge.status())["devices"]["total"] == 1)

        await eventually(held)
        yield edge, disk
        await edge.close()
    finally:
        await disk.unmount()


async def acknowledged(edge: Edge, value: str) -> bool:
    """Whether the edge takes a report within a moment."""
    try:
        async with aiomqtt.Client("127.0.0.1", edge.mqtt_port, timeout=2) as client:
            await client.publish(UPDATE, report_body(temperature=value), qos=1)
    except aiomqtt.MqttError:
        return False
    return True


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_a_full_disk_refuses_survives_a_restart_and_drains(
    platform: Platform, small: tuple[Edge, SmallDisk], end: str
) -> None:
    edge, disk = small
    edge.cut()
    for number in range(50):
        await report(edge.mqtt_port, temperature=str(number))
    disk.fill()
    taken = 49
    while await acknowledged(edge, str(taken + 1)):
        taken += 1
    await (edge.kill() if end == "killed" else edge.stop())
    disk.fill()

    await edge.start()
    edge.mend()
    await edge.connected()
    await edge.drained()
    disk.free()

    async def takes_again() -> bool:
        return await acknowledged(edge, "1000")

    await eventually(takes_again, 20)

    async def arrived() -> bool:
        twins = (await platform.kube.get(STATUS)).get("status", {}).get("twins", [])
        return any(twin.get("reported", {}).get("value") == "1000" for twin in twins)

    await eventually(arrived)
