"""MQTT 5 properties (§2.2.2): one table of identifiers, types and the packets each may appear in.

A set of properties is ``dict[int, value]``: ints, bytes or str; ``USER_PROPERTY`` is a list of (name, value) pairs and
``SUBSCRIPTION_ID`` a list of ints, because only these may repeat.
"""

from typing import Any

from proto.mqtt.reasons import malformed, protocol_error

Properties = dict[int, Any]

PAYLOAD_FORMAT = 0x01
MESSAGE_EXPIRY = 0x02
CONTENT_TYPE = 0x03
RESPONSE_TOPIC = 0x08
CORRELATION_DATA = 0x09
SUBSCRIPTION_ID = 0x0B
SESSION_EXPIRY = 0x11
ASSIGNED_CLIENT_ID = 0x12
SERVER_KEEP_ALIVE = 0x13
AUTHENTICATION_METHOD = 0x15
AUTHENTICATION_DATA = 0x16
REQUEST_PROBLEM_INFORMATION = 0x17
WILL_DELAY = 0x18
REQUEST_RESPONSE_INFORMATION = 0x19
RESPONSE_INFORMATION = 0x1A
SERVER_REFERENCE = 0x1C
REASON_STRING = 0x1F
RECEIVE_MAXIMUM = 0x21
TOPIC_ALIAS_MAXIMUM = 0x22
TOPIC_ALIAS = 0x23
MAXIMUM_QOS = 0x24
RETAIN_AVAILABLE = 0x25
USER_PROPERTY = 0x26
MAXIMUM_PACKET_SIZE = 0x27
WILDCARD_AVAILABLE = 0x28
SUBSCRIPTION_ID_AVAILABLE = 0x29
SHARED_AVAILABLE = 0x2A

# packet types; WILL is the pseudo packet of the will's properties inside CONNECT
WILL = 0
CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE = range(1, 9)
SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(9, 16)
_ACKS = {CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH}
_EVERY = {WILL, CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE} | _ACKS

BYTE, TWO, FOUR, VARINT, STRING, BINARY, PAIR = range(7)

# of each identifier its type, and the packets it may be in
TABLE: dict[int, tuple[int, set[int]]] = {
    PAYLOAD_FORMAT: (BYTE, {PUBLISH, WILL}),
    MESSAGE_EXPIRY: (FOUR, {PUBLISH, WILL}),
    CONTENT_TYPE: (STRING, {PUBLISH, WILL}),
    RESPONSE_TOPIC: (STRING, {PUBLISH, WILL}),
    CORRELATION_DATA: (BINARY, {PUBLISH, WILL}),
    SUBSCRIPTION_ID: (VARINT, {PUBLISH, SUBSCRIBE}),
    SESSION_EXPIRY: (FOUR, {CONNECT, CONNACK, DISCONNECT}),
    ASSIGNED_CLIENT_ID: (STRING, {CONNACK}),
    SERVER_KEEP_ALIVE: (TWO, {CONNACK}),
    AUTHENTICATION_METHOD: (STRING, {CONNECT, CONNACK, AUTH}),
    AUTHENTICATION_DATA: (BINARY, {CONNECT, CONNACK, AUTH}),
    REQUEST_PROBLEM_INFORMATION: (BYTE, {CONNECT}),
    WILL_DELAY: (FOUR, {WILL}),
    REQUEST_RESPONSE_INFORMATION: (BYTE, {CONNECT}),
    RESPONSE_INFORMATION: (STRING, {CONNACK}),
    SERVER_REFERENCE: (STRING, {CONNACK, DISCONNECT}),
    REASON_STRING: (STRING, _ACKS),
    RECEIVE_MAXIMUM: (TWO, {CONNECT, CONNACK}),
    TOPIC_ALIAS_MAXIMUM: (TWO, {CONNECT, CONNACK}),
    TOPIC_ALIAS: (TWO, {PUBLISH}),
    MAXIMUM_QOS: (BYTE, {CONNACK}),
    RETAIN_AVAILABLE: (BYTE, {CONNACK}),
    USER_PROPERTY: (PAIR, _EVERY),
    MAXIMUM_PACKET_SIZE: (FOUR, {CONNECT, CONNACK}),
    WILDCARD_AVAILABLE: (BYTE, {CONNACK}),
    SUBSCRIPTION_ID_AVAILABLE: (BYTE, {CONNACK}),
    SHARED_AVAILABLE: (BYTE, {CONNACK}),
}
_REPEATED = {USER_PROPERTY, SUBSCRIPTION_ID}
_FLAGS = {kind for kind, (shape, _) in TABLE.items() if shape == BYTE}
_NOT_ZERO = {RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE, SUBSCRIPTION_ID}
MAX_USER_PROPERTIES = 64  # a packet that needs more is an attack on our memory, not metadata


def read_varint(buf: bytes, pos: int, end: int) -> tuple[int, int]:
    """Return (value, next position); raises Violation when longer than four bytes or cut off."""
    value = shift = 0
    while pos < end and shift < 28:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise malformed("a variable byte integer is not in its shortest form")
            return value, pos
        shift += 7
    raise malformed("bad variable byte integer")


def write_varint(value: int) -> bytes:
    """Return the shortest encoding of ``value`` (< 268,435,456)."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_binary(buf: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """Return (bytes, next position) of a two-byte length and its bytes."""
    if pos + 2 > end:
        raise malformed("a length is cut off")
    stop = pos + 2 + (buf[pos] << 8 | buf[pos + 1])
    if stop > end:
        raise malformed("a string is longer than its packet")
    return buf[pos + 2 : stop], stop


def read_string(buf: bytes, pos: int, end: int) -> tuple[str, int]:
    """Return (text, next position); raises Violation on bad UTF-8 and on U+0000 (§1.5.4)."""
    raw, pos = read_binary(buf, pos, end)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise malformed("a string is not UTF-8") from error
    if "\0" in text:
        raise malformed("a string holds U+0000")
    return text, pos


def write_binary(raw: bytes) -> bytes:
    if len(raw) > 0xFFFF:
        raise malformed("a string is longer than 65,535 bytes")
    return len(raw).to_bytes(2, "big") + raw


def write_string(text: str) -> bytes:
    return write_binary(text.encode())


def decode(buf: bytes, pos: int, end: int, packet: int) -> tuple[Properties, int]:
    """Read the property length and the properties of a ``packet``; returns (properties, next position)."""
    length, pos = read_varint(buf, pos, end)
    stop = pos + length
    if stop > end:
        raise malformed("properties are longer than their packet")
    out: Properties = {}
    while pos < stop:
        kind, pos = read_varint(buf, pos, stop)
        shape, packets = TABLE.get(kind, (0, ()))
        if packet not in packets:
            raise malformed(f"property 0x{kind:02x} is not for this packet")
        value, pos = _read(buf, pos, stop, shape)
        _put(out, kind, value)
    return out, pos


def _read(buf: bytes, pos: int, end: int, shape: int) -> tuple[Any, int]:
    if shape == VARINT:
        return read_varint(buf, pos, end)
    if shape == STRING:
        return read_string(buf, pos, end)
    if shape == BINARY:
        return read_binary(buf, pos, end)
    if shape == PAIR:
        name, pos = read_string(buf, pos, end)
        value, pos = read_string(buf, pos, end)
        return (name, value), pos
    width = (1, 2, 4)[shape]
    if pos + width > end:
        raise malformed("a property is cut off")
    return int.from_bytes(buf[pos : pos + width], "big"), pos + width


def _put(out: Properties, kind: int, value: Any) -> None:
    if kind in _FLAGS and value > 1:
        raise protocol_error(f"property 0x{kind:02x} is 0 or 1")
    if kind in _NOT_ZERO and value == 0:
        raise protocol_error(f"property 0x{kind:02x} may not be 0")
    if kind in _REPEATED:
        values = out.setdefault(kind, [])
        if len(values) >= MAX_USER_PROPERTIES:
            raise malformed(f"more than {MAX_USER_PROPERTIES} of property 0x{kind:02x}")
        values.append(value)
    elif kind in out:
        raise protocol_error(f"property 0x{kind:02x} appears twice")
    else:
        out[kind] = value


def encode(properties: Properties | None) -> bytes:
    """Return the property length and the properties."""
    if not properties:
        return b"\0"
    raw = encode_bare(properties)
    return write_varint(len(raw)) + raw


def encode_bare(properties: Properties) -> bytes:
    """Return the properties without their length."""
    out = bytearray()
    for kind, value in properties.items():
        shape = TABLE[kind][0]
        for one in value if kind in _REPEATED else (value,):
            out += write_varint(kind)
            out += _write(shape, one)
    return bytes(out)


def _write(shape: int, value: Any) -> bytes:
    if shape == VARINT:
        return write_varint(value)
    if shape == STRING:
        return write_string(value)
    if shape == BINARY:
        return write_binary(value)
    if shape == PAIR:
        return write_string(value[0]) + write_string(value[1])
    return int(value).to_bytes((1, 2, 4)[shape], "big")
