"""MQTT-1, MQTT-6: (identity, verb, topic): with certificates, over TLS and in a generated matrix."""

import asyncio
import itertools
import ssl
from pathlib import Path

import pytest

from proto.mqtt.broker import BrokerSettings, MqttBroker
from proto.mqtt.identity import Identity, PeerCertificate, Refusal, Verb
from proto.mqtt.packets import Connect
from proto.mqtt.topics import matches
from tests.conformance.mqtt import wire as w
from tests.unit.mqtt.certificates import Certificates
from tests.unit.mqtt.fakes import FakeClient

NODES = ("edge-1", "edge-2")
TOPICS = (
    *(f"skerry/1/{node}/{leg}" for node in NODES for leg in ("up", "down", "presence")),
    *("skerry/1/edge-1/up/x", "skerry/1//up", "skerry/1/edge-1", "skerry", "$SYS/broker", "$share/g/x", "/", "é/x"),
)
FILTERS = (
    *TOPICS[:8],
    *(
        "#",
        "+",
        "+/#",
        "/#",
        "skerry/#",
        "skerry/+/+/down",
        "skerry/1/+/down",
        "skerry/1/edge-1/#",
        "skerry/1/edge-1/+",
    ),
    *(
        "$share/g/#",
        "$share/g/skerry/1/edge-1/down",
        "$share/g/skerry/1/edge-2/down",
        "$share/g/skerry/1/+/down",
        "$SYS/#",
    ),
)
PUBLISHES = {"up", "presence"}


def authenticate(connect: Connect, peer: PeerCertificate | None, username: str, password: bytes) -> Identity:
    if peer is None or not peer.common_name.startswith("system:node:"):
        raise Refusal("a node certificate is needed")
    node = peer.common_name.removeprefix("system:node:")
    return Identity(peer.common_name, client_id=node)


def acl(identity: Identity, verb: Verb, topic: str) -> bool:
    legs = PUBLISHES if verb == "publish" else {"down"}
    return topic in {f"skerry/1/{identity.client_id}/{leg}" for leg in legs}


def peercert(node: str) -> dict[str, object]:
    return {
        "subject": ((("commonName", f"system:node:{node}"),), (("organizationName", "system:nodes"),)),
        "serialNumber": "01",
    }


def make() -> MqttBroker:
    return MqttBroker(BrokerSettings(connects_per_s=0), authenticate=authenticate, acl=acl)


async def client(broker: MqttBroker, node: str, *, v: int = 5, cid: str | None = None) -> FakeClient:
    one = FakeClient(broker, peercert=peercert(node))
    one.receive(w.connect(node if cid is None else cid, v=v))
    assert (await one.sent())[3] == 0
    return one


@pytest.mark.parametrize("v", [4, 5])
async def test_publish_matrix_is_as_specified(v: int) -> None:
    broker = make()
    heard: list[tuple[str, str]] = []
    broker.add_sink("#", lambda messages: heard.extend((one.client_id, one.topic) for one in messages))
    for node, topic in itertools.product(NODES, TOPICS):
        one = await client(broker, node, v=v)
        one.receive(w.publish(topic, v=v, qos=1, pid=1))
        answer = await one.sent()

        allowed = topic in {f"skerry/1/{node}/{leg}" for leg in PUBLISHES}
        assert ((node, topic) in heard) is allowed
        assert (answer[:1] == b"\x40" and (len(answer) == 4 or answer[4] < 0x80)) is allowed, (node, topic, answer)


@pytest.mark.parametrize("v", [4, 5])
async def test_subscribe_matrix_is_as_specified_and_foreign_messages_never_arrive(v: int) -> None:
    broker = make()
    for node, topic_filter in itertools.product(NODES, FILTERS):
        one = await client(broker, node, v=v)
        one.receive(w.subscribe(1, (topic_filter, 1), v=v))
        answer = await one.sent()

        bare = topic_filter.removeprefix("$share/g/")
        allowed = bare == f"skerry/1/{node}/down"
        assert answer[-1] == (1 if allowed else 0x87 if v == 5 else 0x80), (node, topic_filter)
        for topic in TOPICS[:6]:
            broker.publish(topic, b"x")
            got = await one.sent()
            assert bool(got) is (allowed and matches(bare, topic))


async def test_a_right_to_subscribe_alone_does_not_receive() -> None:
    broker = MqttBroker(
        authenticate=authenticate, acl=lambda identity, verb, topic: verb != "receive" or topic == "open"
    )
    one = await client(broker, "edge-1")
    one.receive(w.subscribe(1, ("#", 0), v=5))
    await one.sent()

    broker.publish("closed", b"1")
    broker.publish("open", b"2")

    assert await one.sent() == w.publish("open", b"2", v=5)


async def test_client_id_of_another_node_is_refused_and_its_session_untouched() -> None:
    broker = make()
    owner = await client(broker, "edge-1")
    thief = FakeClient(broker, peercert=peercert("edge-2"))

    thief.receive(w.connect("edge-1", v=5))

    assert (await thief.sent()) == b"\x20\x03\x00\x85\x00"
    owner.receive(w.PINGREQ)
    assert await owner.sent() == w.PINGRESP


async def test_session_of_another_identity_is_refused_whatever_the_client_id_rules_are() -> None:
    broker = MqttBroker(authenticate=lambda connect, peer, username, password: Identity(username))
    owner = FakeClient(broker)
    owner.receive(w.connect("shared", clean=False, user="alice"))
    await owner.sent()
    owner.lose()
    thief = FakeClient(broker)

    thief.receive(w.connect("shared", user="bob"))

    assert await thief.sent() == b"\x20\x02\x00\x05"
    assert "shared" in broker.sessions.by_id


async def test_no_certificate_gets_no_session() -> None:
    broker = make()
    one = FakeClient(broker)

    one.receive(w.connect("edge-1", v=5))

    assert await one.sent() == b"\x20\x03\x00\x87\x00"
    assert not broker.sessions.by_id


async def test_withdrawn_rights_end_subscriptions_and_publishes() -> None:
    open_to: set[str] = {"edge-1"}
    broker = MqttBroker(authenticate=authenticate, acl=lambda identity, verb, topic: identity.client_id in open_to)
    one = await client(broker, "edge-1")
    one.receive(w.subscribe(1, ("x", 0), v=5))
    await one.sent()

    open_to.clear()
    broker.rights_changed()
    broker.publish("x", b"1")
    one.receive(w.publish("x", v=5, qos=1, pid=1))

    assert await one.sent() == w.puback(1, 0x87)


async def test_a_revoked_identity_is_kicked_from_every_connection() -> None:
    broker = MqttBroker(authenticate=lambda connect, peer, username, password: Identity("system:node:edge-1"))
    clients = [FakeClient(broker) for _ in range(3)]
    for number, one in enumerate(clients):
        one.receive(w.connect(f"c{number}", v=5))
        await one.sent()

    assert broker.kick_identity("system:node:edge-1") == 3

    assert [await one.sent() for one in clients] == [b"\xe0\x01\x87"] * 3
    assert all(one.transport.closed for one in clients)


async def test_mutual_tls_decides_the_identity(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    broker = make()
    port = await broker.listen("127.0.0.1", 0, certificates.server_context())

    async def connack(context: ssl.SSLContext, cid: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        try:
            writer.write(w.connect(cid))
            return await asyncio.wait_for(reader.read(64), 5)
        except (ssl.SSLError, ConnectionError):
            return b""
        finally:
            writer.close()

    assert await connack(certificates.client_context("system:node:edge-1"), "edge-1") == b"\x20\x02\x00\x00"
    assert await connack(certificates.client_context("system:node:edge-2"), "edge-1") == b"\x20\x02\x00\x02"
    assert await connack(certificates.client_context(None), "edge-1") == b""
    await broker.close()
