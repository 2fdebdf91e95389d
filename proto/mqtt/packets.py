"""The packets of MQTT 3.1.1 and 5 as values, and their bytes: ``encode`` here, the way in is ``reader.Reader``.

``version`` is 4 (MQTT 3.1.1) or 5. Everything works in both directions, so that clients in tests and benches use it too.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from proto.mqtt import properties as p
from proto.mqtt.properties import Properties, write_binary, write_string, write_varint

if TYPE_CHECKING:
    from proto.mqtt.identity import Identity

V3 = 4
V5 = 5
MAX_PACKET_ID = 0xFFFF
NOT_FORWARDED = (p.TOPIC_ALIAS, p.SUBSCRIPTION_ID, p.MESSAGE_EXPIRY)  # hop by hop, or counted down


@dataclass(slots=True)
class Publish:
    """A PUBLISH, and the message that routing shares between its receivers."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties | None = None
    client_id: str = ""  # the publisher; "" when published from inside
    identity: "Identity | None" = None  # the publisher's; None when published from inside
    expires_at_s: float | None = None  # the broker's monotonic clock; None never
    _key: int = field(default=-1, repr=False, compare=False)  # which parts the cache holds
    _found: tuple[bytes, bytes] = field(default=(b"", b""), repr=False, compare=False)

    def parts(self, version: int, flags: int) -> tuple[bytes, bytes]:
        """Return the bytes before and after the packet id; encoded once for receivers alike that follow each other."""
        key = version << 4 | flags
        if key != self._key:
            properties = self.forwarded() if version == V5 else None
            self._found = publish_parts(self.topic, self.payload, version, flags, properties)
            self._key = key
        return self._found

    def forwarded(self) -> Properties | None:
        """Return the properties that travel on to subscribers."""
        if not self.properties:
            return None
        return {k: v for k, v in self.properties.items() if k not in NOT_FORWARDED}


def publish_parts(
    name: str, payload: bytes, version: int, flags: int, properties: Properties | None
) -> tuple[bytes, bytes]:
    """Return the bytes of a PUBLISH before and after its packet id; ``flags`` are the low four bits of byte one."""
    raw = name.encode()
    topic = len(raw).to_bytes(2, "big") + raw
    tail = p.encode(properties) + payload if version == V5 else payload
    length = len(topic) + len(tail) + (2 if flags & 0x06 else 0)
    if length < 0x80:
        return bytes((0x30 | flags, length)) + topic, tail
    if length < 0x4000:
        return bytes((0x30 | flags, length & 0x7F | 0x80, length >> 7)) + topic, tail
    return bytes((0x30 | flags,)) + write_varint(length) + topic, tail


@dataclass(slots=True)
class WillMessage:
    """What CONNECT leaves behind: published when the connection ends without a DISCONNECT."""

    message: Publish
    delay_s: int = 0


@dataclass(slots=True)
class Connect:
    client_id: str
    version: int = V3
    clean_start: bool = True
    keep_alive_s: int = 0
    will: WillMessage | None = None
    username: str | None = None
    password: bytes | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connack:
    session_present: bool
    reason: int
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Ack:
    """PUBACK, PUBREC, PUBREL or PUBCOMP, told apart by ``kind``."""

    kind: int
    packet_id: int
    reason: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class Subscription:
    """One topic filter of a SUBSCRIBE with its options (§3.8.3.1)."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    identifier: int = 0  # 0: none


@dataclass(slots=True)
class Subscribe:
    packet_id: int
    subscriptions: list[Subscription]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    filters: list[str]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Suback:
    """SUBACK or UNSUBACK, told apart by ``kind``."""

    kind: int
    packet_id: int
    reasons: list[int]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Ping:
    """PINGREQ or PINGRESP, told apart by ``kind``."""

    kind: int


@dataclass(slots=True)
class Disconnect:
    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Auth:
    reason: int = 0
    properties: Properties = field(default_factory=dict)


Packet: TypeAlias = Publish | Ack | Connect | Connack | Subscribe | Unsubscribe | Suback | Ping | Disconnect | Auth


def _frame(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + write_varint(len(body)) + body


def encode(packet: Packet, version: int) -> bytes:  # noqa: PLR0911  one line per packet
    """Return the bytes of ``packet``."""
    match packet:
        case Publish():
            return _encode_publish(packet, version)
        case Ack():
            return _encode_ack(packet, version)
        case Connect():
            return _encode_connect(packet)
        case Connack():
            tail = p.encode(packet.properties) if version == V5 else b""
            return _frame(p.CONNACK << 4, bytes((packet.session_present, packet.reason)), tail)
        case Subscribe():
            return _encode_subscribe(packet, version)
        case Unsubscribe():
            extra = p.encode(packet.properties) if version == V5 else b""
            return _frame(0xA2, _u16(packet.packet_id), extra, *(write_string(f) for f in packet.filters))
        case Suback():
            return _encode_suback(packet, version)
        case Ping():
            return bytes((packet.kind << 4, 0))
        case Disconnect():
            return _encode_reason(p.DISCONNECT << 4, packet.reason, packet.properties, version)
        case Auth():
            return _encode_reason(p.AUTH << 4, packet.reason, packet.properties, version)


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _encode_publish(packet: Publish, version: int) -> bytes:
    flags = packet.dup << 3 | packet.qos << 1 | packet.retain
    head, tail = publish_parts(packet.topic, packet.payload, version, flags, packet.properties)
    return head + _u16(packet.packet_id) + tail if packet.qos else head + tail


def _encode_ack(packet: Ack, version: int) -> bytes:
    first = packet.kind << 4 | (2 if packet.kind == p.PUBREL else 0)
    if version == V5 and packet.properties:
        return _frame(first, _u16(packet.packet_id), bytes((packet.reason,)), p.encode(packet.properties))
    if version == V5 and packet.reason:
        return _frame(first, _u16(packet.packet_id), bytes((packet.reason,)))
    return bytes((first, 2)) + _u16(packet.packet_id)


def _encode_suback(packet: Suback, version: int) -> bytes:
    if version == V5:
        return _frame(packet.kind << 4, _u16(packet.packet_id), p.encode(packet.properties), bytes(packet.reasons))
    codes = bytes(packet.reasons) if packet.kind == p.SUBACK else b""
    return _frame(packet.kind << 4, _u16(packet.packet_id), codes)


def _encode_reason(first: int, reason: int, properties: Properties, version: int) -> bytes:
    if version != V5 or (not reason and not properties):
        return bytes((first, 0))
    return _frame(first, bytes((reason,)), p.encode(properties) if properties else b"")


def _encode_subscribe(packet: Subscribe, version: int) -> bytes:
    parts = [_u16(packet.packet_id)]
    if version == V5:
        parts.append(p.encode(packet.properties))
    for one in packet.subscriptions:
        options = one.qos | one.no_local << 2 | one.retain_as_published << 3 | one.retain_handling << 4
        parts += (write_string(one.topic_filter), bytes((options,)))
    return _frame(0x82, *parts)


def _encode_connect(packet: Connect) -> bytes:
    will = packet.will
    flags = packet.clean_start << 1 | (packet.username is not None) << 7 | (packet.password is not None) << 6
    if will is not None:
        flags |= 0x04 | will.message.qos << 3 | will.message.retain << 5
    parts = [write_string("MQTT"), bytes((packet.version, flags)), _u16(packet.keep_alive_s)]
    if packet.version == V5:
        parts.append(p.encode(packet.properties))
    parts.append(write_string(packet.client_id))
    if will is not None:
        if packet.version == V5:
            extra = {p.WILL_DELAY: will.delay_s} if will.delay_s else {}
            parts.append(p.encode({**(will.message.properties or {}), **extra}))
        parts += (write_string(will.message.topic), write_binary(will.message.payload))
    if packet.username is not None:
        parts.append(write_string(packet.username))
    if packet.password is not None:
        parts.append(write_binary(packet.password))
    return _frame(p.CONNECT << 4, *parts)
