"""What changes in the cloud while a node is away is right after it is back, and nothing more than that arrives."""

import aiomqtt
import msgspec

from edgecore import kinds
from tests.kit.devices import MODEL, oven, report
from tests.kit.kube import DEVICES
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

SPACE = f"{DEVICES}/namespaces/default"


def has(edge: Edge, *wanted: str) -> bool:
    """Whether the edge holds exactly these devices."""
    return [each["metadata"]["name"] for each in edge.objects(kinds.DEVICE)] == list(wanted)


async def away(platform: Platform) -> Edge:
    """An edge with one oven, whose link has just been cut."""
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: has(edge, "kiln"))
    edge.cut()
    return edge


async def test_devices_created_and_deleted_meanwhile_are_there_and_gone(platform: Platform) -> None:
    edge = await away(platform)
    await platform.kube.apply(oven("oven"))
    await platform.kube.delete(f"{SPACE}/devices/kiln")
    edge.mend()

    await eventually(lambda: has(edge, "oven"))


async def test_a_device_made_again_meanwhile_inherits_nothing(platform: Platform) -> None:
    edge = await away(platform)
    await report(edge.mqtt_port, temperature="700")
    await platform.kube.delete(f"{SPACE}/devices/kiln")
    await platform.kube.apply(oven(target="500"))
    edge.mend()

    def fresh() -> bool:
        return edge.desired("kiln", "target") == "500" and edge.reported("kiln", "temperature") is None

    await eventually(fresh)
    await edge.drained()
    status = await platform.kube.get(f"{SPACE}/devicestatuses/kiln")
    assert not [twin for twin in status.get("status", {}).get("twins", []) if "reported" in twin]


async def test_many_desired_changes_meanwhile_arrive_as_one(platform: Platform) -> None:
    edge = await away(platform)
    async with aiomqtt.Client("127.0.0.1", edge.mqtt_port) as client:
        await client.subscribe("$hw/events/device/kiln/twin/update/delta", qos=1)
        for number in range(100):
            properties = oven(target=str(number))["spec"]["properties"]
            await platform.kube.patch(f"{SPACE}/devices/kiln", {"spec": {"properties": properties}})
        edge.mend()
        message = await anext(aiter(client.messages))

    assert isinstance(message.payload, bytes)
    assert msgspec.json.decode(message.payload)["delta"] == {"target": "99"}


async def test_a_restart_of_the_cloud_needs_nobody(platform: Platform) -> None:
    edge = await platform.add_edge("gw-1")
    await platform.kube.apply(MODEL, oven())
    await eventually(lambda: has(edge, "kiln"))
    await platform.kill_cloud()
    await report(edge.mqtt_port, temperature="1")
    await platform.start_cloud()
    await edge.connected()
    await edge.drained()

    status = await platform.kube.get(f"{SPACE}/devicestatuses/kiln")
    assert status["status"]["twins"][0]["reported"]["value"] == "1"
