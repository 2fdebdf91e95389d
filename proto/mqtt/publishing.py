"""PUBLISH and its acknowledgements, both directions: rights, limits, duplicates, and who must keep the message."""

from typing import TYPE_CHECKING

from proto.mqtt import properties as p
from proto.mqtt import reasons
from proto.mqtt.packets import V5, Ack, Publish, encode
from proto.mqtt.reasons import Violation, protocol_error
from proto.mqtt.routing import Ticket
from proto.mqtt.session import Session

if TYPE_CHECKING:
    from proto.mqtt.connection import ClientConnection

MAX_RIGHTS = 256  # topics whose publish right a connection remembers
PAUSED_BACKLOG = 2


def receive(connection: "ClientConnection", packet: Publish) -> None:
    session, broker = connection.session, connection.broker
    if session is None or not connection.connected:
        raise protocol_error("PUBLISH before CONNECT was answered")
    if packet.properties is not None:
        _read_properties(connection, packet)
    topic, qos = packet.topic, packet.qos
    broker.counters.received_by_qos[qos] += 1
    packet.client_id = session.client_id
    packet.identity = connection.identity
    ticket = connection.ticket or connection.open_ticket()
    if qos:
        if connection.unacknowledged >= broker.settings.max_unacknowledged:
            connection.pause(PAUSED_BACKLOG)
        if connection.version == V5 and connection.unacknowledged >= broker.settings.receive_maximum:
            raise _too_many()
        if qos == 2 and session.incoming and packet.packet_id in session.incoming:
            _acknowledge(connection, ticket, b"\x50\x02", packet.packet_id)
            return
    rights = connection.may_publish
    if packet.retain or rights is None or not rights.get(topic):
        reason = _refusal(connection, packet, topic)
        if reason:
            _refuse_publish(connection, packet, ticket, reason)
            return
    if qos == 2:
        _receive_once(connection, session, packet, ticket)
        return
    wanted = broker.route(packet, session, ticket)
    if qos:
        _acknowledge(connection, ticket, b"\x40\x02", packet.packet_id, wanted=wanted)


def _receive_once(connection: "ClientConnection", session: Session, packet: Publish, ticket: Ticket) -> None:
    """QoS 2: the packet id is remembered, on disk when the message is, so that a repetition is not a second message."""
    broker = connection.broker
    if session.incoming is None:
        session.incoming = {}
    elif connection.version == V5 and len(session.incoming) >= broker.settings.receive_maximum:
        raise _too_many()
    before, ticket.durable = ticket.durable, False
    wanted = broker.route(packet, session, ticket)
    session.incoming[packet.packet_id] = stored = ticket.durable and session.stored
    if stored:
        broker.store.incoming(session, packet.packet_id)
    ticket.durable = ticket.durable or before
    _acknowledge(connection, ticket, b"\x50\x02", packet.packet_id, wanted=wanted)


def _too_many() -> Violation:
    return Violation(reasons.RECEIVE_MAXIMUM_EXCEEDED, "more unacknowledged messages than the receive maximum")


def _acknowledge(
    connection: "ClientConnection", ticket: Ticket, head: bytes, packet_id: int, *, wanted: bool = True
) -> None:
    ack = head + packet_id.to_bytes(2, "big")
    if not wanted and connection.version == V5:
        ack = bytes((head[0], 3)) + ack[2:] + bytes((reasons.NO_MATCHING_SUBSCRIBERS,))
    ticket.acks.append(ack)
    ticket.messages += 1
    connection.unacknowledged += 1


def _read_properties(connection: "ClientConnection", packet: Publish) -> None:
    properties = packet.properties or {}
    if p.SUBSCRIPTION_ID in properties:
        raise protocol_error("a subscription identifier from a client")
    alias = properties.get(p.TOPIC_ALIAS)
    if alias is not None:
        if not 0 < alias <= connection.broker.settings.topic_alias_maximum:
            raise Violation(reasons.TOPIC_ALIAS_INVALID, "a topic alias beyond the maximum")
        connection.alias_in = {} if connection.alias_in is None else connection.alias_in
        if packet.topic:
            connection.alias_in[alias] = packet.topic
        elif alias in connection.alias_in:
            packet.topic = connection.alias_in[alias]
        else:
            raise protocol_error("an unknown topic alias")
    response = properties.get(p.RESPONSE_TOPIC)
    if response is not None and ("+" in response or "#" in response):
        raise protocol_error("a response topic with a wildcard")
    expiry_s = properties.get(p.MESSAGE_EXPIRY)
    if expiry_s is not None:
        packet.expires_at_s = connection.broker.clock.now_s() + expiry_s


def _refusal(connection: "ClientConnection", packet: Publish, topic: str) -> int:
    """Return why a message is refused, or 0."""
    rights = connection.may_publish
    if rights is None or len(rights) > MAX_RIGHTS:
        rights = connection.may_publish = {}
    allowed = rights.get(topic)
    if allowed is None:
        reserved = topic.startswith(("$SYS/", "$share/"))
        allowed = rights[topic] = not reserved and connection.broker.allowed(connection.identity, "publish", topic)
    if not allowed:
        return reasons.NOT_AUTHORIZED
    if packet.retain and not connection.broker.retained.fits(packet):
        return reasons.QUOTA_EXCEEDED
    return 0


def _refuse_publish(connection: "ClientConnection", packet: Publish, ticket: Ticket, reason: int) -> None:
    """MQTT-5: a refused message is never acknowledged as kept; MQTT 3.1.1 can only close."""
    connection.broker.counters.refused.inc(f"publish_0x{reason:02x}")
    if not packet.qos:
        return
    if connection.version != V5:
        raise Violation(reason, "publish refused")
    head = bytes((0x40 if packet.qos == 1 else 0x50, 3))
    ticket.acks.append(head + packet.packet_id.to_bytes(2, "big") + bytes((reason,)))


def receive_ack(connection: "ClientConnection", packet: Ack) -> None:
    session = connection.session
    if session is None or not connection.connected:
        raise protocol_error("an acknowledgement before CONNECT was answered")
    if packet.kind == p.PUBACK:
        session.acknowledged(packet.packet_id)
    elif packet.kind == p.PUBREC:
        _on_pubrec(connection, session, packet)
    elif packet.kind == p.PUBCOMP:
        if session.completed(packet.packet_id) and session.stored:
            connection.broker.store.released_done(session, packet.packet_id)
    else:
        _on_pubrel(connection, session, packet.packet_id)


def _on_pubrec(connection: "ClientConnection", session: Session, packet: Ack) -> None:
    failed = packet.reason >= 0x80
    known = session.received(packet.packet_id, failed=failed)
    if failed:
        return
    if not known:
        connection.write(encode(Ack(p.PUBREL, packet.packet_id, reasons.PACKET_ID_NOT_FOUND), connection.version))
    elif session.stored:
        connection.broker.store.released(session, packet.packet_id)
        ticket = connection.open_ticket()
        ticket.durable = True
        ticket.acks.append(b"\x62\x02" + packet.packet_id.to_bytes(2, "big"))
    else:
        connection.send_pubrel(packet.packet_id)


def _on_pubrel(connection: "ClientConnection", session: Session, packet_id: int) -> None:
    ticket = connection.open_ticket()
    incoming = session.incoming or {}
    stored = incoming.pop(packet_id, None)
    session.incoming = incoming or None
    if stored:
        connection.broker.store.incoming_done(session, packet_id)
        ticket.durable = True
    if stored is None:
        ticket.acks.append(encode(Ack(p.PUBCOMP, packet_id, reasons.PACKET_ID_NOT_FOUND), connection.version))
    else:
        ticket.acks.append(b"\x70\x02" + packet_id.to_bytes(2, "big"))


def failed(connection: "ClientConnection", ack: bytes) -> bytes:
    if ack[0] == 0x50 and connection.session is not None and connection.session.incoming:
        connection.session.incoming.pop(ack[2] << 8 | ack[3], None)
    return bytes((ack[0], 3)) + ack[2:4] + bytes((reasons.QUOTA_EXCEEDED,))
