"""An edge whose cloud is away: devices are served, what they were told is kept over SIGKILL, and it all waits."""

from typing import Any

import aiomqtt
import msgspec
import pytest

from edgecore import kinds, sync
from kubeapi.store import Store
from proto.kit.clock import SystemClock
from proto.kit.database import Database
from tests.e2e.conftest import LoneEdge
from tests.kit.devices import MODEL, oven
from tests.kit.platform import command

TOPIC = "$hw/events/device/kiln/twin"


async def seed(edge: LoneEdge, *devices: dict[str, Any]) -> None:
    """Leave on disk what the cloud sent before it went away."""
    db = Database.open(edge.directory.database, [sync.SCHEMA])
    store = await Store.open(db, kinds.registry(), SystemClock())
    await db.tx(lambda tx: store.put(tx, kinds.DEVICE_MODEL, MODEL))
    for each in devices:
        await db.tx(lambda tx, each=each: store.put(tx, kinds.DEVICE, each))  # type: ignore[misc]
    await db.close()


async def ask(client: aiomqtt.Client, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Publish a request and return the answer on its result topic."""
    await client.subscribe(f"{TOPIC}/{verb}/result", qos=1)
    await client.publish(f"{TOPIC}/{verb}", msgspec.json.encode(body), qos=1)
    async for message in client.messages:
        if str(message.topic) == f"{TOPIC}/{verb}/result":
            assert isinstance(message.payload, bytes)
            answer: dict[str, Any] = msgspec.json.decode(message.payload)
            return answer
    raise AssertionError


@pytest.fixture
async def edge(lone_edge: LoneEdge) -> LoneEdge:
    kiln = oven(target="900")
    kiln["metadata"] |= {"uid": "u1", "generation": 1}
    await seed(lone_edge, kiln)
    await lone_edge.daemon.start()
    return lone_edge


async def test_an_acknowledged_report_is_there_after_sigkill(edge: LoneEdge) -> None:
    async with aiomqtt.Client("127.0.0.1", edge.mqtt_port) as client:
        answer = await ask(client, "update", {"event_id": "1", "twin": {"temperature": {"actual": {"value": "42"}}}})
        assert answer["event_id"] == "1"
    await edge.daemon.kill()
    await edge.daemon.start()

    async with aiomqtt.Client("127.0.0.1", edge.mqtt_port) as client:
        found = await ask(client, "get", {"event_id": "2"})
    assert found["twin"]["temperature"]["actual"]["value"] == "42"


async def test_a_desired_value_is_told_as_a_delta(edge: LoneEdge) -> None:
    async with aiomqtt.Client("127.0.0.1", edge.mqtt_port) as client:
        await client.subscribe(f"{TOPIC}/update/delta", qos=1)
        await client.publish(f"{TOPIC}/update", b'{"twin": {"target": {"actual": {"value": "20"}}}}', qos=1)
        message = await anext(aiter(client.messages))

    assert isinstance(message.payload, bytes)
    assert msgspec.json.decode(message.payload)["delta"] == {"target": "900"}


async def test_reports_wait_for_the_cloud_and_explain_says_so(edge: LoneEdge) -> None:
    async with aiomqtt.Client("127.0.0.1", edge.mqtt_port) as client:
        await ask(client, "update", {"twin": {"temperature": {"actual": {"value": "42"}}}})
    where = ("--data-dir", str(edge.directory.path), "-o", "json")

    found = msgspec.json.decode(await command("edgecore", "device", "explain", "kiln", *where))
    status = msgspec.json.decode(await command("edgecore", "status", *where))

    assert found["sync"] == "Pending"
    assert any("target=900" in why or "target" in why for why in found["why"])
    assert any("the cloud is not connected" in why for why in found["why"])
    assert status["devices"]["total"] == 1
    assert status["link"]["pending_messages"] >= 1
    assert status["link"]["pending_states"] >= 1


async def test_an_anonymous_wildcard_is_served_on_loopback(edge: LoneEdge) -> None:
    async with aiomqtt.Client("127.0.0.1", edge.mqtt_port) as client:
        await client.subscribe("plant/#", qos=1)
        await client.publish("plant/a", b"hello", qos=1)
        message = await anext(aiter(client.messages))

    assert message.payload == b"hello"
