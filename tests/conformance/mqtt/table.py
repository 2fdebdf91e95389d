"""The normative statements that the broker implements, as conversations in bytes; for MQTT 3.1.1 and 5.

MQTT-9 and MQTT-10 of our own README are among them. A row names the statement of each version it plays. ``tests/conformance/mqtt/test_table.py`` plays every row, with and
without a database.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.conformance.mqtt.wire import (
    PINGREQ,
    PINGRESP,
    E,
    S,
    Step,
    connack,
    connect,
    cut,
    disconnect,
    frame,
    gone,
    hello,
    keep,
    puback,
    pubcomp,
    publish,
    pubrec,
    pubrel,
    s,
    suback,
    subscribe,
    subscribed,
    u16,
    unsuback,
    unsubscribe,
    wait,
)

X = Step("x")


@dataclass(frozen=True)
class Row:
    statement: str
    text: str
    version: int
    steps: tuple[Step, ...]


ROWS: list[Row] = []
Conversation = Callable[[int], list[Step]]


def row(text: str, *, v3: str = "", v5: str = "") -> Callable[[Conversation], Conversation]:
    def add(conversation: Conversation) -> Conversation:
        for version, statement in ((4, v3), (5, v5)):
            if statement:
                ROWS.append(Row(statement, text, version, tuple(conversation(version))))
        return conversation

    return add


# --- the fixed header and data types


@row("ill-formed UTF-8 closes the connection", v3="MQTT-1.4.0-1", v5="MQTT-1.5.4-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, (b"\xed\xa0\x80", 0), v=v)), *gone(v, 0x81)]


@row("U+0000 in a string closes the connection", v3="MQTT-1.4.0-2", v5="MQTT-1.5.4-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("a\0b", 0), v=v)), *gone(v, 0x81)]


@row("U+FEFF is not stripped", v3="MQTT-1.4.0-3", v5="MQTT-1.5.4-3")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        *subscribed("a", "\ufeffx", v=v),
        S(publish("x", v=v)),
        S(publish("\ufeffx", v=v)),
        E(publish("\ufeffx", v=v)),
    ]


@row("reserved flags of the fixed header close the connection", v3="MQTT-2.2.2-2", v5="MQTT-2.1.3-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(b"\xc1\x00"), *gone(v, 0x81)]


@row("packet type 0 closes the connection", v3="MQTT-4.8.0-1", v5="MQTT-4.13.1-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(b"\x00\x00"), *gone(v, 0x81)]


@row("a remaining length of five bytes closes the connection", v3="MQTT-4.8.0-1", v5="MQTT-1.5.5-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(b"\x30\xff\xff\xff\xff\x01"), *gone(v, 0x81)]


@row("a packet cut into single bytes is one packet", v3="MQTT-4.2.0-1", v5="MQTT-4.2.0-1")
def _(v: int) -> list[Step]:
    return [*[S(bytes([byte])) for byte in connect(v=v)], E(connack(v)), S(PINGREQ[:1]), S(PINGREQ[1:]), E(PINGRESP)]


@row("SUBSCRIBE with packet id 0 closes the connection", v3="MQTT-2.3.1-1", v5="MQTT-2.2.1-3")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(0, ("x", 0), v=v)), *gone(v, 0x82)]


@row("PUBLISH at QoS 1 with packet id 0 closes the connection", v3="MQTT-2.3.1-1", v5="MQTT-2.2.1-4")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, qos=1, pid=0)), *gone(v, 0x82)]


@row("PUBACK, PUBREC and PUBREL carry the packet id of the PUBLISH", v3="MQTT-2.3.1-6", v5="MQTT-2.2.1-5")
def _(v: int) -> list[Step]:
    none = 0x10 if v == 5 else None
    return [
        *hello(v=v),
        *(S(publish("x", v=v, qos=1, pid=7)), E(puback(7, none)), S(publish("x", v=v, qos=2, pid=8))),
        *(E(pubrec(8, none)), S(pubrel(8)), E(pubcomp(8))),
    ]


@row("SUBACK and UNSUBACK carry the packet id of their request", v3="MQTT-2.3.1-7", v5="MQTT-2.2.1-6")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        *(
            S(subscribe(513, ("x", 0), v=v)),
            E(suback(513, 0, v=v)),
            S(unsubscribe(514, "x", v=v)),
            E(unsuback(514, 0, v=v)),
        ),
    ]


# --- CONNECT


@row("the first packet must be CONNECT", v3="MQTT-3.1.0-1", v5="MQTT-3.1.0-1")
def _(v: int) -> list[Step]:
    return [S(publish("x", v=v)), X]


@row("PINGREQ before CONNECT closes the connection", v3="MQTT-3.1.0-1", v5="MQTT-3.1.0-1")
def _(v: int) -> list[Step]:
    return [S(PINGREQ), X]


@row("a second CONNECT closes the connection", v3="MQTT-3.1.0-2", v5="MQTT-3.1.0-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(connect(v=v)), *gone(v, 0x82)]


@row("another protocol name closes the connection", v3="MQTT-3.1.2-1", v5="MQTT-3.1.2-1")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, name="MQTX")), X]


@row("an unknown protocol level is answered and refused", v3="MQTT-3.1.2-2", v5="MQTT-3.1.2-2")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, level=9)), E("20 02 00 01"), X]


@row("the reserved CONNECT flag closes the connection", v3="MQTT-3.1.2-3", v5="MQTT-3.1.2-3")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, flags=3)), *([E("20 03 00 81 00")] if v == 5 else []), X]


@row("a clean session has no session present", v3="MQTT-3.1.2-6", v5="MQTT-3.1.2-4")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v, **keep(v)), *subscribed("a", "x", 1, v=v), S(disconnect()), X),
        *(*hello(v=v), S(publish("x", v=v)), S(PINGREQ), E(PINGRESP)),
    ]


@row("a kept session is present with its subscriptions", v3="MQTT-3.1.2-4", v5="MQTT-3.1.2-5")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v, **keep(v)), *subscribed("a", "x", 1, v=v), S(disconnect()), X),
        *(*hello(v=v, present=True, **keep(v)), S(publish("x", v=v)), E(publish("x", v=v))),
    ]


@row("a session that is not there is not present", v3="MQTT-3.2.2-3", v5="MQTT-3.1.2-6")
def _(v: int) -> list[Step]:
    return hello(v=v, **keep(v))


@row("the will is published when the connection is cut", v3="MQTT-3.1.2-8", v5="MQTT-3.1.2-8")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "w", 1, v=v)),
        *(
            *hello(v=v, will=("w", b"gone", 1, False)),
            cut(),
            E(publish("w", b"gone", v=v, qos=1, pid=1), "b"),
            S(puback(1), "b"),
        ),
    ]


@row("the will is published on a protocol error", v3="MQTT-3.1.2-8", v5="MQTT-3.1.2-8")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "w", v=v)),
        *(*hello(v=v, will=("w", b"gone", 0, False)), S(b"\xf0\x00" if v == 4 else b"\xf1\x00"), *gone(v, 0x81)),
        E(publish("w", b"gone", v=v), "b"),
    ]


@row("the will is removed by DISCONNECT", v3="MQTT-3.1.2-10", v5="MQTT-3.14.4-3")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "w", v=v)),
        *(*hello(v=v, will=("w", b"gone", 0, False)), S(disconnect()), X),
    ]


@row("will QoS without a will is malformed", v3="MQTT-3.1.2-13", v5="MQTT-3.1.2-11")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, flags=0x0A)), *([E("20 03 00 81 00")] if v == 5 else []), X]


@row("will QoS 3 is malformed", v3="MQTT-3.1.2-14", v5="MQTT-3.1.2-12")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, will=("w", b"", 3, False))), *([E("20 03 00 81 00")] if v == 5 else []), X]


@row("will retain without a will is malformed", v3="MQTT-3.1.2-15", v5="MQTT-3.1.2-13")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, flags=0x22)), *([E("20 03 00 81 00")] if v == 5 else []), X]


@row("a will with retain 0 is not retained", v3="MQTT-3.1.2-16", v5="MQTT-3.1.2-14")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "w", v=v), *hello(v=v, will=("w", b"g", 0, False)), cut()),
        *(E(publish("w", b"g", v=v), "b"), *hello("c", v=v), *subscribed("c", "w", v=v)),
    ]


@row("a will with retain 1 is retained", v3="MQTT-3.1.2-17", v5="MQTT-3.1.2-15")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "w", v=v), *hello(v=v, will=("w", b"g", 0, True)), cut()),
        *(
            E(publish("w", b"g", v=v), "b"),
            *hello("c", v=v),
            *subscribed("c", "w", v=v),
            E(publish("w", b"g", v=v, retain=True), "c"),
        ),
    ]


@row("a will topic with a wildcard is refused", v3="MQTT-3.3.2-2", v5="MQTT-3.3.2-2")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, will=("w/#", b"", 0, False))), E("20 03 00 90 00" if v == 5 else "20 02 00 03"), X]


@row("a will without the right to its topic refuses the CONNECT", v3="MQTT-3.1.4-5", v5="MQTT-3.1.4-6")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, will=("secret/w", b"", 0, False))), E("20 03 00 87 00" if v == 5 else "20 02 00 05"), X]


@row("a user name and a password are taken", v3="MQTT-3.1.2-19", v5="MQTT-3.1.2-17")
def _(v: int) -> list[Step]:
    return hello(v=v, user="u", password="p")


@row("a user name that the flags promise must be there", v3="MQTT-3.1.2-19", v5="MQTT-3.1.2-17")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, flags=0x82)), *([E("20 03 00 81 00")] if v == 5 else []), X]


@row("a silent client is closed after 1.5 times the keep alive", v3="MQTT-3.1.2-24", v5="MQTT-3.1.2-22")
def _(v: int) -> list[Step]:
    return [*hello(v=v, ka=10), wait(14), S(PINGREQ), E(PINGRESP), wait(14), wait(16), *gone(v, 0x8D)]


@row("the will is published when the keep alive runs out", v3="MQTT-3.1.2-24", v5="MQTT-3.1.2-22")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v, ka=600), *subscribed("b", "w", v=v), *hello(v=v, ka=4, will=("w", b"g", 0, False))),
        *(wait(7), *gone(v, 0x8D), E(publish("w", b"g", v=v), "b")),
    ]


@row("a connection without CONNECT is closed", v3="MQTT-3.1.4-1", v5="MQTT-3.1.4-1")
def _(v: int) -> list[Step]:
    return [*hello("b", v=v), S(connect(v=v)[:6]), S(PINGREQ, "b"), E(PINGRESP, "b"), wait(6), X]


@row("an empty client id gets one with a clean session", v3="MQTT-3.1.3-6", v5="MQTT-3.1.3-6")
def _(v: int) -> list[Step]:
    return [S(connect("", v=v)), E(connack(v))]


@row("an empty client id without a clean session is refused", v3="MQTT-3.1.3-8")
def _(v: int) -> list[Step]:
    return [S(connect("", v=v, clean=False)), E("20 02 00 02"), X]


@row("client ids of letters and digits up to 23 bytes are taken", v3="MQTT-3.1.3-5", v5="MQTT-3.1.3-5")
def _(v: int) -> list[Step]:
    return hello("0123456789abcdefABCDxyz", v=v)


@row("bytes after the payload of CONNECT are malformed", v3="MQTT-3.1.4-1", v5="MQTT-3.1.4-1")
def _(v: int) -> list[Step]:
    whole = connect(v=v)
    longer = bytes([whole[0], whole[1] + 1]) + whole[2:] + b"!"
    return [S(longer), *([E("20 03 00 81 00")] if v == 5 else []), X]


@row("the same client id again ends the older connection", v3="MQTT-3.1.4-2", v5="MQTT-3.1.4-3")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(connect("a", v=v), "again"), E(connack(v), "again"), *gone(v, 0x8E)]


@row("packets may follow CONNECT before CONNACK", v3="MQTT-3.1.4-5", v5="MQTT-3.1.4-5")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, **keep(v)) + PINGREQ), E(connack(v)), E(PINGRESP)]


@row("packets after a refused CONNECT are not worked on", v3="MQTT-3.1.4-5", v5="MQTT-3.1.4-6")
def _(v: int) -> list[Step]:
    refused = connect(v=v, will=("secret/w", b"", 0, False)) + publish("x", v=v)
    return [
        *(*hello("b", v=v), *subscribed("b", "#", v=v)),
        *(S(refused), E("20 03 00 87 00" if v == 5 else "20 02 00 05"), X),
    ]


# --- PUBLISH


@row("an unacknowledged message comes again with DUP and its packet id", v3="MQTT-3.3.1-1", v5="MQTT-3.3.1-1")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello(v=v, **keep(v)),
            *subscribed("a", "x", 1, v=v),
            *hello("b", v=v),
            S(publish("x", b"1", v=v, qos=1, pid=9), "b"),
        ),
        *(E(puback(9), "b"), E(publish("x", b"1", v=v, qos=1, pid=1)), cut()),
        *(*hello(v=v, present=True, **keep(v)), E(publish("x", b"1", v=v, qos=1, pid=1, dup=True)), S(puback(1))),
    ]


@row("DUP at QoS 0 is malformed", v3="MQTT-3.3.1-2", v5="MQTT-3.3.1-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, dup=True)), *gone(v, 0x81)]


@row("DUP does not travel to subscribers", v3="MQTT-3.3.1-3", v5="MQTT-3.3.1-3")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "x", 1, v=v), *hello(v=v), S(publish("x", v=v, qos=1, pid=1, dup=True))),
        *(E(puback(1)), E(publish("x", v=v, qos=1, pid=1), "b"), S(puback(1), "b")),
    ]


@row("QoS 3 is malformed", v3="MQTT-3.3.1-4", v5="MQTT-3.3.1-4")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, qos=3, pid=1)), *gone(v, 0x81)]


@row("a retained message is kept and the next one replaces it", v3="MQTT-3.3.1-5", v5="MQTT-3.3.1-5")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), S(publish("x", b"1", v=v, retain=True)), S(publish("x", b"2", v=v, retain=True))),
        *(*subscribed("a", "x", v=v), E(publish("x", b"2", v=v, retain=True))),
    ]


@row("each matching retained message is sent to a new subscription", v3="MQTT-3.3.1-6", v5="MQTT-3.3.1-9")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), S(publish("x/1", b"1", v=v, retain=True)), S(publish("y/1", b"2", v=v, retain=True))),
        *(*subscribed("a", "x/+", v=v), E(publish("x/1", b"1", v=v, retain=True))),
    ]


@row("a message sent because of a subscription has RETAIN 1", v3="MQTT-3.3.1-8", v5="MQTT-3.3.1-9")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), S(publish("x", b"1", v=v, qos=1, pid=1, retain=True)), E(puback(1, 0x10 if v == 5 else None))),
        *(*subscribed("a", "x", 1, v=v), E(publish("x", b"1", v=v, qos=1, pid=1, retain=True)), S(puback(1))),
    ]


@row("an established subscription gets RETAIN 0", v3="MQTT-3.3.1-9", v5="MQTT-3.3.1-12")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        *subscribed("a", "x", v=v),
        S(publish("x", b"1", v=v, retain=True)),
        E(publish("x", b"1", v=v)),
    ]


@row("an empty retained message removes the kept one", v3="MQTT-3.3.1-10", v5="MQTT-3.3.1-6")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        S(publish("x", b"1", v=v, retain=True)),
        S(publish("x", v=v, retain=True)),
        *subscribed("a", "x", v=v),
    ]


@row("an empty retained message is delivered and not kept", v3="MQTT-3.3.1-11", v5="MQTT-3.3.1-7")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), *subscribed("a", "x", v=v), S(publish("x", v=v, retain=True)), E(publish("x", v=v))),
        *subscribed("a", "x", v=v),
    ]


@row("RETAIN 0 neither keeps nor replaces", v3="MQTT-3.3.1-12", v5="MQTT-3.3.1-8")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), S(publish("x", b"1", v=v, retain=True)), S(publish("x", b"2", v=v))),
        *(*subscribed("a", "x", v=v), E(publish("x", b"1", v=v, retain=True))),
    ]


@row("a topic name must be UTF-8", v3="MQTT-3.3.2-1", v5="MQTT-3.3.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish(b"\xff", v=v)), *gone(v, 0x90)]


@row("a topic name has no wildcards", v3="MQTT-3.3.2-2", v5="MQTT-3.3.2-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x/+", v=v)), *gone(v, 0x90)]


@row("a topic name has at least one character", v3="MQTT-4.7.3-1", v5="MQTT-4.7.3-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("", v=v)), *gone(v, 0x82)]


@row("a topic longer than its packet closes the connection", v3="MQTT-4.8.0-1", v5="MQTT-4.13.1-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(frame(0x30, b"\x00\x09x")), *gone(v, 0x81)]


@row("a QoS 1 message is answered with PUBACK", v3="MQTT-3.3.4-1", v5="MQTT-3.3.4-1")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "x", v=v)),
        *(*hello(v=v), S(publish("x", b"1", v=v, qos=1, pid=5)), E(puback(5)), E(publish("x", b"1", v=v), "b")),
    ]


@row("overlapping subscriptions get one copy at the highest QoS", v3="MQTT-3.3.5-1", v5="MQTT-3.3.4-2")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), S(subscribe(1, ("x/#", 2), ("x/+", 1), ("x/y", 0), v=v)), E(suback(1, 2, 1, 0, v=v))),
        *(S(publish("x/y", b"1", v=v)), E(publish("x/y", b"1", v=v))),
        *(*hello("b", v=v), S(publish("x/y", b"1", v=v, qos=1, pid=1), "b"), E(puback(1), "b")),
        *(E(publish("x/y", b"1", v=v, qos=1, pid=1)), S(puback(1))),
    ]


@row("a message without the right to its topic is never acknowledged as taken", v3="MQTT-3.3.5-2", v5="MQTT-3.4.2-1")
def _(v: int) -> list[Step]:
    answer = [E(puback(1, 0x87))] if v == 5 else [X]
    return [
        *(*hello("b", v=v), *subscribed("b", "#", v=v)),
        *(*hello(v=v), S(publish("secret/x", v=v, qos=1, pid=1)), *answer),
    ]


@row("QoS 0 without the right to its topic is dropped", v3="MQTT-3.3.5-2", v5="MQTT-3.4.2-1")
def _(v: int) -> list[Step]:
    return [*hello("b", v=v), *subscribed("b", "#", v=v), *hello(v=v), S(publish("secret/x", v=v))]


@row("a packet larger than the limit closes the connection", v3="MQTT-4.8.0-1", v5="MQTT-3.2.2-15")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", b"." * 5000, v=v)[:100]), *gone(v, 0x95)]


# --- QoS 1 and 2


@row("QoS 2: a message sent twice before PUBREL is delivered once", v3="MQTT-4.3.3-2", v5="MQTT-4.3.3-10")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v),
            *subscribed("b", "x", v=v),
            *hello(v=v),
            S(publish("x", b"1", v=v, qos=2, pid=1)),
            E(pubrec(1)),
        ),
        *(S(publish("x", b"1", v=v, qos=2, pid=1, dup=True)), E(pubrec(1)), S(pubrel(1)), E(pubcomp(1))),
        E(publish("x", b"1", v=v), "b"),
    ]


@row("QoS 2: after PUBREL the packet id is free again", v3="MQTT-4.3.3-2", v5="MQTT-4.3.3-12")
def _(v: int) -> list[Step]:
    once = [
        S(publish("x", b"1", v=v, qos=2, pid=1)),
        E(pubrec(1)),
        S(pubrel(1)),
        E(pubcomp(1)),
        E(publish("x", b"1", v=v), "b"),
    ]
    return [*hello("b", v=v), *subscribed("b", "x", v=v), *hello(v=v), *once, *once]


@row("QoS 2 to a subscriber: PUBLISH, PUBREC, PUBREL, PUBCOMP", v3="MQTT-4.3.3-1", v5="MQTT-4.3.3-4")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v),
            *subscribed("b", "x", 2, v=v),
            *hello(v=v),
            S(publish("x", b"1", v=v, qos=2, pid=1)),
            E(pubrec(1)),
        ),
        *(E(publish("x", b"1", v=v, qos=2, pid=1), "b"), S(pubrec(1), "b"), E(pubrel(1), "b"), S(pubcomp(1), "b")),
        *(S(pubrel(1)), E(pubcomp(1))),
    ]


@row("after PUBREC a reconnect brings PUBREL, not PUBLISH", v3="MQTT-4.4.0-1", v5="MQTT-4.4.0-1")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v, **keep(v)),
            *subscribed("b", "x", 2, v=v),
            *hello(v=v),
            S(publish("x", b"1", v=v, qos=2, pid=1)),
        ),
        *(E(pubrec(1)), E(publish("x", b"1", v=v, qos=2, pid=1), "b"), S(pubrec(1), "b"), E(pubrel(1), "b"), cut("b")),
        *(*hello("b", v=v, present=True, **keep(v)), E(pubrel(1), "b"), S(pubcomp(1), "b")),
    ]


@row("QoS 2 received survives a reconnect of the publisher", v3="MQTT-4.3.3-2", v5="MQTT-4.3.3-10")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v),
            *subscribed("b", "x", v=v),
            *hello(v=v, **keep(v)),
            S(publish("x", b"1", v=v, qos=2, pid=1)),
        ),
        *(
            E(pubrec(1)),
            cut(),
            *hello(v=v, present=True, **keep(v)),
            S(publish("x", b"1", v=v, qos=2, pid=1, dup=True)),
        ),
        *(E(pubrec(1)), S(pubrel(1)), E(pubcomp(1)), E(publish("x", b"1", v=v), "b")),
    ]


@row("PUBREL for an unknown packet id is completed", v3="MQTT-4.3.3-2", v5="MQTT-3.7.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(pubrel(77)), E(pubcomp(77, 0x92 if v == 5 else None))]


@row("PUBREC for an unknown packet id is released", v3="MQTT-4.3.3-1", v5="MQTT-3.6.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(pubrec(77)), E(pubrel(77, 0x92 if v == 5 else None))]


@row("PUBREL with wrong flags closes the connection", v3="MQTT-3.6.1-1", v5="MQTT-3.6.1-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(b"\x60\x02\x00\x01"), *gone(v, 0x81)]


@row("messages of one publisher and QoS keep their order", v3="MQTT-4.6.0-6", v5="MQTT-4.6.0-6")
def _(v: int) -> list[Step]:
    many = range(1, 4)
    return [
        *(*hello("b", v=v, **keep(v)), *subscribed("b", "x", 1, v=v), *hello(v=v)),
        *(S(b"".join(publish("x", bytes([n]), v=v, qos=1, pid=n) for n in many)), *(E(puback(n)) for n in many)),
        *(E(publish("x", bytes([n]), v=v, qos=1, pid=n), "b") for n in many),
        *(S(puback(n), "b") for n in many),
    ]


@row("PUBACKs leave in the order of their PUBLISHes, stored or not", v3="MQTT-4.6.0-2", v5="MQTT-4.6.0-2")
def _(v: int) -> list[Step]:
    none = 0x10 if v == 5 else None
    return [
        *(*hello("b", v=v, **keep(v)), *subscribed("b", "x", 1, v=v), *hello(v=v)),
        *(
            S(publish("x", v=v, qos=1, pid=1)),
            S(publish("nobody", v=v, qos=1, pid=2)),
            E(puback(1)),
            E(puback(2, none)),
        ),
        *(E(publish("x", v=v, qos=1, pid=1), "b"), S(puback(1), "b")),
    ]


@row("QoS 1 and 2 wait for a kept session without a connection", v3="MQTT-4.1.0-1", v5="MQTT-4.1.0-1")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v, **keep(v)),
            *subscribed("b", "x", 2, v=v),
            S(disconnect(), "b"),
            Step("x", "b"),
            *hello(v=v),
        ),
        *(
            S(publish("x", b"1", v=v, qos=1, pid=1)),
            E(puback(1)),
            S(publish("x", b"2", v=v, qos=2, pid=2)),
            E(pubrec(2)),
        ),
        *(
            S(pubrel(2)),
            E(pubcomp(2)),
            S(publish("x", b"0", v=v)),
            S(PINGREQ),
            E(PINGRESP),
            *hello("b", v=v, present=True, **keep(v)),
        ),
        *(E(publish("x", b"1", v=v, qos=1, pid=1), "b"), E(publish("x", b"2", v=v, qos=2, pid=2), "b")),
        *(S(puback(1), "b"), S(pubrec(2), "b"), E(pubrel(2), "b"), S(pubcomp(2), "b")),
    ]


# --- SUBSCRIBE and UNSUBSCRIBE


@row("SUBSCRIBE with wrong flags closes the connection", v3="MQTT-3.8.1-1", v5="MQTT-3.8.1-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(b"\x80" + subscribe(1, ("x", 0), v=v)[1:]), *gone(v, 0x81)]


@row("SUBSCRIBE without a filter closes the connection", v3="MQTT-3.8.3-3", v5="MQTT-3.8.3-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, v=v)), *gone(v, 0x82)]


@row("reserved bits of the options close the connection", v3="MQTT-3.8.3-4", v5="MQTT-3.8.3-5")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("x", 0x40), v=v)), *gone(v, 0x81)]


@row("a requested QoS of 3 closes the connection", v3="MQTT-3.8.3-4", v5="MQTT-3.8.3-5")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("x", 3), v=v)), *gone(v, 0x81)]


@row("many filters are answered in one SUBACK, in order", v3="MQTT-3.8.4-4", v5="MQTT-3.8.4-5")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("x", 2), ("y", 0), ("z", 1), v=v)), E(suback(1, 2, 0, 1, v=v))]


@row(
    "the same filter again replaces the subscription and brings retained messages again",
    v3="MQTT-3.8.4-3",
    v5="MQTT-3.8.4-3",
)
def _(v: int) -> list[Step]:
    return [
        *(
            *hello(v=v),
            S(publish("x", b"r", v=v, retain=True)),
            *subscribed("a", "x", v=v),
            E(publish("x", b"r", v=v, retain=True)),
        ),
        *(*subscribed("a", "x", 1, v=v), E(publish("x", b"r", v=v, retain=True))),
        *(*hello("b", v=v), S(publish("x", b"1", v=v, qos=1, pid=1), "b"), E(puback(1), "b")),
        *(E(publish("x", b"1", v=v, qos=1, pid=1)), S(puback(1))),
    ]


@row("the QoS delivered is the lower of published and granted", v3="MQTT-3.8.4-6", v5="MQTT-3.8.4-8")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v),
            *subscribed("b", "x", 2, v=v),
            *hello("c", v=v),
            *subscribed("c", "x", 0, v=v),
            *hello(v=v),
        ),
        *(S(publish("x", v=v, qos=1, pid=1)), E(puback(1)), E(publish("x", v=v, qos=1, pid=1), "b"), S(puback(1), "b")),
        *(E(publish("x", v=v), "c"), S(publish("x", v=v)), E(publish("x", v=v), "b"), E(publish("x", v=v), "c")),
    ]


@row("a filter without the right to it is refused", v3="MQTT-3.8.4-5", v5="MQTT-3.8.4-6")
def _(v: int) -> list[Step]:
    refused = 0x87 if v == 5 else 0x80
    return [*hello(v=v), S(subscribe(1, ("secret/#", 0), ("x", 1), v=v)), E(suback(1, refused, 1, v=v))]


@row("a filter beyond the limit of subscriptions is refused", v3="MQTT-3.9.3-2", v5="MQTT-3.9.3-2")
def _(v: int) -> list[Step]:
    filters = [(str(n), 0) for n in range(9)]
    return [*hello(v=v), S(subscribe(1, *filters, v=v)), E(suback(1, *[0] * 8, 0x97 if v == 5 else 0x80, v=v))]


@row("a filter of too many levels is refused", v3="MQTT-3.9.3-2", v5="MQTT-3.9.3-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("/" * 16, 0), v=v)), E(suback(1, 0x8F if v == 5 else 0x80, v=v))]


@row("UNSUBSCRIBE stops messages and is answered", v3="MQTT-3.10.4-2", v5="MQTT-3.10.4-2")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        *subscribed("a", "x", v=v),
        S(unsubscribe(2, "x", v=v)),
        E(unsuback(2, 0, v=v)),
        S(publish("x", v=v)),
    ]


@row("UNSUBSCRIBE compares filters character by character", v3="MQTT-3.10.4-1", v5="MQTT-3.10.4-1")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), *subscribed("a", "x/+", v=v), S(unsubscribe(2, "x/#", v=v)), E(unsuback(2, 0x11, v=v))),
        *(S(publish("x/1", v=v)), E(publish("x/1", v=v))),
    ]


@row("UNSUBSCRIBE of what was never subscribed is answered", v3="MQTT-3.10.4-5", v5="MQTT-3.10.4-5")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(unsubscribe(2, "x", v=v)), E(unsuback(2, 0x11, v=v))]


@row("UNSUBSCRIBE of many filters", v3="MQTT-3.10.4-6", v5="MQTT-3.10.4-6")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), S(subscribe(1, ("x", 0), ("y", 0), v=v)), E(suback(1, 0, 0, v=v))),
        *(S(unsubscribe(2, "x", "y", v=v)), E(unsuback(2, 0, 0, v=v)), S(publish("x", v=v)), S(publish("y", v=v))),
    ]


@row("UNSUBSCRIBE with wrong flags closes the connection", v3="MQTT-3.10.1-1", v5="MQTT-3.10.1-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(b"\xa0" + unsubscribe(1, "x", v=v)[1:]), *gone(v, 0x81)]


@row("UNSUBSCRIBE without a filter closes the connection", v3="MQTT-3.10.3-2", v5="MQTT-3.10.3-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(unsubscribe(1, v=v)), *gone(v, 0x82)]


# --- PINGREQ, DISCONNECT, topics


@row("PINGREQ is answered", v3="MQTT-3.12.4-1", v5="MQTT-3.12.4-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(PINGREQ), E(PINGRESP)]


@row("DISCONNECT with reserved flags closes the connection", v3="MQTT-3.14.1-1", v5="MQTT-3.14.1-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(b"\xe1\x00"), *gone(v, 0x81)]


@row("packets that only servers send close the connection", v3="MQTT-4.8.0-1", v5="MQTT-4.13.1-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(suback(1, 0, v=v)), *gone(v, 0x82)]


@row("# must be last and alone in its level", v3="MQTT-4.7.1-2", v5="MQTT-4.7.1-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("x/#/y", 0), v=v)), *gone(v, 0x8F)]


@row("+ must be alone in its level", v3="MQTT-4.7.1-3", v5="MQTT-4.7.1-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("x+", 0), v=v)), *gone(v, 0x8F)]


@row("a filter has at least one character", v3="MQTT-4.7.3-1", v5="MQTT-4.7.3-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("", 0), v=v)), *gone(v, 0x8F)]


@row("# matches the parent level too, + matches an empty level", v3="MQTT-4.7.1-2", v5="MQTT-4.7.1-1")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), *subscribed("a", "x/#", v=v), S(publish("x", v=v)), E(publish("x", v=v))),
        *(
            *hello("b", v=v),
            *subscribed("b", "+/y", v=v),
            S(publish("/y", v=v)),
            E(publish("/y", v=v), "b"),
            S(publish("y", v=v)),
        ),
    ]


@row("wildcards at the first level do not match names that begin with $", v3="MQTT-4.7.2-1", v5="MQTT-4.7.2-1")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), S(subscribe(1, ("#", 0), ("+/events", 0), v=v)), E(suback(1, 0, 0, v=v))),
        *(
            *hello("b", v=v),
            *subscribed("b", "$hw/#", v=v),
            S(publish("$hw/events", b"1", v=v)),
            E(publish("$hw/events", b"1", v=v), "b"),
        ),
    ]


@row("topic names keep case, spaces and slashes apart", v3="MQTT-4.7.3-4", v5="MQTT-4.7.3-4")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello(v=v),
            *subscribed("a", "A b/", v=v),
            S(publish("a b/", v=v)),
            S(publish("A b", v=v)),
            S(publish("/A b/", v=v)),
        ),
        *(S(publish("A b/", v=v)), E(publish("A b/", v=v))),
    ]


@row("clients may not publish below $SYS", v3="MQTT-4.7.2-1", v5="MQTT-4.7.2-1")
def _(v: int) -> list[Step]:
    answer = [E(puback(1, 0x87))] if v == 5 else [X]
    return [
        *hello("b", v=v),
        *subscribed("b", "$SYS/#", v=v),
        *hello(v=v),
        S(publish("$SYS/x", v=v, qos=1, pid=1)),
        *answer,
    ]


@row("a kept session ends when its expiry has passed", v3="MQTT-4.1.0-2", v5="MQTT-3.1.2-23")
def _(v: int) -> list[Step]:
    expiry_s = 3601 if v == 5 else 2_592_001
    return [*hello(v=v, **keep(v)), S(disconnect()), X, wait(expiry_s), *hello(v=v, **keep(v))]


# --- MQTT 5 only


@row("a property of another packet is malformed", v5="MQTT-2.2.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, p=b"\x21\x00\x01")), *gone(v, 0x81)]


@row("a property twice is a protocol error", v5="MQTT-3.3.2-4")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, p=b"\x01\x00\x01\x00")), *gone(v, 0x82)]


@row("a receive maximum of 0 is a protocol error", v5="MQTT-3.1.2-10")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, p=b"\x21\x00\x00")), E("20 03 00 82 00"), X]


@row("a maximum packet size of 0 is a protocol error", v5="MQTT-3.1.2-24")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, p=b"\x27\x00\x00\x00\x00")), E("20 03 00 82 00"), X]


@row("enhanced authentication that is not offered is refused", v5="MQTT-4.12.0-1")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, p=b"\x15" + s("SCRAM"))), E("20 03 00 8c 00"), X]


@row("AUTH without a method is a protocol error", v5="MQTT-4.12.0-6")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(b"\xf0\x00"), *gone(v, 0x82)]


@row("the assigned client id is told", v5="MQTT-3.2.2-16")
def _(v: int) -> list[Step]:
    granted = b"\x21\x00\x04\x27\x00\x00\x10\x00\x22\x00\x02\x12" + s("auto-1")
    return [S(connect("", v=v)), E(frame(0x20, b"\x00\x00", bytes([len(granted)]), granted))]


@row("receive maximum, packet size and topic aliases are told", v5="MQTT-3.2.2-15")
def _(v: int) -> list[Step]:
    return [S(connect(v=v)), E("20 0e 00 00 0b 21 00 04 27 00 00 10 00 22 00 02")]


@row("a keep alive of 0 is replaced by the server's", v5="MQTT-3.2.2-21")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, ka=0)), E("20 11 00 00 0e 21 00 04 27 00 00 10 00 22 00 02 13 07 08")]


@row("a session expiry beyond the maximum is lowered", v5="MQTT-3.2.2-21")
def _(v: int) -> list[Step]:
    return [
        S(connect(v=v, p=b"\x11\xff\xff\xff\xff")),
        E("20 13 00 00 10 21 00 04 27 00 00 10 00 22 00 02 11 00 27 8d 00"),
    ]


@row("DISCONNECT may not prolong a session that had no expiry", v5="MQTT-3.14.2-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(disconnect(0, b"\x11\x00\x00\x00\x01")), *gone(v, 0x82)]


@row("DISCONNECT may end a kept session", v5="MQTT-3.14.2-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v, **keep(v)), S(disconnect(0, b"\x11\x00\x00\x00\x00")), X, *hello(v=v, **keep(v))]


@row("DISCONNECT 0x04 publishes the will", v5="MQTT-3.1.2-8")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "w", v=v), *hello(v=v, will=("w", b"g", 0, False)), S(disconnect(4)), X),
        E(publish("w", b"g", v=v), "b"),
    ]


@row("a delayed will is published when its delay has passed", v5="MQTT-3.1.3-9")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v),
            *subscribed("b", "w", v=v),
            *hello(v=v, will=("w", b"g", 0, False), wp=b"\x18\x00\x00\x00\x0a", **keep(v)),
        ),
        *(
            S(b"\xf0\x00"),
            *gone(v, 0x82),
            wait(9),
            S(PINGREQ, "b"),
            E(PINGRESP, "b"),
            wait(2),
            E(publish("w", b"g", v=v), "b"),
        ),
    ]


@row("a delayed will is not published after a reconnect", v5="MQTT-3.1.3-9")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v),
            *subscribed("b", "w", v=v),
            *hello(v=v, will=("w", b"g", 0, False), wp=b"\x18\x00\x00\x00\x0a", **keep(v)),
        ),
        *(S(b"\xf0\x00"), *gone(v, 0x82), *hello(v=v, present=True, **keep(v)), wait(11)),
    ]


@row("a delayed will is published at the latest when the session ends", v5="MQTT-3.1.2-8")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v),
            *subscribed("b", "w", v=v),
            *hello(v=v, will=("w", b"g", 0, False), wp=b"\x18\x00\x00\x00\x0a"),
        ),
        *(S(b"\xf0\x00"), *gone(v, 0x82), E(publish("w", b"g", v=v), "b")),
    ]


@row("a topic alias stands for its topic", v5="MQTT-3.3.2-12")
def _(v: int) -> list[Step]:
    return [
        *(*hello("b", v=v), *subscribed("b", "x", v=v), *hello(v=v)),
        *(S(publish("x", b"1", v=v, p=b"\x23\x00\x01")), S(publish("", b"2", v=v, p=b"\x23\x00\x01"))),
        *(E(publish("x", b"1", v=v), "b"), E(publish("x", b"2", v=v), "b")),
    ]


@row("a topic alias of 0 is invalid", v5="MQTT-3.3.2-8")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, p=b"\x23\x00\x00")), *gone(v, 0x94)]


@row("a topic alias beyond the maximum is invalid", v5="MQTT-3.3.2-9")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, p=b"\x23\x00\x03")), *gone(v, 0x94)]


@row("an unknown topic alias is a protocol error", v5="MQTT-3.3.2-7")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("", v=v, p=b"\x23\x00\x01")), *gone(v, 0x82)]


@row("topic aliases are sent only up to the client's maximum", v5="MQTT-3.1.2-26")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello(v=v, p=b"\x22\x00\x01"),
            *subscribed("a", "#", v=v),
            S(publish("x", v=v)),
            E(publish("x", v=v, p=b"\x23\x00\x01")),
        ),
        *(S(publish("x", v=v)), E(publish("", v=v, p=b"\x23\x00\x01")), S(publish("y", v=v)), E(publish("y", v=v))),
    ]


@row("a packet larger than the client takes is not sent", v5="MQTT-3.1.2-25")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v, p=b"\x27\x00\x00\x00\x20"), *subscribed("a", "x", 1, v=v), *hello("b", v=v)),
        *(
            S(publish("x", b"." * 99, v=v, qos=1, pid=1), "b"),
            E(puback(1), "b"),
            S(publish("x", b".", v=v), "b"),
            E(publish("x", b".", v=v)),
        ),
    ]


@row("no more than the client's receive maximum is in flight", v5="MQTT-3.3.4-9")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v, p=b"\x21\x00\x01"), *subscribed("a", "x", 1, v=v), *hello("b", v=v)),
        *(
            S(publish("x", b"1", v=v, qos=1, pid=1) + publish("x", b"2", v=v, qos=1, pid=2), "b"),
            E(puback(1), "b"),
            E(puback(2), "b"),
        ),
        *(
            E(publish("x", b"1", v=v, qos=1, pid=1)),
            S(PINGREQ),
            E(PINGRESP),
            S(puback(1)),
            E(publish("x", b"2", v=v, qos=1, pid=2)),
            S(puback(2)),
        ),
    ]


@row("more unacknowledged messages than our receive maximum end the connection", v5="MQTT-3.3.4-7")
def _(v: int) -> list[Step]:
    first = [step for n in range(1, 5) for step in (S(publish("x", v=v, qos=2, pid=n)), E(pubrec(n, 0x10)))]
    return [*hello(v=v), *first, S(publish("x", v=v, qos=2, pid=9)), *gone(v, 0x93)]


@row("properties of a message travel to subscribers unchanged and in order", v5="MQTT-3.3.2-17")
def _(v: int) -> list[Step]:
    carried = b"\x01\x01\x03" + s("text/plain") + b"\x08" + s("answer") + b"\x09" + s("id")
    pairs = b"\x26" + s("k") + s("1") + b"\x26" + s("k") + s("2")
    return [
        *hello(v=v),
        *subscribed("a", "x", v=v),
        S(publish("x", b"1", v=v, p=carried + pairs)),
        E(publish("x", b"1", v=v, p=carried + pairs)),
    ]


@row("a response topic with a wildcard is a protocol error", v5="MQTT-3.3.2-14")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, p=b"\x08" + s("a/#"))), *gone(v, 0x82)]


@row("a message from MQTT 5 reaches MQTT 3.1.1 without properties", v5="MQTT-3.3.2-17")
def _(v: int) -> list[Step]:
    return [
        *hello("b"),
        *subscribed("b", "x"),
        *hello(v=v),
        S(publish("x", b"1", v=v, p=b"\x03" + s("t"))),
        E(publish("x", b"1"), "b"),
    ]


@row("message expiry is sent lowered by the time waited", v5="MQTT-3.3.2-6")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v, **keep(v)), *subscribed("a", "x", 1, v=v), S(disconnect()), X, *hello("b", v=v)),
        *(S(publish("x", b"1", v=v, qos=1, pid=1, p=b"\x02\x00\x00\x00\x14"), "b"), E(puback(1), "b"), wait(5)),
        *(
            *hello(v=v, present=True, **keep(v)),
            E(publish("x", b"1", v=v, qos=1, pid=1, p=b"\x02\x00\x00\x00\x0f")),
            S(puback(1)),
        ),
    ]


@row("an expired message is not delivered", v5="MQTT-3.3.2-5")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v, **keep(v)), *subscribed("a", "x", 1, v=v), S(disconnect()), X, *hello("b", v=v)),
        *(S(publish("x", b"1", v=v, qos=1, pid=1, p=b"\x02\x00\x00\x00\x14"), "b"), E(puback(1), "b"), wait(21)),
        *hello(v=v, present=True, **keep(v)),
    ]


@row("an expired retained message is not sent", v5="MQTT-3.3.2-5")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        S(publish("x", b"1", v=v, retain=True, p=b"\x02\x00\x00\x00\x0a")),
        wait(11),
        *subscribed("a", "x", v=v),
    ]


@row("subscription identifiers come with the message", v5="MQTT-3.3.4-3")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        *subscribed("a", "x", v=v, p=b"\x0b\x80\x01"),
        S(publish("x", v=v)),
        E(publish("x", v=v, p=b"\x0b\x80\x01")),
    ]


@row("one copy carries the identifiers of all matching subscriptions", v5="MQTT-3.3.4-4")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v), *subscribed("a", "x/+", v=v, p=b"\x0b\x07"), *subscribed("a", "x/1", v=v, p=b"\x0b\x09")),
        *(S(publish("x/1", v=v)), E("30 0a 00 03 78 2f 31 04 0b ?? 0b ??")),
    ]


@row("a subscription identifier of 0 is a protocol error", v5="MQTT-3.8.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("x", 0), v=v, p=b"\x0b\x00")), *gone(v, 0x82)]


@row("a subscription identifier from a publisher is a protocol error", v5="MQTT-3.3.4-6")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, p=b"\x0b\x01")), *gone(v, 0x82)]


@row("no local keeps a client's own messages from it", v5="MQTT-3.8.3-3")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        *subscribed("a", "x", 4, v=v),
        S(publish("x", v=v)),
        *hello("b", v=v),
        S(publish("x", b"2", v=v), "b"),
        E(publish("x", b"2", v=v)),
    ]


@row("no local on a shared subscription is a protocol error", v5="MQTT-3.8.3-4")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("$share/g/x", 4), v=v)), *gone(v, 0x82)]


@row("retain as published keeps the flag", v5="MQTT-3.3.1-13")
def _(v: int) -> list[Step]:
    return [
        *hello(v=v),
        *subscribed("a", "x", 8, v=v),
        S(publish("x", b"1", v=v, retain=True)),
        E(publish("x", b"1", v=v, retain=True)),
    ]


@row("retain handling 1 sends only to a new subscription", v5="MQTT-3.3.1-10")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello(v=v),
            S(publish("x", b"1", v=v, retain=True)),
            *subscribed("a", "x", 16, v=v),
            E(publish("x", b"1", v=v, retain=True)),
        ),
        *subscribed("a", "x", 16, v=v),
    ]


@row("retain handling 2 sends nothing", v5="MQTT-3.3.1-11")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", b"1", v=v, retain=True)), *subscribed("a", "x", 32, v=v)]


@row("retain handling 3 is malformed", v5="MQTT-3.8.3-5")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("x", 48), v=v)), *gone(v, 0x81)]


@row("a shared subscription gives each message to one member", v3="MQTT-4.8.2-4", v5="MQTT-4.8.2-4")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello("b", v=v),
            *subscribed("b", "$share/g/x", v=v),
            *hello("c", v=v),
            *subscribed("c", "$share/g/x", v=v),
            *hello(v=v),
        ),
        *(
            S(publish("x", b"1", v=v) + publish("x", b"2", v=v)),
            E(publish("x", b"1", v=v), "c"),
            E(publish("x", b"2", v=v), "b"),
        ),
    ]


@row("a shared subscription gets no retained messages", v3="MQTT-4.8.2-3", v5="MQTT-4.8.2-3")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", b"1", v=v, retain=True)), *subscribed("a", "$share/g/x", v=v)]


@row("a share name with a wildcard or none is invalid", v5="MQTT-4.8.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("$share//x", 0), v=v)), *gone(v, 0x8F)]


@row("a share without a filter is invalid", v5="MQTT-4.8.2-2")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(subscribe(1, ("$share/g", 0), v=v)), *gone(v, 0x8F)]


@row("PUBACK says when nobody subscribes", v5="MQTT-3.4.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, qos=1, pid=1)), E(puback(1, 0x10))]


@row("a failed PUBREC ends the exchange", v5="MQTT-4.3.3-3")
def _(v: int) -> list[Step]:
    return [
        *(
            *hello(v=v),
            *subscribed("a", "x", 2, v=v),
            *hello("b", v=v),
            S(publish("x", v=v, qos=2, pid=1), "b"),
            E(pubrec(1), "b"),
        ),
        *(E(publish("x", v=v, qos=2, pid=1)), S(pubrec(1, 0x80)), S(PINGREQ), E(PINGRESP)),
    ]


@row("a password without a user name is allowed", v5="MQTT-3.1.2-19")
def _(v: int) -> list[Step]:
    return hello(v=v, password="p")


@row("a password without a user name is malformed", v3="MQTT-3.1.2-22")
def _(v: int) -> list[Step]:
    return [S(connect(v=v, password="p")), X]


@row("a variable byte integer must be in its shortest form", v5="MQTT-1.5.5-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(frame(0x30, s("x"), b"\x80\x00")), *gone(v, 0x81)]


@row("properties longer than their packet are malformed", v5="MQTT-2.2.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(frame(0x30, s("x"), b"\x05\x01")), *gone(v, 0x81)]


@row("user properties with bad UTF-8 are malformed", v5="MQTT-1.5.7-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, p=b"\x26" + u16(1) + b"\xff" + s("v"))), *gone(v, 0x81)]


@row("a payload format other than 0 and 1 is a protocol error", v5="MQTT-2.2.2-1")
def _(v: int) -> list[Step]:
    return [*hello(v=v), S(publish("x", v=v, p=b"\x01\x02")), *gone(v, 0x82)]


@row("a session taken up without clean start and without expiry ends with its connection", v5="MQTT-3.1.2-5")
def _(v: int) -> list[Step]:
    return [
        *(*hello(v=v, **keep(v)), S(disconnect()), X, *hello(v=v, clean=False, present=True), S(disconnect()), X),
        *hello(v=v, clean=False),
    ]
