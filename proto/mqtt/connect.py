"""From CONNECT to CONNACK. Identity comes first: no session is looked at for a client that was not let in (MQTT-1)."""

from typing import TYPE_CHECKING

from proto.kit.log import Logger
from proto.mqtt import properties as p
from proto.mqtt import reasons
from proto.mqtt.identity import Identity, Refusal, peer_certificate
from proto.mqtt.packets import V5, Connack, Connect, encode
from proto.mqtt.properties import Properties
from proto.mqtt.session import Session

if TYPE_CHECKING:
    from proto.mqtt.connection import ClientConnection

log = Logger("mqtt")
MAX_CLIENT_ID_BYTES = 256
DEFAULT_RECEIVE_MAXIMUM = 65_535  # MQTT 5 §3.1.2.11.3


def accept(connection: "ClientConnection", packet: Connect) -> None:
    """Answer ``packet``: CONNACK once the session is durable, or a refusal."""
    broker = connection.broker
    assigned = False
    try:
        identity = _authenticate(connection, packet)
        client_id = packet.client_id or identity.client_id
        if not client_id:
            client_id, assigned = broker.assign_client_id(), True
        _check(connection, packet, identity, client_id)
        session, present = broker.sessions.attach(
            connection, identity, client_id, clean=packet.clean_start, expiry_s=_expiry_s(connection, packet)
        )
    except Refusal as refusal:
        broker.counters.refused.inc(f"connect_0x{refusal.reason:02x}")
        log.info("client refused", address=connection.address, client=packet.client_id[:64], why=refusal)
        connection.refuse(refusal.reason)
        return
    connection.admitted(identity, session)
    session.version = packet.version
    session.will = packet.will
    if packet.will is not None:
        packet.will.message.client_id, packet.will.message.identity = client_id, identity
        expiry_s = (packet.will.message.properties or {}).get(p.MESSAGE_EXPIRY)
        packet.will.message.expires_at_s = None if expiry_s is None else broker.clock.now_s() + expiry_s
    if present:
        broker.drop_forbidden(session, identity)
    answer = _answer(connection, packet, session, assigned=assigned or client_id != packet.client_id)
    answer.session_present = present
    _keep(connection, session, encode(answer, packet.version))


def _authenticate(connection: "ClientConnection", packet: Connect) -> Identity:
    if p.AUTHENTICATION_METHOD in packet.properties:
        raise Refusal("enhanced authentication is not offered", reasons.BAD_AUTHENTICATION_METHOD)
    peer = peer_certificate(connection.transport.get_extra_info("peercert"))
    identity = connection.broker.authenticate(packet, peer, packet.username or "", packet.password or b"")
    if identity.client_id and packet.client_id and packet.client_id != identity.client_id:
        raise Refusal(f"{identity.name} may not use this client id", reasons.CLIENT_ID_NOT_VALID)
    return identity


def _check(connection: "ClientConnection", packet: Connect, identity: Identity, client_id: str) -> None:
    broker = connection.broker
    if not packet.client_id and packet.version != V5 and not packet.clean_start:
        raise Refusal("an empty client id needs a clean session", reasons.CLIENT_ID_NOT_VALID)
    if len(client_id.encode()) > MAX_CLIENT_ID_BYTES:
        raise Refusal(f"a client id longer than {MAX_CLIENT_ID_BYTES} bytes", reasons.CLIENT_ID_NOT_VALID)
    if not broker.rates.allow(f"{identity.name}\0{client_id}", broker.clock.now_s()):
        raise Refusal("connects too often; try again later", reasons.CONNECTION_RATE_EXCEEDED)
    if packet.will is not None:
        topic = packet.will.message.topic
        if topic.startswith(("$SYS/", "$share/")) or not broker.allowed(identity, "publish", topic):
            raise Refusal("the will's topic is not allowed", reasons.NOT_AUTHORIZED)


def _expiry_s(connection: "ClientConnection", packet: Connect) -> int:
    longest_s = connection.broker.settings.session_expiry_max_s
    if packet.version != V5:
        return 0 if packet.clean_start else longest_s
    asked_s: int = packet.properties.get(p.SESSION_EXPIRY, 0)
    return min(asked_s, longest_s)


def _answer(connection: "ClientConnection", packet: Connect, session: Session, *, assigned: bool) -> Connack:
    """Fill in what was granted, on the connection and in CONNACK."""
    settings = connection.broker.settings
    asked = packet.properties
    session.window = min(asked.get(p.RECEIVE_MAXIMUM, DEFAULT_RECEIVE_MAXIMUM), settings.max_inflight)
    connection.max_packet_bytes = asked.get(p.MAXIMUM_PACKET_SIZE, 0)
    connection.alias_maximum = min(asked.get(p.TOPIC_ALIAS_MAXIMUM, 0), settings.topic_alias_maximum)
    connection.keep_alive_s = packet.keep_alive_s
    connection.reader.max_packet_bytes = settings.max_packet_bytes
    if packet.version != V5:
        return Connack(session_present=False, reason=0)
    granted: Properties = {
        p.RECEIVE_MAXIMUM: settings.receive_maximum,
        p.MAXIMUM_PACKET_SIZE: settings.max_packet_bytes,
        p.TOPIC_ALIAS_MAXIMUM: settings.topic_alias_maximum,
    }
    if session.expiry_s != asked.get(p.SESSION_EXPIRY, 0):
        granted[p.SESSION_EXPIRY] = session.expiry_s
    if assigned:
        granted[p.ASSIGNED_CLIENT_ID] = session.client_id
    if not 0 < packet.keep_alive_s <= settings.keep_alive_max_s:
        connection.keep_alive_s = granted[p.SERVER_KEEP_ALIVE] = settings.keep_alive_max_s
    return Connack(session_present=False, reason=0, properties=granted)


def _keep(connection: "ClientConnection", session: Session, answer: bytes) -> None:
    store = connection.broker.store
    if not session.stored:
        connection.accepted(answer, None)
        return
    connection.hold()
    store.save_session(session, connected=True)
    store.after(lambda error: connection.accepted(answer, error))
