"""Seeded fault episodes against real processes. One world per broker; each episode ends healed, judged and converged."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.chaos.brokers import ForeignBroker, foreign
from tests.chaos.ledger import Verdict, judge, stored_numbers
from tests.kit.disk import SmallDisk
from tests.kit.kube import DEVICES
from tests.kit.mqtt_device import MqttDevice
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

NODE = "gw-1"
DEVICE_NAMES = ("anvil", "bench", "crane")
HEAL_S = 40.0  # after the last fault, everything must be equal within this
KEEP_ALIVE_S = 2  # a half-open link is noticed in 3 s, so an episode can hold several

MODEL = {
    "apiVersion": "devices.kubeedge.io/v1beta1",
    "kind": "DeviceModel",
    "metadata": {"name": "counter", "namespace": "default"},
    "spec": {
        "properties": [
            {"name": "count", "type": "INT", "accessMode": "ReadOnly"},
            {"name": "mode", "type": "STRING", "accessMode": "ReadWrite"},
        ]
    },
}


def device_object(name: str, mode: str) -> dict[str, Any]:
    """One Device on the node, with ``mode`` desired."""
    properties = [{"name": "count"}, {"name": "mode", "desired": {"value": mode}}]
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"deviceModelRef": {"name": "counter"}, "nodeName": NODE, "properties": properties},
    }


@dataclass
class World:
    """Cloud, edge, broker in between and devices; ``broker`` None means the embedded one."""

    platform: Platform
    broker: ForeignBroker | None
    edge: Edge
    devices: list[MqttDevice]
    disk: SmallDisk
    stack: AsyncExitStack
    judged_up_to: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    async def build(cls, folder: Path, broker_name: str) -> Self:
        """Start everything and register the devices."""
        async with AsyncExitStack() as stack:
            broker = foreign(broker_name, folder)
            args: tuple[str, ...] = ()
            if broker is not None:
                stack.push_async_callback(broker.kill)
                await broker.start()
                args = ("--broker", broker.url, "--set", "broker.mqtt_version=4")
            disk = SmallDisk(folder / NODE)
            await disk.mount()
            stack.push_async_callback(disk.unmount)
            sets = (f"link.keep_alive_s={KEEP_ALIVE_S}",)
            platform = await stack.enter_async_context(Platform(folder, cloud_sets=sets, cloud_args=args))
            if broker is not None:
                platform.broker_port = broker.port
            await platform.start_cloud()
            edge = await platform.add_edge(NODE, *sets, start=False)
            if broker is not None:
                edge.broker_scheme = "mqtt"
            await edge.start()
            await edge.connected()
            await platform.kube.apply(MODEL, *(device_object(name, "start") for name in DEVICE_NAMES))
            devices = [MqttDevice(name, edge.mqtt_port) for name in DEVICE_NAMES]
            for device in devices:
                device.start()
                stack.callback(device.close)
                heard = await asyncio.to_thread(device.hears, "mode", "start", 20.0)
                assert heard, f"{device.name} heard no desired value:\n{edge.process.tail()}"
            judged = dict.fromkeys(DEVICE_NAMES, 0)
            return cls(platform, broker, edge, devices, disk, stack.pop_all(), judged)

    async def close(self) -> None:
        await self.stack.aclose()

    async def heal(self) -> None:
        """Undo every fault; whoever is dead starts again. Nothing else is repaired by hand."""
        self.edge.mend()
        if self.broker is not None and (self.broker.process is None or self.broker.process.returncode is not None):
            await self.broker.start()
        if not self.platform.cloud.running:
            await self.platform.start_cloud()
        self.disk.free()
        if not self.edge.process.running:
            await self.edge.start()


async def kill_edge(world: World, _rng: random.Random) -> None:
    await world.edge.kill()
    await world.edge.start()


async def kill_cloud(world: World, _rng: random.Random) -> None:
    await world.platform.kill_cloud()
    await world.platform.start_cloud()


async def kill_broker(world: World, rng: random.Random) -> None:
    if world.broker is None:  # it lives in cloudcore
        await kill_cloud(world, rng)
        return
    await world.broker.kill()
    await pause(rng, 0.1, 1.0)
    await world.broker.start()


async def cut(world: World, rng: random.Random) -> None:
    world.edge.cut()
    await pause(rng, 0.1, 2.0)
    world.edge.mend()


async def half_open(world: World, rng: random.Random) -> None:
    world.edge.pause_link()
    await pause(rng, 0.5, 2.0 * KEEP_ALIVE_S)
    world.edge.mend()


async def flap(world: World, rng: random.Random) -> None:
    """Reset the connection many times: whatever was in flight is sent again, so duplicates arrive."""
    for _ in range(rng.randint(3, 8)):
        world.edge.relay.drop()
        await pause(rng, 0.02, 0.4)


async def freeze_cloud(world: World, rng: random.Random) -> None:
    world.platform.cloud.pause()
    await pause(rng, 0.5, 2.0 * KEEP_ALIVE_S)
    world.platform.cloud.resume()


async def disk_full(world: World, rng: random.Random) -> None:
    world.disk.fill()
    await pause(rng, 0.3, 1.5)
    world.disk.free()


async def kill_both_in_the_dark(world: World, rng: random.Random) -> None:
    world.edge.cut()
    await world.edge.kill()
    await world.platform.kill_cloud()
    await world.edge.start()
    await pause(rng, 0.1, 0.5)
    await world.platform.start_cloud()
    world.edge.mend()


Fault = Callable[[World, random.Random], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_edge,
        kill_cloud,
        kill_broker,
        cut,
        half_open,
        flap,
        freeze_cloud,
        disk_full,
        kill_both_in_the_dark,
    )
}


async def pause(rng: random.Random, least_s: float, most_s: float) -> None:
    """The length of a fault, by the seed."""
    await asyncio.sleep(rng.uniform(least_s, most_s))


async def episode(world: World, seed: int) -> Verdict:
    """One to three faults while devices report and the office changes its mind; heal, judge. Raises on no convergence."""
    rng = random.Random(seed)
    names = rng.sample(sorted(FAULTS), rng.randint(1, 3))
    world.faults = names
    wanted = dict.fromkeys(DEVICE_NAMES, f"m{seed}")
    async with asyncio.TaskGroup() as both_sides:
        both_sides.create_task(report_steadily(world, rng.randint(5, 15)))
        for name in names:
            await FAULTS[name](world, rng)
            for device in world.devices:
                device.report(rng.randint(3, 12))
    await world.heal()
    for name, mode in wanted.items():
        await patched(world, name, mode)
    return await settled(world, wanted)


async def report_steadily(world: World, bursts: int) -> None:
    for _ in range(bursts):
        for device in world.devices:
            device.report(2)
        await asyncio.sleep(0.1)


async def patched(world: World, name: str, mode: str) -> None:
    """Change the desired mode; a cloud that is just coming up is asked again."""

    async def tried() -> bool:
        try:
            await world.platform.kube.apply(device_object(name, mode))
        except (OSError, ConnectionError):
            return False
        except Exception as error:
            if "refused" in str(error) or "closed" in str(error):
                return False
            raise
        return True

    await eventually(tried, HEAL_S)


async def settled(world: World, wanted: dict[str, str]) -> Verdict:
    """Wait until all is acknowledged, drained and equal; return what the ledger says."""
    for device in world.devices:
        assert await asyncio.to_thread(device.settle, HEAL_S), (
            f"{device.name} was not answered: {device.refused[-3:]}\n{world.edge.process.tail()}"
        )
    await world.edge.connected(HEAL_S)
    await world.edge.drained(HEAL_S)
    for device in world.devices:
        assert await asyncio.to_thread(device.hears, "mode", wanted[device.name], HEAL_S), f"{device.name}: no delta"
        await converged(world, device, wanted[device.name])
    verdict = Verdict()
    for device in world.devices:
        after = world.judged_up_to[device.name]
        newest = sum(device.published[n] for n in range(after + 1, device.last + 1)) + 100
        verdict.add(judge(device, await stored_numbers(world.platform, device, newest=newest), after=after))
        world.judged_up_to[device.name] = device.last
    return verdict


async def converged(world: World, device: MqttDevice, mode: str) -> None:
    """Wait until the cloud shows what the device last said; a failure tells what each of the three holds."""
    assert await asyncio.to_thread(device.settle, HEAL_S), f"{device.name} was not answered: {device.refused[-3:]}"
    try:
        await eventually(lambda: equal(world.platform, device, mode), HEAL_S)
    except AssertionError as error:
        path = f"{DEVICES}/namespaces/default/devicestatuses/{device.name}"
        shown = (await world.platform.kube.find(path) or {}).get("status")
        raise AssertionError(
            f"{device.name} said count={device.last} mode={mode}; the cloud shows {shown};"
            f" the edge {await world.edge.status()}; refused {device.refused[-3:]}\n{world.edge.process.tail(15)}"
        ) from error


async def equal(platform: Platform, device: MqttDevice, mode: str) -> bool:
    """Whether the cloud shows the device's last count and its mode."""
    found = await platform.kube.find(f"{DEVICES}/namespaces/default/devicestatuses/{device.name}")
    twins = ((found or {}).get("status") or {}).get("twins") or []
    shown = {twin["propertyName"]: twin.get("reported", {}).get("value") for twin in twins}
    return shown.get("count") == str(device.last) and shown.get("mode") == mode
