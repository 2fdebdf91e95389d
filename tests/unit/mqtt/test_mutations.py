"""A million spoiled packets, in four parts, against a whole broker in this process."""

import asyncio
import resource

import pytest

from proto.mqtt.broker import BrokerSettings, MqttBroker
from tests.conformance.mqtt.wire import connect
from tests.unit.mqtt.fakes import FakeClient
from tests.unit.mqtt.mutation import mutants

PARTS, COUNT = 4, 250_000
PACKETS_PER_CONNECTION = 12


async def feed(broker: MqttBroker, seed: int, count: int) -> None:
    clients: dict[int, tuple[FakeClient, int]] = {}
    for number, (v, packet) in enumerate(mutants(seed, count)):
        client, fed = clients.get(v, (None, 0))
        if client is None or client.transport.closed or fed > PACKETS_PER_CONNECTION:
            if client is not None:
                client.lose()
            client, fed = FakeClient(broker), 0
            if number % 3:
                client.receive(connect(f"fuzz{number % 50}", v=v))
        client.receive(packet)
        client.transport.sent.clear()
        clients[v] = (client, fed + 1)
        if number % 64 == 0:
            await asyncio.sleep(0)


@pytest.mark.parametrize("part", range(PARTS))
async def test_spoiled_packets_neither_crash_the_broker_nor_grow_it(part: int) -> None:
    settings = BrokerSettings(
        connects_per_s=0, max_sessions=200, queue_bytes=65_536, total_queue_bytes=4_194_304, retained_messages=100
    )
    broker = MqttBroker(settings)
    await feed(broker, PARTS + part, COUNT // 8)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    await feed(broker, part, COUNT)

    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert broker.counters.closed.value("0x80") == 0
    assert grown_kb < 60_000
    assert len(broker.connections) <= 4
    assert broker.counters.closed.value("0x81") > 100
    await broker.close()
