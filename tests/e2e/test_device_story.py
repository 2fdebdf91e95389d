"""The whole way of a twin between real processes: kubectl's API, cloud, broker, edge, MQTT device, and back."""

from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import yaml

from tests.kit.devices import MODEL, oven, report
from tests.kit.kube import DEVICES
from tests.kit.platform import Edge, Platform, command
from tests.kit.wait import eventually

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
KILN = f"{DEVICES}/namespaces/default/devices/kiln"
STATUS = f"{DEVICES}/namespaces/default/devicestatuses/kiln"


def example(name: str, node: str) -> list[dict[str, Any]]:
    """The objects of one example file, for ``node``."""
    objects = list(yaml.safe_load_all((EXAMPLES / name).read_text()))
    for each in objects:
        if each["kind"] == "Device":
            each["spec"]["nodeName"] = node
    return objects


async def reported(platform: Platform, name: str) -> str:
    """What the cloud's DeviceStatus says of one property; "" while it says nothing."""
    status = (await platform.kube.find(STATUS) or {}).get("status", {})
    twins = {twin["propertyName"]: twin for twin in status.get("twins", [])}
    return str(twins.get(name, {}).get("reported", {}).get("value", ""))


async def desire(platform: Platform, name: str, value: str) -> None:
    device = await platform.kube.get(KILN)
    for entry in device["spec"]["properties"]:
        if entry["name"] == name:
            entry["desired"] = {"value": value}
    await platform.kube.patch(KILN, {"spec": {"properties": device["spec"]["properties"]}})


async def test_a_report_reaches_the_cloud_and_a_desired_value_reaches_the_device(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: _has_devices(edge, 1))

    async with aiomqtt.Client("127.0.0.1", edge.mqtt_port) as client:
        await client.subscribe("$hw/events/device/kiln/twin/update/delta", qos=1)
        await report(edge.mqtt_port, temperature="812")

        async def arrived() -> bool:
            return await reported(platform, "temperature") == "812"

        await eventually(arrived)
        await desire(platform, "target", "950")
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            if msgspec.json.decode(message.payload)["delta"].get("target") == "950":
                break


async def test_nothing_is_lost_over_a_cut_with_changes_on_both_sides(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: _has_devices(edge, 1))
    edge.cut()
    for number in range(20):
        await report(edge.mqtt_port, temperature=str(700 + number))
    await desire(platform, "target", "940")
    edge.mend()

    async def converged() -> bool:
        return await reported(platform, "temperature") == "719" and edge.desired("kiln", "target") == "940"

    await eventually(converged, 20)
    await edge.drained()
    text = await command(
        "cloudcore", "history", "kiln", "--property", "temperature", "-o", "csv", "--data-dir", str(platform.cloud_dir)
    )
    assert [line.split(",").count(str(700 + n)) for n, line in enumerate(text.splitlines()[1:])] == [1] * 20


async def test_the_gateway_is_a_node_with_real_values(platform: Platform) -> None:
    await platform.add_edge("gw-1")

    async def ready() -> dict[str, Any] | None:
        node = await platform.kube.find("/api/v1/nodes/gw-1") or {}
        conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}
        return node if conditions.get("Ready") == "True" and node["status"].get("nodeInfo") else None

    node = await eventually(ready, 20)
    assert node is not None
    assert node["status"]["nodeInfo"]["operatingSystem"] == "linux"
    assert int(node["status"]["capacity"]["cpu"]) >= 1


async def test_the_host_is_a_device_and_its_label_is_shown_in_status(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(*example("02-host-gateway.yaml", "gw-1"))

    async def labelled() -> bool:
        return (await edge.status()).get("label") == "boiler-room"

    await eventually(labelled, 20)

    async def arrived() -> bool:
        status = await platform.kube.find(f"{DEVICES}/namespaces/default/devicestatuses/gateway") or {}
        twins = {twin["propertyName"]: twin for twin in status.get("status", {}).get("twins", [])}
        return bool(float(twins.get("memoryUsedPercent", {}).get("reported", {}).get("value", "0")) > 0)

    await eventually(arrived)


async def _has_devices(edge: Edge, count: int) -> bool:
    return bool((await edge.status()).get("devices", {}).get("total") == count)
