"""The link's topic grammar, both directions (LINK-1). Nobody else touches a "/" of these topics.

skerry/1/{node}/up        frames from the edge        skerry/1/{node}/presence   retained, will
skerry/1/{node}/down      frames to the edge
skerry/1/{node}/s/{stream}/up|down   byte streams (STREAM-1); stream 0: acknowledgements of all streams
"""

import re
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
STREAMS_UP_FILTER = f"{PREFIX}+/s/+/up"
STREAM_DIGITS = 16
STREAM_NAME = re.compile(f"[0-9a-f]{{{STREAM_DIGITS}}}")


class Address(NamedTuple):
    """Whose topic it is, and which."""

    node: str
    leg: Leg


class StreamAddress(NamedTuple):
    """Whose stream a topic belongs to, which, and where its frames go."""

    node: str
    stream: int
    leg: Literal["up", "down"]


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


def stream(node: str, number: int, leg: Literal["up", "down"]) -> str:
    """Return the topic of one stream's frames; raises MalformedMessage for no node name."""
    return _topic(node, f"s/{number:0{STREAM_DIGITS}x}/{leg}")


def streams(node: str, leg: Literal["up", "down"]) -> str:
    """Return the filter of all streams of ``node``; raises MalformedMessage for no node name."""
    return _topic(node, f"s/+/{leg}")


def is_stream(topic: str) -> bool:
    """Whether a topic that a link subscribed to is a stream's."""
    return topic.count("/") == 5


def parse_stream(topic: str) -> StreamAddress:
    """Read back a stream's topic; raises MalformedMessage."""
    if len(topic) <= MAX_TOPIC_BYTES and topic.startswith(PREFIX):
        parts = topic[len(PREFIX) :].split("/")
        if len(parts) == 4 and parts[1] == "s" and is_node_name(parts[0]) and STREAM_NAME.fullmatch(parts[2]):
            if parts[3] == "up":
                return StreamAddress(parts[0], int(parts[2], 16), "up")
            if parts[3] == "down":
                return StreamAddress(parts[0], int(parts[2], 16), "down")
    raise MalformedMessage(f"topic {topic[:80]!r} is not a stream's topic")


def acl(node: str) -> list[tuple[Literal["publish", "subscribe"], str]]:
    """Return all that ``node`` may do at the link's broker, as (verb, topic filter); everything else is refused."""
    return [
        ("publish", up(node)),
        ("publish", presence(node)),
        ("publish", streams(node, "up")),
        ("subscribe", down(node)),
        ("subscribe", streams(node, "down")),
    ]


def cloud_acl() -> list[tuple[Literal["publish", "subscribe"], str]]:
    """Return all that cloudcore needs at the link's broker, as (verb, topic filter)."""
    return [
        ("subscribe", UP_FILTER),
        ("subscribe", PRESENCE_FILTER),
        ("subscribe", STREAMS_UP_FILTER),
        ("publish", f"{PREFIX}+/down"),
        ("publish", f"{PREFIX}+/s/+/down"),
        ("publish", PRESENCE_FILTER),
    ]


def _topic(node: str, leg: str) -> str:
    if not is_node_name(node):
        raise MalformedMessage(f"{node[:80]!r} is not a node name")
    return f"{PREFIX}{node}/{leg}"
