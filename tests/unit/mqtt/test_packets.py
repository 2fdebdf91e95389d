from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.mqtt import properties as p
from proto.mqtt.packets import (
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
    encode,
)
from proto.mqtt.reader import Reader
from proto.mqtt.reasons import PACKET_TOO_LARGE, Violation
from proto.mqtt.topics import TopicNames

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
TOPIC = st.text("ab/é$", min_size=1, max_size=12)
FILTER = st.sampled_from(["#", "a/+", "+/+/b", "$share/g/x", "a/#", "é"])
IDS = st.integers(1, 65535)


def values(kind: int) -> st.SearchStrategy[Any]:
    shape = p.TABLE[kind][0]
    low = 1 if kind in p._NOT_ZERO else 0
    if kind == p.USER_PROPERTY:
        return st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)
    if kind == p.SUBSCRIPTION_ID:
        return st.lists(st.integers(1, 268_435_455), min_size=1, max_size=1)
    if shape == p.BYTE:
        return st.integers(0, 1)
    if shape in (p.TWO, p.FOUR):
        return st.integers(low, 2 ** (16 if shape == p.TWO else 32) - 1)
    return st.binary(max_size=9) if shape == p.BINARY else TEXT


def properties(packet: int) -> st.SearchStrategy[p.Properties]:
    kinds = [kind for kind, (_, packets) in p.TABLE.items() if packet in packets]
    return st.fixed_dictionaries({}, optional={kind: values(kind) for kind in kinds})


@st.composite
def packets(draw: st.DrawFn) -> tuple[int, Packet]:  # noqa: PLR0911  one return per packet
    v = draw(st.sampled_from((4, 5)))

    def props(packet: int) -> Any:
        return draw(properties(packet)) if v == 5 else {}

    kind = draw(st.sampled_from(("publish", "ack", "connack", "subscribe", "unsubscribe", "suback", "ping", "end")))
    if kind == "publish":
        qos = draw(st.integers(0, 2))
        extra = props(p.PUBLISH) or None
        dup = bool(qos) and draw(st.booleans())
        return v, Publish(
            draw(TOPIC), draw(st.binary(max_size=300)), qos, draw(st.booleans()), dup, draw(IDS) if qos else 0, extra
        )
    if kind == "ack":
        which = draw(st.sampled_from((p.PUBACK, p.PUBREC, p.PUBREL, p.PUBCOMP)))
        reason = draw(st.sampled_from((0, 0x10, 0x87))) if v == 5 else 0
        return v, Ack(which, draw(IDS), reason, props(which) or None)
    if kind == "connack":
        return v, Connack(draw(st.booleans()), draw(st.integers(0, 5)), props(p.CONNACK))
    if kind == "subscribe":
        ids = draw(properties(p.SUBSCRIBE)) if v == 5 else {}
        identifier = ids.get(p.SUBSCRIPTION_ID, [0])[0]
        flags = st.booleans() if v == 5 else st.just(False)
        one = Subscription(
            "a/+",
            draw(st.integers(0, 2)),
            draw(flags),
            draw(flags),
            draw(st.integers(0, 2)) if v == 5 else 0,
            identifier,
        )
        return v, Subscribe(draw(IDS), [one, Subscription(draw(FILTER), 1, identifier=identifier)], ids)
    if kind == "unsubscribe":
        return v, Unsubscribe(draw(IDS), draw(st.lists(FILTER, min_size=1, max_size=3)), props(p.UNSUBSCRIBE))
    if kind == "suback":
        return v, Suback(
            p.SUBACK,
            draw(IDS),
            draw(st.lists(st.sampled_from((0, 1, 2, 128)), min_size=1, max_size=3)),
            props(p.SUBACK),
        )
    if kind == "ping":
        return v, Ping(draw(st.sampled_from((p.PINGREQ, p.PINGRESP))))
    if v == 5 and draw(st.booleans()):
        return v, Auth(0x18, props(p.AUTH))
    return v, Disconnect(draw(st.sampled_from((0, 4))) if v == 5 else 0, props(p.DISCONNECT))


def connects() -> st.SearchStrategy[Connect]:
    def make(
        v: int,
        extra: p.Properties,
        will_extra: p.Properties,
        delay_s: int,
        has_will: bool,
        credentials: tuple[Any, Any],
    ) -> Connect:
        will = Publish("w/é", b"gone", 1, retain=True, properties=will_extra or None) if has_will else None
        message = WillMessage(will, delay_s if v == 5 else 0) if will else None
        if v == 4:
            extra = {}
            if will:
                will.properties = None
        user, password = credentials
        return Connect(
            "id", v, clean_start=False, keep_alive_s=9, will=message, username=user, password=password, properties=extra
        )

    will_properties = properties(p.WILL).map(lambda found: {k: v for k, v in found.items() if k != p.WILL_DELAY})
    pairs = st.sampled_from([(None, None), ("u", None), ("u", b"\xff")])
    return st.builds(
        make, st.sampled_from((4, 5)), properties(p.CONNECT), will_properties, st.integers(0, 99), st.booleans(), pairs
    )


def read_in_pieces(raw: bytes, version: int, cuts: list[int]) -> list[Packet]:
    reader = Reader(1 << 20, TopicNames(max_levels=64), version)
    out: list[Packet] = []
    at = 0
    for cut in [*sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]:
        out += reader.feed(raw[at:cut])
        assert reader.error is None, reader.error
        at = cut
    assert reader.pending_bytes == 0
    return out


@settings(suppress_health_check=[HealthCheck.too_slow])  # of the machine, when others work on it
@given(st.lists(packets(), min_size=1, max_size=3), st.lists(st.integers(0, 2000), max_size=6))
def test_packets_survive_encoding_and_any_cutting(many: list[tuple[int, Packet]], cuts: list[int]) -> None:
    version = many[0][0]
    same = [packet for v, packet in many if v == version]

    assert read_in_pieces(b"".join(encode(one, version) for one in same), version, cuts) == same


@given(connects(), st.lists(st.integers(0, 500), max_size=4))
def test_connect_survives_encoding_and_any_cutting(connect: Connect, cuts: list[int]) -> None:
    assert read_in_pieces(encode(connect, connect.version), 0, cuts) == [connect]


@given(st.binary(max_size=64), st.sampled_from((0, 4, 5)))
def test_any_bytes_give_packets_or_one_violation(raw: bytes, version: int) -> None:
    reader = Reader(256, TopicNames(), version)
    for at in range(0, len(raw), 7):
        reader.feed(raw[at : at + 7])
    assert reader.error is None or isinstance(reader.error, Violation)
    assert reader.pending_bytes <= 256


def test_a_declared_length_is_refused_before_anything_is_kept() -> None:
    reader = Reader(1000, TopicNames(), 4)
    reader.feed(b"\x30\xff\xff\xff\x7f" + b"x" * 50)
    assert reader.error is not None
    assert reader.error.reason == PACKET_TOO_LARGE
    assert reader.pending_bytes == 0


def test_more_user_properties_than_the_limit_are_malformed() -> None:
    raw = p.encode({p.USER_PROPERTY: [("k", "v")] * (p.MAX_USER_PROPERTIES + 1)})
    with pytest.raises(Violation):
        p.decode(raw, 0, len(raw), p.PUBLISH)
