import pytest

from proto import topics
from proto.kit.errors import MalformedMessage


@pytest.mark.parametrize("leg", topics.LEGS)
def test_a_topic_reads_back_as_node_and_leg(leg: topics.Leg) -> None:
    """LINK-1"""
    make = {"up": topics.up, "down": topics.down, "presence": topics.presence}[leg]
    assert topics.parse(make("gw-1")) == ("gw-1", leg)


@pytest.mark.parametrize(
    "topic",
    ["", "skerry/1/gw-1", "skerry/1//up", "skerry/2/gw-1/up", "skerry/1/GW/up", "skerry/1/+/up", "skerry/1/a/up/x"],
)
def test_what_is_no_link_topic_is_malformed(topic: str) -> None:
    with pytest.raises(MalformedMessage):
        topics.parse(topic)


@pytest.mark.parametrize("node", ["", "+", "#", "a/b", "A", "x" * 64, "-a", "a\0"])
def test_no_topic_is_made_of_what_is_no_node_name(node: str) -> None:
    with pytest.raises(MalformedMessage):
        topics.up(node)


def test_a_node_may_use_its_own_topics_and_streams_and_nothing_else() -> None:
    assert topics.acl("gw-1") == [
        ("publish", "skerry/1/gw-1/up"),
        ("publish", "skerry/1/gw-1/presence"),
        ("publish", "skerry/1/gw-1/s/+/up"),
        ("subscribe", "skerry/1/gw-1/down"),
        ("subscribe", "skerry/1/gw-1/s/+/down"),
    ]


@pytest.mark.parametrize("number", [0, 1, 0xABC, (1 << 64) - 1])
def test_a_stream_s_topic_reads_back(number: int) -> None:
    """STREAM-1"""
    topic = topics.stream("gw-1", number, "down")
    assert topics.is_stream(topic)
    assert topics.parse_stream(topic) == ("gw-1", number, "down")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "skerry/1/gw-1/up",
        "skerry/1/gw-1/s/1/up",
        "skerry/1/gw-1/s/000000000000000A/up",
        "skerry/1/gw-1/s/0000000000000001/presence",
        "skerry/1/gw-1/t/0000000000000001/up",
        "skerry/1/+/s/0000000000000001/up",
        "skerry/1/gw-1/s/+/up",
        "skerry/2/gw-1/s/0000000000000001/up",
    ],
)
def test_what_is_no_stream_s_topic_is_malformed(topic: str) -> None:
    """STREAM-1"""
    with pytest.raises(MalformedMessage):
        topics.parse_stream(topic)
