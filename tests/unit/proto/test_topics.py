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


def test_a_node_may_use_its_own_three_topics_and_nothing_else() -> None:
    assert topics.acl("gw-1") == [
        ("publish", "skerry/1/gw-1/up"),
        ("publish", "skerry/1/gw-1/presence"),
        ("subscribe", "skerry/1/gw-1/down"),
    ]
