"""Valid packets, and seeded ways to spoil them."""

import random
from collections.abc import Iterator

from tests.conformance.mqtt import wire as w

# shapes that crashed C brokers: empty topics, truncated QoS publishes, CONNACK and CONNECT where they do not belong
KNOWN = [
    bytes.fromhex(text)
    for text in (
        "30020000 3200 320178 34030001 78 20020000 8203000100 82060001000000 3c00 100c00044d51545405",
        "3000 32020000 3403000178 300400010000 820800010003 782f23 00 f0020000 e0030081ff 62040001ffff",
    )
    for text in text.split()
    if len(text) % 2 == 0
]


def corpus(v: int) -> list[bytes]:
    p = b"\x01\x01\x02\x00\x00\x00\x09\x26\x00\x01k\x00\x01v" if v == 5 else b""
    return [
        w.connect("fuzz", v=v),
        w.connect("fuzz2", v=v, clean=False, will=("w/x", b"gone", 1, True), user="u", password="p"),
        w.publish("a/b", b"payload", v=v),
        w.publish("a/b", b"payload", v=v, qos=1, pid=3, retain=True, p=p),
        w.publish("a/c", b"payload", v=v, qos=2, pid=4, p=p),
        w.publish("a/b", b"", v=v, p=b"\x23\x00\x01" if v == 5 else b""),
        *(w.puback(1), w.pubrec(2), w.pubrel(4), w.pubcomp(2), w.PINGREQ),
        w.subscribe(5, ("a/+", 1), ("#", 2), ("$share/g/a/#", 1), v=v, p=b"\x0b\x05" if v == 5 else b""),
        w.unsubscribe(6, "a/+", "nothing", v=v),
        w.disconnect(4 if v == 5 else None),
        b"\xf0\x00",
        *KNOWN,
    ]


def mutate(rng: random.Random, packet: bytes, others: list[bytes]) -> bytes:
    out = bytearray(packet)
    for _ in range(rng.randint(1, 3)):
        how = rng.randrange(7)
        at = rng.randrange(len(out)) if out else 0
        if not out or how == 0:
            out += rng.randbytes(rng.randint(1, 8))
        elif how == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif how == 3:
            del out[at:]
        elif how == 4:
            out[at:at] = rng.randbytes(rng.randint(1, 4))
        elif how == 5:
            other = rng.choice(others)
            out[at:] = other[rng.randrange(len(other)) :]
        else:
            del out[at : at + rng.randint(1, 4)]
    return bytes(out)


def mutants(seed: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Yield (MQTT version, spoiled packet)."""
    rng = random.Random(seed)
    all_of = {v: corpus(v) for v in (4, 5)}
    for _ in range(count):
        v = rng.choice((4, 5))
        yield v, mutate(rng, rng.choice(all_of[v]), all_of[v])
