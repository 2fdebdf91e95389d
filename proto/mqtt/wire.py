"""The sending half of a client's connection: frames collected into one write per turn of the loop, within bounds."""

import asyncio
from abc import ABCMeta, abstractmethod
from typing import TYPE_CHECKING

from proto.mqtt import properties as p
from proto.mqtt.packets import V5, Publish, publish_parts
from proto.mqtt.properties import Properties
from proto.mqtt.session import Entry, Session

if TYPE_CHECKING:
    from proto.mqtt.broker import MqttBroker


class Wire(asyncio.Protocol, metaclass=ABCMeta):
    """What is sent to one client. QoS 0 is dropped and counted while it does not read; QoS 1 and 2 wait in its session."""

    __slots__ = (
        "alias_maximum",
        "alias_out",
        "broker",
        "closed",
        "connected",
        "last_read_s",
        "max_packet_bytes",
        "out",
        "out_bytes",
        "pauses",
        "scheduled",
        "session",
        "stalled",
        "transport",
        "version",
    )

    transport: asyncio.Transport

    def __init__(self, broker: "MqttBroker") -> None:
        self.broker = broker
        self.version = 0
        self.session: Session | None = None
        self.connected = False  # CONNACK was sent
        self.closed = False
        self.last_read_s = 0.0
        self.max_packet_bytes = 0  # largest packet that the client takes; 0 any
        self.alias_maximum = 0
        self.alias_out: dict[str, int] | None = None
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.scheduled = False
        self.stalled = False  # the socket takes no more for now
        self.pauses = 0  # why reading is paused, as bits

    def pause_writing(self) -> None:
        self.stalled = True

    def resume_writing(self) -> None:
        self.stalled = False
        if self.session is not None:
            self.session.pump()

    def write(self, frame: bytes) -> None:
        """Send with everything else of this turn; a client that does not read is closed before it costs memory."""
        if self.closed:
            return
        self.out.append(frame)
        self.out_bytes += len(frame)
        self._schedule()

    def _schedule(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self.scheduled = False
        if not self.out or self.closed:
            return
        self.transport.write(b"".join(self.out))
        self.out.clear()
        self.out_bytes = 0
        if self.stalled and self.transport.get_write_buffer_size() > 2 * self.broker.settings.out_buffer_bytes:
            self.abandon("slow_consumer")
        elif not self.stalled and self.session is not None and self.session.queue:
            self.session.pump()

    def writable(self) -> bool:
        return self.connected and not self.stalled and self.out_bytes < self.broker.settings.out_buffer_bytes

    def send_qos0(self, message: Publish, retain: bool, ids: tuple[int, ...]) -> None:
        if not self.connected:
            return
        if self.stalled or self.out_bytes > self.broker.settings.out_buffer_bytes:
            self.broker.counters.dropped.inc("slow_consumer")
            return
        found = self._parts(message, int(retain), ids)
        if found is not None:
            self.out += found
            self.out_bytes += len(found[0]) + len(found[1])
            self._schedule()

    def send_message(self, entry: Entry) -> bool:
        flags = entry.dup << 3 | entry.qos << 1 | entry.retain
        found = self._parts(entry.message, flags, entry.ids)
        if found is None:
            return False
        self.out += (found[0], entry.packet_id.to_bytes(2, "big"), found[1])
        self.out_bytes += len(found[0]) + len(found[1]) + 2
        self._schedule()
        return True

    def send_pubrel(self, packet_id: int) -> None:
        self.write(b"\x62\x02" + packet_id.to_bytes(2, "big"))

    def _parts(self, message: Publish, flags: int, ids: tuple[int, ...]) -> tuple[bytes, bytes] | None:
        """Return the frame around the packet id; None when this client cannot get it."""
        if message.expires_at_s is None and (self.version != V5 or not (ids or self.alias_maximum)):
            found = message.parts(self.version, flags)
        else:
            remaining_s = self._remaining_s(message)
            if remaining_s is not None and remaining_s <= 0:
                self.broker.counters.dropped.inc("expired")
                return None
            found = self._own_parts(message, flags, ids, remaining_s)
        size = len(found[0]) + len(found[1]) + 2
        if self.max_packet_bytes and size > self.max_packet_bytes:
            self.broker.counters.dropped.inc("larger_than_client_takes")
            return None
        self.broker.counters.sent_by_qos[flags >> 1 & 3] += 1
        return found

    def _remaining_s(self, message: Publish) -> float | None:
        return None if message.expires_at_s is None else message.expires_at_s - self.broker.clock.now_s()

    def _own_parts(
        self, message: Publish, flags: int, ids: tuple[int, ...], remaining_s: float | None
    ) -> tuple[bytes, bytes]:
        properties: Properties = dict(message.forwarded() or {})
        topic = message.topic
        if remaining_s is not None:
            properties[p.MESSAGE_EXPIRY] = max(1, round(remaining_s))
        if ids:
            properties[p.SUBSCRIPTION_ID] = list(ids)
        if self.alias_maximum:
            self.alias_out = {} if self.alias_out is None else self.alias_out
            alias = self.alias_out.get(topic)
            if alias is not None:
                topic = ""
            elif len(self.alias_out) < self.alias_maximum:
                alias = self.alias_out[topic] = len(self.alias_out) + 1
            if alias is not None:
                properties[p.TOPIC_ALIAS] = alias
        return publish_parts(topic, message.payload, self.version, flags, properties)

    def pause(self, why: int) -> None:
        if not self.pauses and not self.closed:
            self.transport.pause_reading()
        self.pauses |= why

    def resume(self, why: int) -> None:
        if not self.pauses & why:
            return
        self.pauses &= ~why
        if not self.pauses and not self.closed:
            self.last_read_s = self.broker.clock.now_s()
            self.transport.resume_reading()

    @abstractmethod
    def abandon(self, why: str) -> None:
        """Drop the connection without a word."""
