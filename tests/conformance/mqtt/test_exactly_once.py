"""QoS 2 end to end over SIGKILLs of the broker: publisher and subscriber go on where they were, nothing twice, nothing lost."""

import asyncio
import random
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from proto.mqtt.packets import Ack, Connack, Packet, Publish
from proto.mqtt.properties import PUBCOMP, PUBREC, PUBREL
from proto.mqtt.reader import Reader
from proto.mqtt.topics import TopicNames
from tests.conformance.mqtt import wire as w
from tests.conformance.mqtt.processes import Broker, running
from tests.kit.wait import eventually

MESSAGES = 1500
WINDOW = 30
KILLS = 4


class Peer:
    """A client with a kept session that reconnects for ever."""

    def __init__(self, broker: Broker, cid: str) -> None:
        self.broker, self.cid = broker, cid
        self.connects = 0

    def resumed(self) -> Iterable[bytes]:
        return ()

    def answers(self, packet: Packet) -> Iterable[bytes]:
        raise NotImplementedError

    def finished(self) -> bool:
        return False

    async def run(self) -> None:
        while not self.finished():
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._connection()
            await asyncio.sleep(0.01)

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.broker.port)
        parser = Reader(1 << 20, TopicNames(), version=4)
        writer.write(w.connect(self.cid, clean=False))
        try:
            while not self.finished():
                data = await reader.read(65536)
                if not data:
                    raise ConnectionError
                for packet in parser.feed(data):
                    if isinstance(packet, Connack):
                        self.connects += 1
                        assert packet.session_present or self.connects == 1
                        writer.write(b"".join(self.resumed()))
                    else:
                        writer.write(b"".join(self.answers(packet)))
                await writer.drain()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


class Publisher(Peer):
    def __init__(self, broker: Broker) -> None:
        super().__init__(broker, "pub")
        self.next = 1
        self.stages: dict[int, str] = {}

    def _message(self, number: int, *, dup: bool = False) -> bytes:
        return w.publish("t", b"%d" % number, qos=2, pid=number, dup=dup)

    def _more(self) -> Iterable[bytes]:
        while self.next <= MESSAGES and len(self.stages) < WINDOW:
            self.stages[self.next] = "published"
            yield self._message(self.next)
            self.next += 1

    def resumed(self) -> Iterable[bytes]:
        for number, stage in self.stages.items():
            yield self._message(number, dup=True) if stage == "published" else w.pubrel(number)
        yield from self._more()

    def answers(self, packet: Packet) -> Iterable[bytes]:
        assert isinstance(packet, Ack)
        if packet.kind == PUBREC:
            self.stages[packet.packet_id] = "released"
            yield w.pubrel(packet.packet_id)
        elif packet.kind == PUBCOMP:
            self.stages.pop(packet.packet_id, None)
            yield from self._more()

    def finished(self) -> bool:
        return self.next > MESSAGES and not self.stages


class Subscriber(Peer):
    def __init__(self, broker: Broker) -> None:
        super().__init__(broker, "sub")
        self.got: list[int] = []
        self.held: set[int] = set()

    def answers(self, packet: Packet) -> Iterable[bytes]:
        if isinstance(packet, Publish):
            if packet.packet_id not in self.held:
                self.held.add(packet.packet_id)
                self.got.append(int(packet.payload))
            yield w.pubrec(packet.packet_id)
        elif isinstance(packet, Ack) and packet.kind == PUBREL:
            self.held.discard(packet.packet_id)
            yield w.pubcomp(packet.packet_id)

    def resumed(self) -> Iterable[bytes]:
        return [w.subscribe(1, ("t", 2))] if self.connects == 1 else []

    def finished(self) -> bool:
        return len(self.got) >= MESSAGES


def arrived(subscriber: Subscriber, count: int) -> bool:
    return len(subscriber.got) >= count


@pytest.mark.parametrize("seed", range(2))
async def test_every_message_arrives_exactly_once_over_sigkills(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    async with running(tmp_path) as broker:
        subscriber, publisher = Subscriber(broker), Publisher(broker)
        taking = asyncio.ensure_future(subscriber.run())
        await eventually(lambda: subscriber.connects)
        sending = asyncio.ensure_future(publisher.run())
        for kill in range(1, KILLS + 1):
            wanted = MESSAGES * kill // (KILLS + 2)
            await eventually(partial(arrived, subscriber, wanted), 60)
            await asyncio.sleep(rng.uniform(0, 0.02))
            await broker.kill()
            await broker.start()
        await asyncio.wait_for(asyncio.gather(sending, taking), 60)

    assert subscriber.got == list(range(1, MESSAGES + 1))
