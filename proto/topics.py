"""The link's topic grammar, both directions (LINK-1). Nobody else touches a "/" of these topics.

skerry/1/{node}/up        frames from the edge        skerry/1/{node}/presence   retained, will
skerry/1/{node}/down      frames to the edge          skerry/1/{node}/s/{stream}/…   byte streams
"""

from typing import Literal, NamedTuple

from proto.kit.errors import MalformedMessage
from proto.names import is_node_name

PREFIX = "skerry/1/"
Leg = Literal["up", "down", "presence"]
LEGS: tuple[Leg, ...] = ("up", "down", "presence")
MAX_TOPIC_BYTES = 128  # prefix, a DNS label and a leg: nothing legal is longer

UP_FILTER = f"{PREFIX}+/up"
PRESENCE_FILTER = f"{PREFIX}+/presence"
CLOUD_FILTERS = (UP_FILTER, PRESENCE_FILTER)


class Address(NamedTuple):
    """Whose topic it is, and which."""

    node: str
    leg: Leg


def up(node: str) -> str:
    """Return the topic of frames from ``node``; raises MalformedMessage for no node name."""
    return _topic(node, "up")


def down(node: str) -> str:
    """Return the topic of frames to ``node``; raises MalformedMessage for no node name."""
    return _topic(node, "down")


def presence(node: str) -> str:
    """Return the retained presence topic of ``node``; raises MalformedMessage for no node name."""
    return _topic(node, "presence")


def parse(topic: str) -> Address:
    """Read back a topic; raises MalformedMessage."""
    if len(topic) <= MAX_TOPIC_BYTES and topic.startswith(PREFIX):
        node, _, leg = topic[len(PREFIX) :].partition("/")
        for known in LEGS:
            if leg == known and is_node_name(node):
                return Address(node, known)
    raise MalformedMessage(f"topic {topic[:80]!r} is not a link topic")


def acl(node: str) -> list[tuple[Literal["publish", "subscribe"], str]]:
    """Return all that ``node`` may do at the link's broker, as (verb, topic filter); everything else is refused."""
    return [("publish", up(node)), ("publish", presence(node)), ("subscribe", down(node))]


def cloud_acl() -> list[tuple[Literal["publish", "subscribe"], str]]:
    """Return all that cloudcore needs at the link's broker, as (verb, topic filter)."""
    return [
        ("subscribe", UP_FILTER),
        ("subscribe", PRESENCE_FILTER),
        ("publish", f"{PREFIX}+/down"),
        ("publish", PRESENCE_FILTER),
    ]


def _topic(node: str, leg: Leg) -> str:
    if not is_node_name(node):
        raise MalformedMessage(f"{node[:80]!r} is not a node name")
    return f"{PREFIX}{node}/{leg}"
