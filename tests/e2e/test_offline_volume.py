"""An edge takes 100,000 updates while the cloud is away, is killed twice, comes back: once, in order, and soon equal."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.episodes import DEVICE_NAMES, MODEL, NODE, device_object, equal
from tests.chaos.ledger import Verdict, judge, stored_numbers
from tests.kit.mqtt_device import MqttDevice
from tests.kit.platform import Platform
from tests.kit.wait import eventually

UPDATES = 100_000
PER_DEVICE = UPDATES // len(DEVICE_NAMES) + 1
DESIRED_CHANGES = 1_000
TWINS_CONVERGE_S = 5.0


def reached(devices: list[MqttDevice], share: float) -> Callable[[], bool]:
    return lambda: all(len(device.acknowledged) > share * PER_DEVICE for device in devices)


@pytest.mark.timeout(600)
async def test_a_hundred_thousand_offline_updates_arrive_once_and_in_order(tmp_path: Path) -> None:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        edge = await platform.add_edge(NODE)
        await platform.kube.apply(MODEL, *(device_object(name, "start") for name in DEVICE_NAMES))
        devices = [MqttDevice(name, edge.mqtt_port, window=64) for name in DEVICE_NAMES]
        try:
            for device in devices:
                device.start()
                assert await asyncio.to_thread(device.hears, "mode", "start", 20.0)
            edge.cut()
            for device in devices:
                device.report(PER_DEVICE)
            for share in (0.33, 0.66):
                await eventually(reached(devices, share), 180.0)
                await edge.kill()
                await edge.start()
            for change in range(DESIRED_CHANGES):
                await platform.kube.apply(device_object(DEVICE_NAMES[0], f"m{change}"))
            for device in devices:
                assert await asyncio.to_thread(device.settle, 180.0), device.refused[-3:]
            heard_before = len(devices[0].deltas)
            last = f"m{DESIRED_CHANGES - 1}"

            edge.mend()
            await edge.connected()
            for device in devices:
                mode = last if device is devices[0] else "start"
                await eventually(lambda d=device, m=mode: equal(platform, d, m), TWINS_CONVERGE_S)  # type: ignore[misc]
            await edge.drained(120.0)

            assert [d["mode"] for d in devices[0].deltas[heard_before:]] == [last]
            verdict = Verdict()
            for device in devices:
                newest = device.published.total() + 10
                verdict.add(judge(device, await stored_numbers(platform, device, newest=newest), after=0))
            assert verdict.clean, verdict
            assert verdict.acknowledged >= UPDATES
        finally:
            for device in devices:
                device.close()
