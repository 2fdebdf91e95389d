"""PORT Broker: one suite, every implementation."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from proto.kit.clock import SystemClock
from proto.link.broker import Broker, Connection, ConnectionLost, Refused, Unreachable, Will
from proto.link.client import PahoBroker
from proto.link.memory import MemoryBroker
from proto.mqtt.identity import Identity
from proto.mqtt.limits import BrokerSettings
from proto.mqtt.local import LocalBroker
from tests.kit.mosquitto import Mosquitto, mosquitto
from tests.kit.ports import free_port
from tests.unit.mqtt.certificates import Certificates

CLOCK = SystemClock()


async def take(connection: Connection, count: int) -> list[bytes]:
    out = []
    async with asyncio.timeout(10):
        for _ in range(count):
            message = await connection.receive()
            message.ack()
            out.append(message.payload)
    return out


class BrokerConformance:
    """What the link relies on. A subclass supplies ``broker`` and ``stop`` (the broker dies)."""

    async def stop(self, broker: Any) -> None:
        raise NotImplementedError

    async def test_messages_arrive_in_call_order(self, broker: Broker) -> None:
        a, b = await broker.connect("a"), await broker.connect("b")
        await b.subscribe("t/+/x")
        futures = [a.publish("t/1/x", str(i).encode(), qos=1) for i in range(500)]
        assert await take(b, 500) == [str(i).encode() for i in range(500)]
        await asyncio.gather(*futures)
        await a.close()
        await b.close()

    async def test_only_matching_topics_arrive(self, broker: Broker) -> None:
        a, b = await broker.connect("a"), await broker.connect("b")
        await b.subscribe("t/+/x")
        await a.publish("t/1/y", b"no")
        await a.publish("t/1/2/x", b"no")
        await a.publish("t/1/x", b"yes")
        assert await take(b, 1) == [b"yes"]
        await a.close()
        await b.close()

    async def test_a_retained_message_reaches_a_later_subscriber(self, broker: Broker) -> None:
        a = await broker.connect("a")
        await a.publish("r", b"kept", retain=True)
        b = await broker.connect("b")
        await b.subscribe("r")
        message = await b.receive()
        assert (message.payload, message.retain) == (b"kept", True)
        message.ack()
        await a.close()
        await b.close()

    async def test_a_clean_close_publishes_no_will(self, broker: Broker) -> None:
        b = await broker.connect("b")
        await b.subscribe("w")
        a = await broker.connect("a", will=Will("w", b"died", retain=False))
        await a.close()
        c = await broker.connect("c")
        await c.publish("w", b"after")
        assert await take(b, 1) == [b"after"]
        await b.close()
        await c.close()

    async def test_a_taken_over_connection_ends_and_its_will_is_published(self, broker: Broker) -> None:
        b = await broker.connect("b")
        await b.subscribe("w")
        old = await broker.connect("a", will=Will("w", b"died", retain=False))
        new = await broker.connect("a")
        with pytest.raises(ConnectionLost):
            async with asyncio.timeout(5):
                await old.receive()
        assert await take(b, 1) == [b"died"]
        await old.close()
        await new.close()
        await b.close()

    async def test_binary_and_large_payloads_survive(self, broker: Broker) -> None:
        a, b = await broker.connect("a"), await broker.connect("b")
        await b.subscribe("t")
        payload = bytes(range(256)) * 1000
        await a.publish("t", payload)
        assert await take(b, 1) == [payload]
        await a.close()
        await b.close()

    async def test_a_dead_broker_fails_what_waits_and_refuses_connections(self, broker: Broker) -> None:
        a = await broker.connect("a")
        await self.stop(broker)
        with pytest.raises(ConnectionLost):
            async with asyncio.timeout(5):
                await a.receive()
        with pytest.raises(ConnectionLost):
            await a.publish("t", b"x")
        with pytest.raises(Unreachable):
            await broker.connect("a")
        await a.close()

    async def test_closing_twice_does_no_harm(self, broker: Broker) -> None:
        a = await broker.connect("a")
        await a.close()
        await a.close()
        with pytest.raises(ConnectionLost):
            await a.receive()


class TestMemoryBroker(BrokerConformance):
    @pytest.fixture
    async def broker(self) -> Broker:
        return MemoryBroker()

    async def stop(self, broker: Any) -> None:
        broker.stop()


class TestOurBrokerInProcess(BrokerConformance):
    @pytest.fixture
    async def broker(self) -> AsyncIterator[Broker]:
        self.server = LocalBroker(BrokerSettings(connects_per_s=0))
        yield self.server
        await self.server.close()

    async def stop(self, broker: Any) -> None:
        await self.server.close()


class OurBrokerConformance(BrokerConformance):
    version = 5

    @pytest.fixture
    async def broker(self) -> AsyncIterator[Broker]:
        self.server = LocalBroker(BrokerSettings(connects_per_s=0))
        port = await self.server.listen("127.0.0.1", 0)
        yield PahoBroker(f"mqtt://127.0.0.1:{port}", version=self.version, clock=CLOCK)
        await self.server.close()

    async def stop(self, broker: Any) -> None:
        await self.server.close()


class TestPahoMqtt5ToOurBroker(OurBrokerConformance):
    pass


class TestPahoMqtt311ToOurBroker(OurBrokerConformance):
    version = 4


class MosquittoConformance(BrokerConformance):
    version = 5

    @pytest.fixture
    async def broker(self, tmp_path: Path) -> AsyncIterator[Broker]:
        self.server = Mosquitto(tmp_path)
        await self.server.start()
        yield PahoBroker(f"mqtt://127.0.0.1:{self.server.port}", version=self.version, clock=CLOCK)
        self.server.kill()

    async def stop(self, broker: Any) -> None:
        self.server.kill()


class TestPahoMqtt5(MosquittoConformance):
    async def test_unacknowledged_messages_count_against_the_receive_maximum(self, broker: PahoBroker) -> None:
        few = PahoBroker(f"mqtt://127.0.0.1:{broker.port}", receive_maximum=5, clock=CLOCK)
        a, b = await broker.connect("a"), await few.connect("b")
        await b.subscribe("t")
        await asyncio.gather(*(a.publish("t", str(i).encode()) for i in range(10)))
        first = [await b.receive() for _ in range(5)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await b.receive()
        for message in first:
            message.ack()
        assert await take(b, 5) == [b"5", b"6", b"7", b"8", b"9"]
        await a.close()
        await b.close()


class TestPahoMqtt311(MosquittoConformance):
    version = 4


async def test_a_packet_larger_than_the_bound_ends_the_connection_before_it_is_read(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as server:
        url = f"mqtt://127.0.0.1:{server.port}"
        a = await PahoBroker(url, version=4, clock=CLOCK).connect("a")
        b = await PahoBroker(url, version=4, max_packet_bytes=1000, clock=CLOCK).connect("b")
        try:
            await b.subscribe("t")
            await a.publish("t", b"x" * 2000)
            with pytest.raises(ConnectionLost):
                async with asyncio.timeout(5):
                    await b.receive()
        finally:
            await a.close()
            await b.close()


async def test_nobody_listening_is_told_with_the_address() -> None:
    port = free_port()
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
        await PahoBroker(f"mqtt://127.0.0.1:{port}", clock=CLOCK).connect("a")


async def test_a_renewed_certificate_is_used_at_the_next_connect_and_an_unknown_ca_is_refused(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    names: list[str] = []

    def authenticate(_connect: Any, peer: Any, _username: str, _password: bytes) -> Identity:
        names.append(peer.common_name)
        return Identity(peer.common_name)

    server = LocalBroker(BrokerSettings(connects_per_s=0), authenticate=authenticate)
    port = await server.listen("127.0.0.1", 0, certificates.server_context())
    contexts = iter([certificates.client_context("first"), certificates.client_context("second")])
    url = f"mqtts://127.0.0.1:{port}"
    broker = PahoBroker(url, clock=CLOCK, tls=lambda: next(contexts), server_hostname="localhost")
    for _ in range(2):
        a = await broker.connect("a")
        await a.subscribe("t")
        payload = b"x" * 200_000
        await a.publish("t", payload)
        assert await take(a, 1) == [payload]
        await a.close()
    assert names == ["first", "second"]
    (tmp_path / "other").mkdir()
    stranger = Certificates(tmp_path / "other").client_context("x")
    with pytest.raises(Refused, match="not trusted"):
        await PahoBroker(url, clock=CLOCK, tls=lambda: stranger, server_hostname="localhost").connect("a")
    await server.close()


def test_paho_works_under_uvloop_as_the_daemons_run_it(tmp_path: Path) -> None:
    async def main() -> list[bytes]:
        certificates = Certificates(tmp_path)
        server = LocalBroker(BrokerSettings(connects_per_s=0), authenticate=lambda *_: Identity("a"))
        port = await server.listen("127.0.0.1", 0, certificates.server_context())
        tls = certificates.client_context("a")
        broker = PahoBroker(f"mqtts://127.0.0.1:{port}", clock=CLOCK, tls=lambda: tls, server_hostname="localhost")
        a = await broker.connect("a")
        await a.subscribe("t")
        await asyncio.gather(*(a.publish("t", str(i).encode()) for i in range(300)))
        out = await take(a, 300)
        await a.close()
        await server.close()
        return out

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == [str(i).encode() for i in range(300)]


@pytest.mark.parametrize("version", [4, 5])
async def test_a_kept_session_gets_what_was_sent_and_not_acknowledged_meanwhile(tmp_path: Path, version: int) -> None:
    async with mosquitto(tmp_path) as server:
        url = f"mqtt://127.0.0.1:{server.port}"
        sender = await PahoBroker(url, clock=CLOCK).connect("a")
        keeper = PahoBroker(url, clock=CLOCK, version=version, session_s=60)
        first = await keeper.connect("b")
        await first.subscribe("t")
        await sender.publish("t", b"1")
        await first.receive()
        await first.close()
        await sender.publish("t", b"2")

        again = await keeper.connect("b")

        assert await take(again, 2) == [b"1", b"2"]
        await again.close()
        await sender.close()
