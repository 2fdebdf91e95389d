"""One MQTT 5 connection of a simulated edge, on our own codec: small enough that a process holds a thousand over TLS."""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from proto.link.broker import Will
from proto.mqtt.packets import Ack, Connack, Connect, Packet, Publish, Suback, Subscribe, Subscription, WillMessage
from proto.mqtt.packets import encode as encode_packet
from proto.mqtt.properties import PUBACK
from proto.mqtt.reader import Reader
from proto.mqtt.topics import TopicNames

VERSION = 5
MAX_PACKET_BYTES = (256 << 10) + 1024
CONNECT_TIMEOUT_S = 15.0
names = TopicNames()  # shared by all connections of this process, as in a broker


class Wire(asyncio.Protocol):
    """Connects, subscribes to one topic, publishes, acknowledges at once what comes."""

    def __init__(self, connect: Connect, topic: str, receive: Callable[[bytes], None]) -> None:
        self._connect = connect
        self._topic = topic
        self._receive = receive
        self._reader = Reader(MAX_PACKET_BYTES, names, version=VERSION)
        self._packet_id = 0
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.on_puback: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(encode_packet(self._connect, VERSION))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("the broker closed the connection"))
            self.ready.exception()
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        acks = bytearray()
        for packet in self._reader.feed(data):
            if type(packet) is Publish:
                if packet.qos:
                    acks += encode_packet(Ack(PUBACK, packet.packet_id), VERSION)
                self._receive(packet.payload)
            elif type(packet) is Ack:
                self.on_puback()
            else:
                self._control(packet)
        if acks and not self.transport.is_closing():
            self.transport.write(bytes(acks))

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        if self.transport.is_closing():
            return
        self._packet_id = self._packet_id % 0xFFFF + 1 if qos else self._packet_id
        packet = Publish(topic, payload, qos, retain, packet_id=self._packet_id if qos else 0)
        self.transport.write(encode_packet(packet, VERSION))

    def _control(self, packet: Packet) -> None:
        if isinstance(packet, Connack):
            if packet.reason:
                self.transport.abort()
            else:
                self.transport.write(encode_packet(Subscribe(1, [Subscription(self._topic, 1)]), VERSION))
        elif isinstance(packet, Suback) and not self.ready.done():
            self.ready.set_result(None)


async def dial(
    address: tuple[str, int],
    tls: ssl.SSLContext,
    client_id: str,
    *,
    will: Will,
    keep_alive_s: int,
    topic: str,
    receive: Callable[[bytes], None],
) -> Wire:
    """Return a connection that is subscribed. Raises OSError, TimeoutError."""
    last = WillMessage(Publish(will.topic, will.payload, will.qos, will.retain))
    connect = Connect(client_id, VERSION, clean_start=True, keep_alive_s=keep_alive_s, will=last)
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        loop = asyncio.get_running_loop()
        made = await loop.create_connection(lambda: Wire(connect, topic, receive), *address, ssl=tls)
        wire = made[1]
        try:
            await wire.ready
        except BaseException:
            wire.transport.abort()
            raise
    return wire
