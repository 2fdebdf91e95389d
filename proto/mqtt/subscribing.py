"""SUBSCRIBE and UNSUBSCRIBE: rights, limits, the acknowledgement after the commit, then retained messages."""

from typing import TYPE_CHECKING

from proto.mqtt import properties as p
from proto.mqtt import reasons
from proto.mqtt.packets import V5, Suback, Subscribe, Subscription, Unsubscribe, encode
from proto.mqtt.routing import Ticket
from proto.mqtt.session import Session
from proto.mqtt.topics import split_share

if TYPE_CHECKING:
    from proto.mqtt.broker import MqttBroker
    from proto.mqtt.connection import ClientConnection

V3_FAILURE = 0x80


def subscribe(connection: "ClientConnection", packet: Subscribe, ticket: Ticket) -> None:
    """Add the subscriptions that are allowed and put SUBACK on ``ticket``."""
    session, broker = connection.session, connection.broker
    assert session is not None
    codes: list[int] = []
    wanted: list[Subscription] = []
    for one in packet.subscriptions:
        refusal = _refusal(connection, session, one)
        if refusal:
            broker.counters.refused.inc(f"subscribe_0x{refusal:02x}")
            codes.append(refusal if connection.version == V5 else V3_FAILURE)
            continue
        new = broker.routing.subscribe(session, one)
        if session.stored:
            broker.store.subscribe(session, one)
            ticket.durable = True
        codes.append(one.qos)
        shared = split_share(one.topic_filter)[0]
        if not shared and (one.retain_handling == 0 or (one.retain_handling == 1 and new)):
            wanted.append(one)
    ticket.acks.append(encode(Suback(p.SUBACK, packet.packet_id, codes), connection.version))
    if wanted:
        ticket.after = ticket.after or []
        ticket.after.append(lambda: _send_retained(broker, session, wanted))


def _send_retained(broker: "MqttBroker", session: Session, wanted: list[Subscription]) -> None:
    for one in wanted:
        broker.send_retained(session, one)


def _refusal(connection: "ClientConnection", session: Session, one: Subscription) -> int:
    broker = connection.broker
    settings = broker.settings
    topic_filter = split_share(one.topic_filter)[1]
    too_long = len(one.topic_filter.encode()) > settings.max_topic_bytes
    if too_long or topic_filter.count("/") >= settings.max_topic_levels:
        return reasons.TOPIC_FILTER_INVALID
    if not broker.allowed(connection.identity, "subscribe", topic_filter):
        return reasons.NOT_AUTHORIZED
    held = session.subscriptions or {}
    if one.topic_filter not in held and len(held) >= settings.max_subscriptions:
        return reasons.QUOTA_EXCEEDED
    return 0


def unsubscribe(connection: "ClientConnection", packet: Unsubscribe, ticket: Ticket) -> None:
    """Remove subscriptions and put UNSUBACK on ``ticket``."""
    session, broker = connection.session, connection.broker
    assert session is not None
    codes: list[int] = []
    for topic_filter in packet.filters:
        found = broker.routing.unsubscribe(session, topic_filter)
        codes.append(reasons.SUCCESS if found else reasons.NO_SUBSCRIPTION_EXISTED)
        if found and session.stored:
            broker.store.unsubscribe(session, topic_filter)
            ticket.durable = True
    ticket.acks.append(encode(Suback(p.UNSUBACK, packet.packet_id, codes), connection.version))
