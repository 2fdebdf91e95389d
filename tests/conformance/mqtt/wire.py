"""Bytes of MQTT packets, built without the code under test; and steps of a conversation with a broker."""

from dataclasses import dataclass
from typing import Any

PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"


def u16(number: int) -> bytes:
    return bytes((number >> 8, number & 255))


def s(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u16(len(raw)) + raw


def frame(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length, out = len(body), bytearray([first])
    while True:
        length, low = divmod(length, 128)
        out.append(low | (128 if length else 0))
        if not length:
            return bytes(out) + body


def props(v: int, raw: bytes = b"") -> bytes:
    return (bytes([len(raw)]) + raw) if v == 5 else b""


def connect(
    cid: str | bytes = "a",
    *,
    v: int = 4,
    clean: bool = True,
    ka: int = 60,
    will: tuple[str | bytes, bytes, int, bool] | None = None,
    user: str | None = None,
    password: str | None = None,
    flags: int | None = None,
    p: bytes = b"",
    wp: bytes = b"",
    name: str = "MQTT",
    level: int | None = None,
) -> bytes:
    bits = clean << 1 | (user is not None) << 7 | (password is not None) << 6
    payload = s(cid)
    if will is not None:
        bits |= 4 | will[2] << 3 | will[3] << 5
        payload += props(v, wp) + s(will[0]) + s(will[1])
    if user is not None:
        payload += s(user)
    if password is not None:
        payload += s(password)
    header = s(name) + bytes([v if level is None else level, bits if flags is None else flags]) + u16(ka)
    return frame(0x10, header, props(v, p), payload)


def publish(
    topic: str | bytes,
    payload: bytes = b"",
    *,
    v: int = 4,
    qos: int = 0,
    pid: int = 0,
    retain: bool = False,
    dup: bool = False,
    p: bytes = b"",
) -> bytes:
    return frame(0x30 | dup << 3 | qos << 1 | retain, s(topic), u16(pid) if qos else b"", props(v, p), payload)


def subscribe(pid: int, *filters: tuple[str | bytes, int], v: int = 4, p: bytes = b"") -> bytes:
    return frame(0x82, u16(pid), props(v, p), *(s(text) + bytes([options]) for text, options in filters))


def suback(pid: int, *codes: int, v: int = 4) -> bytes:
    return frame(0x90, u16(pid), props(v), bytes(codes))


def unsubscribe(pid: int, *filters: str | bytes, v: int = 4) -> bytes:
    return frame(0xA2, u16(pid), props(v), *(s(text) for text in filters))


def unsuback(pid: int, *codes: int, v: int = 4) -> bytes:
    return frame(0xB0, u16(pid), props(v), bytes(codes) if v == 5 else b"")


def ack(first: int, pid: int, reason: int | None = None) -> bytes:
    return frame(first, u16(pid), b"" if reason is None else bytes([reason]))


def puback(pid: int, reason: int | None = None) -> bytes:
    return ack(0x40, pid, reason)


def pubrec(pid: int, reason: int | None = None) -> bytes:
    return ack(0x50, pid, reason)


def pubrel(pid: int, reason: int | None = None) -> bytes:
    return ack(0x62, pid, reason)


def pubcomp(pid: int, reason: int | None = None) -> bytes:
    return ack(0x70, pid, reason)


def disconnect(reason: int | None = None, p: bytes | None = None) -> bytes:
    return frame(0xE0, b"" if reason is None else bytes([reason]), b"" if p is None else bytes([len(p)]) + p)


@dataclass(frozen=True)
class Step:
    """``>`` send, ``<`` expect one packet, ``x`` expect the end, ``t`` let time pass, ``c`` cut the connection."""

    what: str
    client: str = "a"
    content: Any = None


def S(content: bytes, client: str = "a") -> Step:  # noqa: N802
    return Step(">", client, content)


def E(pattern: bytes | str, client: str = "a") -> Step:  # noqa: N802
    """Expect one packet: bytes exactly, or hexadecimal with ``??`` for any byte and a final ``*`` for any rest."""
    return Step("<", client, pattern)


def gone(v: int, reason: int, client: str = "a") -> list[Step]:
    """Expect the broker to end the connection, saying why where the version can."""
    said = [E(f"e0 01 {reason:02x}", client)] if v == 5 else []
    return [*said, Step("x", client)]


def wait(seconds: float) -> Step:
    return Step("t", content=seconds)


def cut(client: str = "a") -> Step:
    return Step("c", client)


def connack(v: int, *, present: bool = False) -> str:
    return f"20 ?? {present:02x} 00 *" if v == 5 else f"20 02 {present:02x} 00"


def hello(cid: str = "a", *, v: int = 4, present: bool = False, **rest: Any) -> list[Step]:
    return [S(connect(cid, v=v, **rest), cid), E(connack(v, present=present), cid)]


def subscribed(
    client: str, topic_filter: str, options: int = 0, *, v: int = 4, pid: int = 1, p: bytes = b""
) -> list[Step]:
    return [S(subscribe(pid, (topic_filter, options), v=v, p=p), client), E(suback(pid, options & 3, v=v), client)]


def keep(v: int) -> dict[str, Any]:
    """CONNECT arguments of a session that outlives its connection."""
    return {"clean": False, "p": b"\x11\x00\x00\x0e\x10" if v == 5 else b""}
