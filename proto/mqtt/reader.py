"""Bytes in, packets out: an incremental parser without I/O, in front of which nothing larger than its limit is kept."""

from collections.abc import Callable

from proto.mqtt import properties as p
from proto.mqtt.packets import (
    V3,
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
    Subscription,
    Unsubscribe,
    WillMessage,
)
from proto.mqtt.properties import Properties, read_binary, read_string
from proto.mqtt.reasons import (
    PACKET_TOO_LARGE,
    TOPIC_FILTER_INVALID,
    UNSUPPORTED_VERSION,
    Violation,
    malformed,
    protocol_error,
)
from proto.mqtt.topics import TopicNames, check_filter

PUBACK_BYTE = 0x40
# low four bits that byte one must have; None: any (PUBLISH)
_FLAGS: tuple[int | None, ...] = (-1, 0, 0, None, 0, 0, 2, 0, 2, 0, 2, 0, 0, 0, 0, 0)


class Reader:
    """Feed it what the network brings. After CONNECT it stops until fed again, so that authentication comes first."""

    __slots__ = ("_need", "_rest", "error", "max_packet_bytes", "names", "version")

    def __init__(self, max_packet_bytes: int, names: TopicNames, version: int = 0) -> None:
        self.max_packet_bytes = max_packet_bytes
        self.names = names
        self.version = version  # 0: the next packet must be CONNECT
        self.error: Violation | None = None  # set once; packets before the bad one were returned
        self._rest: bytearray | None = None
        self._need = 0

    def feed(self, chunk: bytes) -> list[Packet]:
        """Return the packets completed by ``chunk``; look at ``error`` afterwards."""
        out: list[Packet] = []
        if self.error is not None:
            return out
        rest = self._rest
        if rest is not None:
            rest += chunk
            if len(rest) < self._need:
                return out
            chunk = bytes(rest)
            self._rest = None
        try:
            pos = self._parse(chunk, out)
        except Violation as error:
            self.error = error
            return out
        if pos < len(chunk):
            self._rest = bytearray(chunk[pos:])
        return out

    @property
    def pending_bytes(self) -> int:
        return len(self._rest or b"")

    def _parse(self, buf: bytes, out: list[Packet]) -> int:
        pos, size = 0, len(buf)
        self._need = 0
        while size - pos >= 2:
            first = buf[pos]
            length = buf[pos + 1]
            start = pos + 2
            if length > 0x7F and start < size and buf[start] < 0x80:
                length = length & 0x7F | buf[start] << 7
                start += 1
            elif length > 0x7F:
                length, start = self._long_length(buf, pos + 1)
                if start == 0:
                    self._check_first(first)
                    self._need = size - pos + 1
                    return pos
            end = start + length
            if end - pos > self.max_packet_bytes:
                raise Violation(
                    PACKET_TOO_LARGE, f"a packet of {end - pos} bytes; the limit is {self.max_packet_bytes}"
                )
            if end > size:
                self._check_first(first)
                self._need = end - pos
                return pos
            kind = first >> 4
            if kind == p.PUBLISH and self.version:
                out.append(self._publish(first, buf, start, end))
            elif first == PUBACK_BYTE and length == 2 and self.version and (buf[start] or buf[start + 1]):
                out.append(Ack(p.PUBACK, buf[start] << 8 | buf[start + 1]))
            else:
                self._check_first(first)
                out.append(_DECODERS[kind](self, kind, buf, start, end))
                if kind == p.CONNECT:
                    return end
            pos = end
        return pos

    def _check_first(self, first: int) -> None:
        kind = first >> 4
        if not self.version and kind != p.CONNECT:
            raise protocol_error("the first packet must be CONNECT")
        flags = _FLAGS[kind]
        if flags is not None and first & 0x0F != flags:
            raise malformed(f"fixed header 0x{first:02x} is reserved")

    @staticmethod
    def _long_length(buf: bytes, pos: int) -> tuple[int, int]:
        length = shift = 0
        for at in range(pos, min(pos + 4, len(buf))):
            byte = buf[at]
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                return length, at + 1
            shift += 7
        if shift == 28:
            raise malformed("the remaining length is longer than four bytes")
        return 0, 0

    def _publish(self, first: int, buf: bytes, pos: int, end: int) -> Publish:
        qos = first >> 1 & 3
        if qos == 3 or (not qos and first & 8):
            raise malformed("PUBLISH with QoS 3, or DUP at QoS 0")
        if pos + 2 > end:
            raise malformed("PUBLISH is cut off")
        start = pos + 2
        pos = start + (buf[pos] << 8 | buf[pos + 1])
        if pos > end:
            raise malformed("a topic is longer than its packet")
        raw = buf[start:pos]
        packet_id = 0
        if qos:
            if pos + 2 > end:
                raise malformed("PUBLISH without a packet id")
            packet_id = buf[pos] << 8 | buf[pos + 1]
            if not packet_id:
                raise protocol_error("packet id 0")
            pos += 2
        properties: Properties | None = None
        if self.version == V5:
            if pos < end and not buf[pos]:
                pos += 1
            else:
                properties, pos = p.decode(buf, pos, end, p.PUBLISH)
        if raw:
            topic = self.names.known.get(raw) or self.names.learn(raw)
        elif properties is not None and p.TOPIC_ALIAS in properties:
            topic = ""
        else:
            raise protocol_error("PUBLISH without a topic")
        return Publish(topic, buf[pos:end], qos, bool(first & 1), bool(first & 8), packet_id, properties)


def _finished(pos: int, end: int) -> None:
    if pos != end:
        raise malformed("a packet is longer than its content")


def _packet_id(buf: bytes, pos: int, end: int) -> tuple[int, int]:
    if pos + 2 > end:
        raise malformed("a packet id is cut off")
    number = buf[pos] << 8 | buf[pos + 1]
    if not number:
        raise protocol_error("packet id 0")
    return number, pos + 2


def _connect(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Connect:
    if reader.version:
        raise protocol_error("a second CONNECT")
    name, pos = read_binary(buf, pos, end)
    if pos + 4 > end or name not in (b"MQTT", b"MQIsdp"):
        raise malformed("CONNECT is not MQTT")
    version, flags = buf[pos], buf[pos + 1]
    if name != b"MQTT" or version not in (V3, V5):
        raise Violation(UNSUPPORTED_VERSION, f"MQTT version {version}; spoken are 3.1.1 and 5")
    reader.version = version
    packet = Connect("", version, bool(flags & 2), buf[pos + 2] << 8 | buf[pos + 3])
    pos += 4
    _check_connect_flags(flags, version)
    if version == V5:
        packet.properties, pos = p.decode(buf, pos, end, kind)
    packet.client_id, pos = read_string(buf, pos, end)
    if flags & 4:
        packet.will, pos = _will(reader, flags, buf, pos, end)
    if flags & 0x80:
        packet.username, pos = read_string(buf, pos, end)
    if flags & 0x40:
        packet.password, pos = read_binary(buf, pos, end)
    _finished(pos, end)
    return packet


def _check_connect_flags(flags: int, version: int) -> None:
    if flags & 1:
        raise malformed("the reserved CONNECT flag is set")
    if flags & 0x18 == 0x18 or (not flags & 4 and flags & 0x38):
        raise malformed("bad will flags")
    if version == V3 and flags & 0x40 and not flags & 0x80:
        raise malformed("a password without a user name")


def _will(reader: Reader, flags: int, buf: bytes, pos: int, end: int) -> tuple[WillMessage, int]:
    extra: Properties = {}
    if reader.version == V5:
        extra, pos = p.decode(buf, pos, end, p.WILL)
    raw, pos = read_binary(buf, pos, end)
    payload, pos = read_binary(buf, pos, end)
    delay_s = extra.pop(p.WILL_DELAY, 0)
    topic = reader.names.learn(raw)
    return WillMessage(
        Publish(topic, payload, flags >> 3 & 3, bool(flags & 0x20), properties=extra or None), delay_s
    ), pos


def _connack(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Connack:
    if pos + 2 > end or buf[pos] > 1:
        raise malformed("bad CONNACK")
    packet = Connack(bool(buf[pos]), buf[pos + 1])
    pos += 2
    if reader.version == V5 and pos < end:
        packet.properties, pos = p.decode(buf, pos, end, kind)
    _finished(pos, end)
    return packet


def _ack(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Ack:
    packet_id, pos = _packet_id(buf, pos, end)
    packet = Ack(kind, packet_id)
    if pos < end and reader.version == V5:
        packet.reason = buf[pos]
        pos += 1
        if pos < end:
            packet.properties, pos = p.decode(buf, pos, end, kind)
    _finished(pos, end)
    return packet


def _subscribe(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Subscribe:
    packet_id, pos = _packet_id(buf, pos, end)
    packet = Subscribe(packet_id, [])
    identifier = 0
    if reader.version == V5:
        packet.properties, pos = p.decode(buf, pos, end, kind)
        identifiers = packet.properties.get(p.SUBSCRIPTION_ID, [0])
        if len(identifiers) > 1:
            raise protocol_error("two subscription identifiers")
        identifier = identifiers[0]
    while pos < end:
        text, pos = read_string(buf, pos, end)
        if pos >= end:
            raise malformed("subscription options are missing")
        packet.subscriptions.append(_subscription(text, buf[pos], identifier, reader.version))
        pos += 1
    if not packet.subscriptions:
        raise protocol_error("SUBSCRIBE without a filter")
    return packet


def _subscription(text: str, options: int, identifier: int, version: int) -> Subscription:
    if options & (0xC0 if version == V5 else 0xFC) or options & 3 == 3 or options >> 4 & 3 == 3:
        raise malformed("bad subscription options")
    one = Subscription(text, options & 3, bool(options & 4), bool(options & 8), options >> 4 & 3, identifier)
    if not check_filter(text):
        raise Violation(TOPIC_FILTER_INVALID, "an invalid topic filter")
    if one.no_local and text.startswith("$share/"):
        raise protocol_error("no local on a shared subscription")
    return one


def _unsubscribe(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Unsubscribe:
    packet_id, pos = _packet_id(buf, pos, end)
    packet = Unsubscribe(packet_id, [])
    if reader.version == V5:
        packet.properties, pos = p.decode(buf, pos, end, kind)
    while pos < end:
        text, pos = read_string(buf, pos, end)
        if not check_filter(text):
            raise Violation(TOPIC_FILTER_INVALID, "an invalid topic filter")
        packet.filters.append(text)
    if not packet.filters:
        raise protocol_error("UNSUBSCRIBE without a filter")
    return packet


def _suback(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Suback:
    packet_id, pos = _packet_id(buf, pos, end)
    packet = Suback(kind, packet_id, [])
    if reader.version == V5:
        packet.properties, pos = p.decode(buf, pos, end, kind)
    packet.reasons = list(buf[pos:end])
    return packet


def _ping(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Ping:  # noqa: ARG001
    _finished(pos, end)
    return Ping(kind)


def _disconnect(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Disconnect:
    packet = Disconnect()
    packet.reason, packet.properties = _reason(reader, kind, buf, pos, end)
    return packet


def _auth(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Auth:
    if reader.version != V5:
        raise malformed("AUTH is MQTT 5")
    packet = Auth()
    packet.reason, packet.properties = _reason(reader, kind, buf, pos, end)
    return packet


def _reason(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> tuple[int, Properties]:
    reason = 0
    properties: Properties = {}
    if pos < end and reader.version == V5:
        reason = buf[pos]
        pos += 1
        if pos < end:
            properties, pos = p.decode(buf, pos, end, kind)
    _finished(pos, end)
    return reason, properties


def _reserved(reader: Reader, kind: int, buf: bytes, pos: int, end: int) -> Packet:  # noqa: ARG001
    raise malformed("packet type 0 is reserved")


_DECODERS: tuple[Callable[[Reader, int, bytes, int, int], Packet], ...] = (
    *(_reserved, _connect, _connack, _reserved, _ack, _ack, _ack, _ack, _subscribe),
    *(_suback, _unsubscribe, _suback, _ping, _ping, _disconnect, _auth),
)
