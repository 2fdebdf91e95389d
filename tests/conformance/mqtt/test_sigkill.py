"""MQTT-2: what was acknowledged is there after SIGKILL at any moment; QoS 2 arrives once."""

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import pytest

from proto.mqtt.packets import Ack, Connack, Packet, Publish
from proto.mqtt.reader import Reader
from proto.mqtt.topics import TopicNames
from tests.conformance.mqtt import wire as w
from tests.conformance.mqtt.processes import Broker, running


class Client:
    """A small client that remembers over reconnects what it must send again."""

    def __init__(self, broker: Broker, cid: str) -> None:
        self.broker, self.cid = broker, cid
        self.received: list[Publish] = []
        self.acks: list[Ack] = []

    async def open(self) -> bool:
        """Connect to the kept session; returns whether it was present."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.broker.port)
        self.parser = Reader(1 << 20, TopicNames(), version=4)
        self.writer.write(w.connect(self.cid, clean=False))
        first, *rest = await self._some()
        assert isinstance(first, Connack)
        self._take(rest)
        return first.session_present

    async def _some(self) -> list[Packet]:
        while True:
            data = await asyncio.wait_for(self.reader.read(65536), 10)
            if not data:
                raise ConnectionError
            packets = self.parser.feed(data)
            if packets:
                return packets

    def _take(self, packets: list[Packet]) -> None:
        for packet in packets:
            if isinstance(packet, Publish):
                self.received.append(packet)
            elif isinstance(packet, Ack):
                self.acks.append(packet)

    async def read(self) -> None:
        """Take what comes until the connection ends."""
        with suppress(ConnectionError, TimeoutError):
            while True:
                self._take(await self._some())

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def subscriber(broker: Broker, qos: int) -> None:
    client = Client(broker, "sub")
    await client.open()
    client.writer.write(w.subscribe(1, ("t/#", qos)))
    assert (await client.reader.readexactly(5))[0] == 0x90
    await client.close()


async def flood(broker: Broker, qos: int, kill_after_s: float) -> set[int]:
    """Publish until the broker is killed; returns the packet ids it acknowledged."""
    client = Client(broker, "pub")
    await client.open()
    reading = asyncio.ensure_future(client.read())
    killing = asyncio.get_running_loop().call_later(kill_after_s, broker.strike)
    for number in range(1, 60_000):
        client.writer.write(w.publish(f"t/{number % 7}", str(number).encode(), qos=qos, pid=number))
        if number % 40 == 0:
            try:
                await client.writer.drain()
                await asyncio.sleep(0)
            except ConnectionError:
                break
        if reading.done():
            break
    await reading
    killing.cancel()
    await broker.kill()
    await client.close()
    return {ack.packet_id for ack in client.acks}


async def collect(broker: Broker, wanted: set[int]) -> list[int]:
    """Read the kept session until everything wanted was there; acknowledge nothing but by reading on."""
    client = Client(broker, "sub")
    assert await client.open()
    got: list[int] = []
    reading = asyncio.ensure_future(client.read())
    while not wanted <= set(got):
        await asyncio.sleep(0.01)
        fresh, client.received = client.received, []
        got += [int(one.payload) for one in fresh]
        for one in fresh:
            if one.qos:
                client.writer.write(w.puback(one.packet_id) if one.qos == 1 else w.pubrec(one.packet_id))
        for ack in client.acks:
            client.writer.write(w.pubcomp(ack.packet_id))
        client.acks.clear()
        if reading.done():
            break
    reading.cancel()
    await client.close()
    return got


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("qos", [1, 2])
async def test_every_acknowledged_message_is_there_after_sigkill(qos: int, seed: int, tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await subscriber(broker, qos)

        acknowledged = await flood(broker, qos, random.Random(seed).uniform(0.02, 0.6))
        await broker.start()
        got = await asyncio.wait_for(collect(broker, acknowledged), 60)

        assert acknowledged <= set(got)
        assert len(set(got)) == len(got)
        per_topic = [[n for n in got if n % 7 == t] for t in range(7)]
        assert all(numbers == sorted(numbers) for numbers in per_topic)


async def test_in_flight_messages_come_again_with_dup_and_their_packet_ids(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await subscriber(broker, 1)
        sub, pub = Client(broker, "sub"), Client(broker, "pub")
        await sub.open()
        await pub.open()
        pub.writer.write(b"".join(w.publish("t/1", b"%d" % n, qos=1, pid=n) for n in range(1, 11)))
        while len(sub.received) < 10:
            sub._take(await sub._some())
        sub.writer.write(w.puback(2))
        sub.writer.write(w.subscribe(2, ("after", 0)))  # its SUBACK leaves after the commit that took the PUBACK along
        await sub._some()
        await sub.close()
        await pub.close()

        await broker.kill()
        await broker.start()

        assert await sub.open()
        while len(sub.received) < 19:
            sub._take(await sub._some())
        again = sub.received[10:]
        assert [one.packet_id for one in again] == [1, *range(3, 11)]
        assert all(one.dup for one in again)
        await sub.close()


async def test_retained_messages_and_subscriptions_survive_sigkill(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await subscriber(broker, 1)
        pub = Client(broker, "pub")
        await pub.open()
        pub.writer.write(w.publish("kept", b"v", qos=1, pid=1, retain=True))
        assert isinstance((await pub._some())[0], Ack)
        await pub.close()

        await broker.kill()
        await broker.start()

        sub = Client(broker, "sub")
        assert await sub.open()
        sub.writer.write(w.publish("t/x", b"live") + w.subscribe(2, ("kept", 1)))
        while len(sub.received) < 2:
            sub._take(await sub._some())
        assert {(one.topic, one.payload, one.retain) for one in sub.received} == {
            ("t/x", b"live", False),
            ("kept", b"v", True),
        }
        await sub.close()
