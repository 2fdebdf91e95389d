"""The two device brokers: PUBACK after the twin's commit, never for what was not kept (TWIN-10)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edgecore.devices.mqtt import DeviceBroker, EmbeddedBroker, ExternalBroker
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.errors import StorageFull
from proto.kit.metrics import Metrics
from proto.link.broker import Broker, Connection, Inbound, Will
from proto.mqtt.broker import MqttBroker
from tests.kit.wait import eventually

TOPIC = "$hw/events/device/default/kiln/twin/update"


class Room:
    """Takes messages; the test decides when they are on disk."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []
        self.futures: list[asyncio.Future[None]] = []

    def receive(self, topic: str, payload: bytes) -> "asyncio.Future[None]":
        self.taken.append((topic, payload))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        return future


@asynccontextmanager
async def serving(broker: DeviceBroker) -> AsyncIterator[Room]:
    room = Room()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(broker.run(room.receive))
        await asyncio.sleep(0)
        try:
            yield room
        finally:
            task.cancel()


class Memory:
    """PORT Broker and its one Connection, in memory; ``cut`` ends the connection."""

    def __init__(self) -> None:
        self.filters: list[str] = []
        self.sent: list[tuple[str, bytes]] = []
        self.inbox: asyncio.Queue[Inbound | Exception] = asyncio.Queue()
        self.acknowledged: list[bytes] = []
        self.connects = 0

    async def connect(self, client_id: str, *, will: Will | None = None, keep_alive_s: int = 30) -> Connection:
        assert (client_id, will, keep_alive_s) == ("skerry-gw-1", None, 30)
        self.connects += 1
        return self

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        assert qos == 1
        self.filters.append(topic_filter)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> "asyncio.Future[None]":
        assert (qos, retain) == (1, False)
        self.sent.append((topic, payload))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    async def receive(self) -> Inbound:
        found = await self.inbox.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def close(self) -> None:
        """Nothing is held."""

    def deliver(self, payload: bytes) -> None:
        self.inbox.put_nowait(Inbound(TOPIC, payload, retain=False, ack=lambda: self.acknowledged.append(payload)))


def external(broker: Broker) -> ExternalBroker:
    return ExternalBroker(broker, "skerry-gw-1", clock=SystemClock(), rng=Rng(1), metrics=Metrics())


async def test_an_external_broker_is_acknowledged_after_the_commit_only() -> None:
    memory = Memory()
    async with serving(external(memory)) as room:
        memory.deliver(b"a")
        memory.deliver(b"b")
        await eventually(lambda: len(room.taken) == 2)
        assert memory.acknowledged == []

        room.futures[0].set_result(None)
        room.futures[1].set_exception(StorageFull("full"))

        await eventually(lambda: memory.acknowledged == [b"a"])
        await eventually(lambda: memory.connects == 2)  # so that the broker sends the other one again


async def test_an_external_broker_that_goes_away_is_found_again_and_answers_are_counted() -> None:
    from proto.link.broker import ConnectionLost

    memory = Memory()
    broker = external(memory)
    broker.publish(TOPIC, b"nobody there")
    async with serving(broker):
        await eventually(lambda: memory.connects == 1)
        memory.inbox.put_nowait(ConnectionLost("cut"))

        await eventually(lambda: memory.connects == 2)
        await eventually(lambda: len(memory.filters) == 24)
        broker.publish(TOPIC, b"hello")

    assert memory.sent == [(TOPIC, b"hello")]


async def test_the_embedded_broker_hears_requests_and_not_its_own_answers() -> None:
    mqtt = MqttBroker()
    broker = EmbeddedBroker(mqtt, metrics=Metrics())
    async with serving(broker) as room:
        mqtt.publish(TOPIC, b"x", 1)
        broker.publish(f"{TOPIC}/result", b"y")
        await eventually(lambda: room.taken == [(TOPIC, b"x")])
        room.futures[0].set_result(None)
    await mqtt.close()


async def test_the_embedded_broker_knows_whether_anybody_listens() -> None:
    broker = EmbeddedBroker(MqttBroker(), metrics=Metrics())

    assert not broker.listens(f"{TOPIC}/document")


async def test_what_kubeedge_would_route_to_its_cloud_is_counted() -> None:
    mqtt, metrics = MqttBroker(), Metrics()
    broker = EmbeddedBroker(mqtt, metrics=metrics)
    async with serving(broker) as room:
        for topic in "$hw/events/upload/a/b", "SYS/dis/upload_records", "app/user/x", "app/other/x":
            await mqtt.publish(topic, b"x", 1)

    assert room.taken == []
    assert metrics.counter("skerry_edge_router_messages_total", "").value() == 3
    await mqtt.close()
