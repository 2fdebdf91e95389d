"""Who gets what: every identity against every verb and topic, at our broker and at Mosquitto with the files we write.

Where a broker cannot refuse (Mosquitto grants any SUBSCRIBE), the row still holds: nothing arrives.
"""

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

import paho.mqtt.client as paho
import pytest

from proto import topics
from tests.kit.access import NODES, Client, World, embedded, make_world, mosquitto, until

MARKS = count()
NOBODY = ("no certificate", "foreign gw-1", "expired gw-1", "gw-3", "replaced gw-4", "server")
LET_IN = ("gw-1", "cloud", "admin")
STREAM_LEGS: tuple[Literal["up"], Literal["down"]] = ("up", "down")
STREAMS = [topics.stream(node, 7, leg) for node in NODES[:2] for leg in STREAM_LEGS]
TOPICS = [
    *(topic(node) for node in NODES[:2] for topic in (topics.up, topics.down, topics.presence)),
    *STREAMS,
    "skerry/1/gw-1/s/up",
    "skerry/1/gw-1/s/0000000000000007/up/more",
    "skerry/1/gw-1",
    "skerry/1/gw-1/up/more",
    "skerry/1/gw-1/s/1/data",
    "skerry/1/gw-1x/up",
    "skerry/1/GW-1/up",
    "skerry/1//up",
    "skerry/2/gw-1/up",
    "other",
]
FILTERS = [
    *TOPICS,
    "#",
    "+",
    "+/+/+/+",
    "skerry/#",
    "skerry/1/#",
    "skerry/1/+/up",
    "skerry/1/+/down",
    "skerry/1/+/presence",
    "skerry/1/gw-2/#",
    "skerry/1/gw-1/+",
    "skerry/1/gw-1/s/#",
    "skerry/1/gw-1/s/+/+",
    "skerry/1/gw-1/s/+/down",
    "skerry/1/gw-2/s/+/down",
    "skerry/1/+/s/+/up",
    "skerry/1/+/s/+/down",
    "skerry/+/gw-2/down",
    "$share/g/skerry/1/+/up",
    "$share/g/skerry/1/gw-2/down",
    "$share/g/#",
    "$SYS/#",
    "$SYS/broker/clients/connected",
]


def may_publish(who: str, topic: str) -> bool:
    """The specification: a node to its own two topics and its streams up, the cloud to every node's down, presence and streams down."""
    if topic in STREAMS:
        return topic.endswith("/down") if who == "cloud" else topic == topics.stream(who, 7, "up")
    if who == "cloud":
        return topic.startswith("skerry/1/gw-") and topic.endswith(("/down", "/presence")) and topic.count("/") == 3
    return who.startswith("gw-") and topic in (topics.up(who), topics.presence(who))


def may_receive(who: str, topic: str) -> bool:
    if who == "cloud":
        return topic.endswith(("/up", "/presence")) and topic != "skerry/1/gw-1/s/up"
    return who.startswith("gw-") and topic in (topics.down(who), topics.stream(who, 7, "down"))


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = make_world(Path(tmp_path_factory.mktemp(request.param)))
    with {"embedded": embedded, "mosquitto": mosquitto}[request.param](made):
        yield made


class Witnesses:
    """The cloud and two nodes, hearing all that they may."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.clients: dict[str, Client] = {}
        self.heard: set[tuple[str, bytes]] = set()
        self.fence()

    def client(self, who: str) -> Client:
        """The connection of ``who``; a new one where Mosquitto ended it for a publish that it refused."""
        found = self.clients.get(who)
        if found is None or found.ended.is_set():
            self.close_one(who)
            found = self.clients[who] = self._world.connect(who)
            assert found.accepted
            own = (*topics.CLOUD_FILTERS, topics.STREAMS_UP_FILTER)
            for topic_filter in own if who == "cloud" else (topics.down(who), topics.streams(who, "down")):
                assert found.subscribe(topic_filter)
        return found

    def fence(self) -> None:
        """Return once everything published before has been delivered."""
        mark = b"fence %d" % next(MARKS)
        cloud, node = self.client("cloud"), self.client("gw-2")
        for sender, receiver, topic in ((cloud, node, topics.down("gw-2")), (node, cloud, topics.up("gw-2"))):
            sender.publish(topic, mark)
            until(partial(receiver.got, topic, mark), f"fence on {topic}")

    def saw(self, topic: str, payload: bytes) -> bool:
        self.fence()
        return self.has(topic, payload)

    def has(self, topic: str, payload: bytes) -> bool:
        return (topic, payload) in self.heard or any(c.got(topic, payload) for c in self.clients.values())

    def close_one(self, who: str) -> None:
        client = self.clients.pop(who, None)
        if client is not None:
            self.heard.update(client.received)
            client.close()

    def close(self) -> None:
        for who in list(self.clients):
            self.close_one(who)


@pytest.fixture
def witnesses(world: World) -> Iterator[Witnesses]:
    made = Witnesses(world)
    yield made
    made.close()


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5], ids=["3.1.1", "5"])
@pytest.mark.parametrize("who", NOBODY)
def test_a_certificate_that_is_not_good_is_not_let_in(world: World, who: str, version: int) -> None:
    for client_id in ("gw-1", "gw-3", "gw-4", "cloudcore"):
        client = world.connect(who, client_id, version=version)
        assert not client.accepted, client_id
        client.close()


@pytest.mark.parametrize("who", LET_IN)
def test_each_publish_reaches_somebody_exactly_when_it_may(world: World, who: str, witnesses: Witnesses) -> None:
    sent = {topic: b"publish %d" % next(MARKS) for topic in TOPICS}
    for topic, payload in sent.items():
        client = witnesses.client("cloud") if who == "cloud" else world.connect(who)
        if client.accepted and not client.publish(topic, payload) and who == "cloud":
            witnesses.client("cloud").publish(topic, payload)  # the end may have been the answer to the one before
        if who != "cloud":
            client.close()
    witnesses.fence()
    arrived = {topic for topic, payload in sent.items() if witnesses.has(topic, payload)}
    heard = {topic for topic in TOPICS if may_receive("cloud", topic) or may_receive("gw-2", topic)}
    assert arrived == {topic for topic in heard if may_publish(who, topic)}


@pytest.mark.parametrize("who", ["gw-1", "admin"])
def test_no_subscription_hears_what_is_another_s(world: World, who: str, witnesses: Witnesses) -> None:
    cloud, other = witnesses.client("cloud"), witnesses.client("gw-2")
    other.publish(topics.presence("gw-2"), b"here")
    client = world.connect(who)
    for topic_filter in FILTERS if client.accepted else ():
        client.subscribe(topic_filter)
    payload = b"subscribe %d" % next(MARKS)
    own = {topics.down("gw-1"), topics.stream("gw-1", 7, "down")}
    foreign = (topics.down("gw-2"), topics.stream("gw-2", 7, "down"))
    for topic in (*own, *foreign):
        cloud.publish(topic, payload)
    for topic in (topics.up("gw-2"), topics.stream("gw-2", 7, "up")):
        other.publish(topic, payload)
    witnesses.fence()
    if client.accepted:
        client.subscribe("fence")
    assert {topic for topic, _ in client.received} == (own if who == "gw-1" else set())
    client.close()


def test_our_broker_refuses_a_borrowed_name_and_each_filter_that_is_not_a_node_s_own(
    world: World, request: pytest.FixtureRequest
) -> None:
    if "embedded" not in request.node.name:
        return  # Mosquitto 2.0 grants any filter and delivers nothing
    assert not world.connect("pretender", "cloudcore").accepted
    granted = []
    for topic_filter in FILTERS:
        client = world.connect("gw-1")
        granted += [topic_filter] if client.subscribe(topic_filter) else []
        client.close()
    assert granted == [topics.down("gw-1"), topics.streams("gw-1", "down")]


def test_a_will_is_published_exactly_where_its_node_may_publish(world: World, witnesses: Witnesses) -> None:
    wrong = []
    for topic in TOPICS:
        witnesses.client("cloud").received.clear()
        client = world.connect("gw-1", will=topic)
        client.drop()
        again = world.connect("gw-1")  # let in once the old connection, with its will, is over
        assert again.accepted
        if witnesses.saw(topic, b"will of gw-1") != may_publish("gw-1", topic):
            wrong.append(topic)
        again.close()
    assert not wrong


def test_a_node_cannot_end_another_node_s_connection_with_its_client_id(world: World, witnesses: Witnesses) -> None:
    for client_id in ("gw-2", "system:node:gw-2", "cloud", "cloudcore"):
        thief = world.connect("gw-1", client_id)
        witnesses.fence()
        thief.close()
    assert not any(client.ended.is_set() for client in witnesses.clients.values())


def test_a_second_connection_of_the_same_node_takes_over(world: World) -> None:
    first = world.connect("gw-1")
    second = world.connect("gw-1")
    assert first.ended.wait(5)
    assert second.accepted
    first.close()
    second.close()


def test_a_revoked_node_gets_nothing_from_then_on(world: World, witnesses: Witnesses) -> None:
    client = world.connect("gw-4")
    assert client.accepted
    client.subscribe(topics.down("gw-4"))
    client.publish(topics.up("gw-4"), b"before")
    assert witnesses.saw(topics.up("gw-4"), b"before")
    world.revoke("gw-4")

    def silenced() -> bool:
        mark = b"after %d" % next(MARKS)
        if not client.ended.is_set():
            client.publish(topics.up("gw-4"), mark)
        return not witnesses.saw(topics.up("gw-4"), mark)

    until(silenced, "the revoked node is not heard")
    mark = b"down %d" % next(MARKS)
    witnesses.client("cloud").publish(topics.down("gw-4"), mark)
    witnesses.fence()
    assert not client.got(topics.down("gw-4"), mark)
    again: Client = world.connect("gw-4")
    assert not again.accepted
    again.close()
    client.close()
