"""One client's TCP or TLS connection: bytes to packets to broker, and back in one write per turn of the loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from proto.kit.log import Logger
from proto.mqtt import connect as handshake
from proto.mqtt import properties as p
from proto.mqtt import reasons
from proto.mqtt.identity import Identity
from proto.mqtt.limits import TokenBucket
from proto.mqtt.packets import (
    V5,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Ping,
    Publish,
    Suback,
    Subscribe,
    Unsubscribe,
    encode,
    publish_parts,
)
from proto.mqtt.properties import Properties
from proto.mqtt.reader import Reader
from proto.mqtt.reasons import Violation, protocol_error
from proto.mqtt.routing import Ticket
from proto.mqtt.session import Entry, Session
from proto.mqtt.subscribing import subscribe, unsubscribe
from proto.mqtt.timers import Timer

if TYPE_CHECKING:
    from proto.mqtt.broker import MqttBroker

log = Logger("mqtt")
NOBODY = Identity("")  # before CONNECT
PINGRESP = b"\xd0\x00"
MAX_RIGHTS = 256  # topics whose publish right a connection remembers
PAUSED_ACCEPT, PAUSED_BACKLOG, PAUSED_RATE = 1, 2, 4  # why reading is paused
KEEP_ALIVE_FACTOR = 1.5  # MQTT 5 §3.1.2.10


class ClientConnection(asyncio.Protocol):
    """The broker's end of one network connection."""

    __slots__ = (
        "__weakref__",
        "address",
        "alias_in",
        "alias_maximum",
        "alias_out",
        "broker",
        "bucket",
        "closed",
        "connected",
        "identity",
        "keep_alive_s",
        "last_read_s",
        "max_packet_bytes",
        "may_publish",
        "out",
        "out_bytes",
        "pauses",
        "pending",
        "reader",
        "scheduled",
        "session",
        "stalled",
        "ticket",
        "tickets",
        "timer",
        "transport",
        "unacknowledged",
        "version",
    )

    transport: asyncio.Transport

    def __init__(self, broker: "MqttBroker") -> None:
        self.broker = broker
        self.reader = Reader(broker.settings.max_connect_bytes, broker.names)
        self.version = 0
        self.session: Session | None = None
        self.identity = NOBODY
        self.connected = False  # CONNACK was sent
        self.closed = False
        self.pending = False  # counted among those that have not authenticated
        self.address = ""
        self.keep_alive_s = 0
        self.last_read_s = 0.0
        self.timer: Timer | None = None
        self.max_packet_bytes = 0  # largest packet that the client takes; 0 any
        self.alias_maximum = 0
        self.alias_in: dict[int, str] | None = None
        self.alias_out: dict[str, int] | None = None
        self.may_publish: dict[str, bool] | None = None
        self.bucket: TokenBucket | None = None
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.scheduled = False
        self.stalled = False  # the socket takes no more for now
        self.pauses = 0
        self.ticket: Ticket | None = None  # of the read being worked on
        self.tickets: deque[Ticket] | None = None  # earlier ones that wait, oldest first
        self.unacknowledged = 0  # QoS 1 and 2 messages in tickets

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's own classes do not inherit it
        self.transport = transport
        broker = self.broker
        peer = self.transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        full = len(broker.connections) >= broker.settings.max_connections
        if full or broker.closed or not broker.pending.enter(self.address):
            broker.counters.refused.inc("too_many_connections")
            self.closed = True
            self.transport.abort()
            return
        self.pending = True
        broker.connections.add(self)
        self.transport.set_write_buffer_limits(high=broker.settings.out_buffer_bytes)
        due_s = broker.clock.now_s() + broker.settings.connect_timeout_s
        self.timer = broker.sessions.timers.at(due_s, self._connect_timed_out)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._detach(will=True)
        self.closed = True
        self.out.clear()

    def pause_writing(self) -> None:
        self.stalled = True

    def resume_writing(self) -> None:
        self.stalled = False
        if self.session is not None:
            self.session.pump()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self.last_read_s = self.broker.clock.now_s()
        try:
            self._work(self.reader.feed(data))
        except Violation as violation:
            self._violated(violation)
        except Exception:
            log.exception("connection failed", client=self.session.client_id if self.session else "")
            self._violated(Violation(reasons.UNSPECIFIED, "internal error"))
        if self.ticket is not None:
            self._finish_ticket()

    def _work(self, packets: list[Packet]) -> None:
        messages = 0
        acknowledged = False
        for packet in packets:
            if self.closed:
                return
            kind = type(packet)
            if kind is Publish:
                messages += 1
                self._on_publish(packet)  # type: ignore[arg-type]
            elif kind is Ack:
                acknowledged = True
                self._on_ack(packet)  # type: ignore[arg-type]
            else:
                self._dispatch(packet)
        if acknowledged and self.session is not None and self.session.queue:
            self.session.pump()
        if self.reader.error is not None and not self.closed:
            raise self.reader.error
        if messages and self.broker.settings.publishes_per_s > 0:
            self._throttle(messages)

    # -- closing

    def _connect_timed_out(self) -> None:
        if not self.connected:
            self.broker.counters.closed.inc("connect_timeout")
            self._close()

    def _check_alive(self) -> None:
        due_s = self.last_read_s + self.keep_alive_s * KEEP_ALIVE_FACTOR
        if self.pauses:  # we do not read: silence is ours
            due_s = self.broker.clock.now_s() + self.keep_alive_s
        if due_s <= self.broker.clock.now_s():
            self.shut(reasons.KEEP_ALIVE_TIMEOUT)
        else:
            self.timer = self.broker.sessions.timers.at(due_s, self._check_alive)

    def _violated(self, violation: Violation) -> None:
        self.broker.counters.closed.inc(f"0x{violation.reason:02x}")
        log.debug("client violated the protocol", address=self.address, why=violation)
        if self.connected or self.closed:
            self.shut(violation.reason, counted=True)
        else:
            if self.version or violation.reason == reasons.UNSUPPORTED_VERSION:
                self.refuse(violation.reason)
            self._close()

    def refuse(self, reason: int) -> None:
        """Answer CONNECT with a failure and close."""
        code = reason if self.version == V5 else reasons.v3_return_code(reason)
        if self.version == V5 or reason not in (reasons.MALFORMED_PACKET, reasons.PROTOCOL_ERROR):
            self.write(encode(Connack(session_present=False, reason=code), self.version or 4))
        self._close()

    def shut(self, reason: int, *, will: bool = True, counted: bool = False) -> None:
        """Say DISCONNECT (MQTT 5) and close."""
        if self.closed:
            return
        if not counted:
            self.broker.counters.closed.inc(f"0x{reason:02x}")
        if self.connected and self.version == V5:
            self.write(encode(Disconnect(reason), V5))
        self._detach(will=will)
        self._close()

    def _detach(self, *, will: bool) -> None:
        session = self.session
        self.broker.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        self._leave_pending()
        self.connected = False
        if session is not None and session.outlet is self:
            self.broker.sessions.detach(session, will=will)
        self.session = None

    def _leave_pending(self) -> None:
        if self.pending:
            self.pending = False
            self.broker.pending.leave(self.address)

    # -- connecting

    def admitted(self, identity: Identity, session: Session) -> None:
        """Authentication succeeded and the session is ours."""
        self._leave_pending()
        self.identity, self.session = identity, session

    def hold(self) -> None:
        """Read nothing until the session is durable."""
        self.pause(PAUSED_ACCEPT)

    def accepted(self, answer: bytes, error: BaseException | None) -> None:
        """Send CONNACK, then what waited for this session, then go on reading."""
        if self.closed or self.session is None:
            return
        if error is not None:
            self.refuse(reasons.SERVER_UNAVAILABLE)
            return
        self.connected = True
        self.broker.counters.connects.inc()
        self.write(answer)
        if self.timer is not None:
            self.timer.cancel()
        if self.keep_alive_s:
            due_s = self.last_read_s + self.keep_alive_s * KEEP_ALIVE_FACTOR
            self.timer = self.broker.sessions.timers.at(due_s, self._check_alive)
        self.session.resume()
        self.resume(PAUSED_ACCEPT)
        if self.reader.pending_bytes:
            asyncio.get_running_loop().call_soon(self.data_received, b"")

    def _close(self) -> None:
        if self.closed:
            return
        self._flush()
        self._detach(will=True)
        self.closed = True
        self.transport.close()

    # -- writing

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
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self.scheduled = False
        if not self.out or self.closed:
            return
        self.transport.write(b"".join(self.out))
        self.out.clear()
        self.out_bytes = 0
        if self.stalled and self.transport.get_write_buffer_size() > 2 * self.broker.settings.out_buffer_bytes:
            self.broker.counters.closed.inc("slow_consumer")
            self._detach(will=True)
            self.closed = True
            self.transport.abort()
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

    # -- reading

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

    def _throttle(self, messages: int) -> None:
        settings = self.broker.settings
        now_s = self.broker.clock.now_s()
        if self.bucket is None:
            self.bucket = TokenBucket(settings.publishes_per_s, settings.publishes_burst, now_s)
        wait_s = self.bucket.take(messages, now_s)
        if wait_s > 0:
            self.pause(PAUSED_RATE)
            self.broker.sessions.timers.at(now_s + wait_s, lambda: self.resume(PAUSED_RATE))

    def _dispatch(self, packet: Packet) -> None:
        if not self.connected and type(packet) is not Connect:
            raise protocol_error("a packet before CONNECT was answered")
        action = _ACTIONS.get(type(packet))
        if action is None:
            raise protocol_error("a packet that only servers send")
        action(self, packet)

    def _on_connect(self, packet: Connect) -> None:
        self.version = packet.version
        handshake.accept(self, packet)

    def _on_ping(self, packet: Ping) -> None:
        if packet.kind != p.PINGREQ:
            raise protocol_error("PINGRESP from a client")
        self.write(PINGRESP)

    def _on_disconnect(self, packet: Disconnect) -> None:
        session = self.session
        assert session is not None
        expiry_s = packet.properties.get(p.SESSION_EXPIRY)
        if expiry_s is not None:
            if expiry_s and not session.expiry_s:
                raise protocol_error("a session expiry after CONNECT said 0")
            session.expiry_s = min(expiry_s, self.broker.settings.session_expiry_max_s)
        self._detach(will=packet.reason == reasons.DISCONNECT_WITH_WILL)
        self._close()

    def _on_auth(self, packet: Auth) -> None:  # noqa: ARG002
        raise protocol_error("AUTH without an authentication method")

    def _on_publish(self, packet: Publish) -> None:
        session, broker = self.session, self.broker
        if session is None or not self.connected:
            raise protocol_error("PUBLISH before CONNECT was answered")
        if packet.properties is not None:
            self._read_properties(packet)
        topic, qos = packet.topic, packet.qos
        broker.counters.received_by_qos[qos] += 1
        packet.client_id = session.client_id
        packet.identity = self.identity
        ticket = self.ticket
        if ticket is None:
            ticket = self.ticket = Ticket(self._settled)
        if qos:
            if max(self.unacknowledged, len(session.incoming or ())) >= broker.settings.receive_maximum:
                self._too_many()
            if qos == 2 and session.incoming and packet.packet_id in session.incoming:
                self._acknowledge(ticket, b"\x50\x02", packet.packet_id)
                return
        reason = self._refusal(packet, topic)
        if reason:
            self._refuse_publish(packet, ticket, reason)
            return
        before = ticket.durable
        ticket.durable = False
        wanted = broker.route(packet, session, ticket)
        if qos == 2:
            session.incoming = session.incoming or {}
            session.incoming[packet.packet_id] = stored = ticket.durable and session.stored
            if stored:
                broker.store.incoming(session, packet.packet_id)
        ticket.durable = ticket.durable or before
        if qos:
            self._acknowledge(ticket, b"\x40\x02" if qos == 1 else b"\x50\x02", packet.packet_id, wanted=wanted)

    def _too_many(self) -> None:
        if self.version == V5:
            raise Violation(reasons.RECEIVE_MAXIMUM_EXCEEDED, "more unacknowledged messages than the receive maximum")
        self.pause(PAUSED_BACKLOG)  # MQTT 3.1.1 has no limit to tell: read no more until acknowledged

    def _acknowledge(self, ticket: Ticket, head: bytes, packet_id: int, *, wanted: bool = True) -> None:
        ack = head + packet_id.to_bytes(2, "big")
        if not wanted and self.version == V5:
            ack = bytes((head[0], 3)) + ack[2:] + bytes((reasons.NO_MATCHING_SUBSCRIBERS,))
        ticket.acks.append(ack)
        ticket.messages += 1
        self.unacknowledged += 1

    def _read_properties(self, packet: Publish) -> None:
        properties = packet.properties or {}
        if p.SUBSCRIPTION_ID in properties:
            raise protocol_error("a subscription identifier from a client")
        alias = properties.get(p.TOPIC_ALIAS)
        if alias is not None:
            if not 0 < alias <= self.broker.settings.topic_alias_maximum:
                raise Violation(reasons.TOPIC_ALIAS_INVALID, "a topic alias beyond the maximum")
            self.alias_in = {} if self.alias_in is None else self.alias_in
            if packet.topic:
                self.alias_in[alias] = packet.topic
            elif alias in self.alias_in:
                packet.topic = self.alias_in[alias]
            else:
                raise protocol_error("an unknown topic alias")
        response = properties.get(p.RESPONSE_TOPIC)
        if response is not None and ("+" in response or "#" in response):
            raise protocol_error("a response topic with a wildcard")
        expiry_s = properties.get(p.MESSAGE_EXPIRY)
        if expiry_s is not None:
            packet.expires_at_s = self.broker.clock.now_s() + expiry_s

    def _refusal(self, packet: Publish, topic: str) -> int:
        """Return why a message is refused, or 0."""
        rights = self.may_publish
        if rights is None or len(rights) > MAX_RIGHTS:
            rights = self.may_publish = {}
        allowed = rights.get(topic)
        if allowed is None:
            reserved = topic.startswith(("$SYS/", "$share/"))
            allowed = rights[topic] = not reserved and self.broker.allowed(self.identity, "publish", topic)
        if not allowed:
            return reasons.NOT_AUTHORIZED
        if packet.retain and not self.broker.retained.fits(packet):
            return reasons.QUOTA_EXCEEDED
        return 0

    def _refuse_publish(self, packet: Publish, ticket: Ticket, reason: int) -> None:
        """MQTT-5: a refused message is never acknowledged as kept; MQTT 3.1.1 can only close."""
        self.broker.counters.refused.inc(f"publish_0x{reason:02x}")
        if not packet.qos:
            return
        if self.version != V5:
            raise Violation(reason, "publish refused")
        head = bytes((0x40 if packet.qos == 1 else 0x50, 3))
        ticket.acks.append(head + packet.packet_id.to_bytes(2, "big") + bytes((reason,)))

    def _on_ack(self, packet: Ack) -> None:
        session = self.session
        if session is None or not self.connected:
            raise protocol_error("an acknowledgement before CONNECT was answered")
        if packet.kind == p.PUBACK:
            session.acknowledged(packet.packet_id)
        elif packet.kind == p.PUBREC:
            self._on_pubrec(session, packet)
        elif packet.kind == p.PUBCOMP:
            if session.completed(packet.packet_id) and session.stored:
                self.broker.store.released_done(session, packet.packet_id)
        else:
            self._on_pubrel(session, packet.packet_id)

    def _on_pubrec(self, session: Session, packet: Ack) -> None:
        failed = packet.reason >= 0x80
        known = session.received(packet.packet_id, failed=failed)
        if failed:
            return
        if not known:
            self.write(encode(Ack(p.PUBREL, packet.packet_id, reasons.PACKET_ID_NOT_FOUND), self.version))
        elif session.stored:
            self.broker.store.released(session, packet.packet_id)
            ticket = self._open_ticket()
            ticket.durable = True
            ticket.acks.append(b"\x62\x02" + packet.packet_id.to_bytes(2, "big"))
        else:
            self.send_pubrel(packet.packet_id)

    def _on_pubrel(self, session: Session, packet_id: int) -> None:
        ticket = self._open_ticket()
        incoming = session.incoming or {}
        stored = incoming.pop(packet_id, None)
        session.incoming = incoming or None
        if stored:
            self.broker.store.incoming_done(session, packet_id)
            ticket.durable = True
        if stored is None:
            ticket.acks.append(encode(Ack(p.PUBCOMP, packet_id, reasons.PACKET_ID_NOT_FOUND), self.version))
        else:
            ticket.acks.append(b"\x70\x02" + packet_id.to_bytes(2, "big"))

    def _on_subscribe(self, packet: Subscribe) -> None:
        subscribe(self, packet, self._open_ticket())

    def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        unsubscribe(self, packet, self._open_ticket())

    # -- acknowledging

    def _open_ticket(self) -> Ticket:
        if self.ticket is None:
            self.ticket = Ticket(self._settled)
        return self.ticket

    def _finish_ticket(self) -> None:
        ticket, self.ticket = self.ticket, None
        assert ticket is not None
        if self.tickets is None and not ticket.durable and not ticket.sinks and not self.closed:
            self._answer(ticket)
            return
        if self.tickets is None:
            self.tickets = deque()
        self.tickets.append(ticket)
        self.broker.finish(ticket)

    def _settled(self) -> None:
        """A ticket is done: answer it and those behind it that waited only for their turn."""
        tickets = self.tickets
        while tickets and tickets[0].waiting <= 0:
            self._answer(tickets.popleft())
        if not tickets:
            self.tickets = None
        if self.unacknowledged < self.broker.settings.receive_maximum:
            self.resume(PAUSED_BACKLOG)

    def _answer(self, ticket: Ticket) -> None:
        self.unacknowledged -= ticket.messages
        if self.closed:
            return
        acks = ticket.acks
        if ticket.error is not None and acks:
            self.broker.counters.refused.inc("not_kept", by=len(acks))
            if self.version != V5 or any(ack[0] not in (0x40, 0x50) for ack in acks):
                self.shut(reasons.QUOTA_EXCEEDED)
                return
            acks = [self._failed(ack) for ack in acks]
        if acks:
            self.write(b"".join(acks))
        for fn in ticket.after or ():
            fn()

    def _failed(self, ack: bytes) -> bytes:
        if ack[0] == 0x50 and self.session is not None and self.session.incoming:
            self.session.incoming.pop(ack[2] << 8 | ack[3], None)
        return bytes((ack[0], 3)) + ack[2:4] + bytes((reasons.QUOTA_EXCEEDED,))


_ACTIONS: dict[type, Callable[[ClientConnection, Any], None]] = {
    Connect: ClientConnection._on_connect,  # noqa: SLF001
    Ping: ClientConnection._on_ping,  # noqa: SLF001
    Disconnect: ClientConnection._on_disconnect,  # noqa: SLF001
    Auth: ClientConnection._on_auth,  # noqa: SLF001
    Subscribe: ClientConnection._on_subscribe,  # noqa: SLF001
    Unsubscribe: ClientConnection._on_unsubscribe,  # noqa: SLF001
}
_NEVER_FROM_CLIENTS = (Suback, Connack)
