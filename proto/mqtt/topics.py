"""Topic names and filters: what is valid, and which filters match a name (MQTT 5 §4.7, §4.8.2).

``Trie`` keeps values under filters; asking costs the number of levels, not the number of filters.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from proto.mqtt.reasons import TOPIC_NAME_INVALID, Violation

V = TypeVar("V")
MAX_KNOWN = 4096  # validated names kept; a device uses a handful
SHARE = "$share/"


class TopicNames:
    """Validated topic names by their bytes, so that a repeated name costs one look-up."""

    def __init__(self, max_bytes: int = 512, max_levels: int = 16) -> None:
        self.known: dict[bytes, str] = {}
        self.max_bytes = max_bytes
        self.max_levels = max_levels

    def learn(self, raw: bytes) -> str:
        """Return the name; raises Violation when it is no topic name or beyond the limits."""
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise Violation(TOPIC_NAME_INVALID, "a topic name is not UTF-8") from error
        if not check_name(text):
            raise Violation(TOPIC_NAME_INVALID, "a topic name is empty or holds +, # or U+0000")
        if len(raw) > self.max_bytes or text.count("/") >= self.max_levels:
            limits = f"{self.max_bytes} bytes and {self.max_levels} levels"
            raise Violation(TOPIC_NAME_INVALID, f"a topic name is beyond the limit of {limits}")
        if len(self.known) >= MAX_KNOWN:
            self.known.clear()
        self.known[raw] = text
        return text


def check_name(text: str) -> bool:
    """Whether ``text`` may be published to."""
    return bool(text) and "+" not in text and "#" not in text and "\0" not in text


def check_filter(text: str) -> bool:
    """Whether ``text`` is a topic filter, shared or not."""
    if not text or "\0" in text:
        return False
    if text.startswith(SHARE):
        group, _, rest = text[len(SHARE) :].partition("/")
        return bool(group) and "+" not in group and "#" not in group and _check_levels(rest)
    return _check_levels(text)


def _check_levels(text: str) -> bool:
    if not text:
        return False
    if "+" not in text and "#" not in text:
        return True
    *front, last = text.split("/")
    if any("#" in level or ("+" in level and level != "+") for level in front):
        return False
    return last in ("#", "+") or ("#" not in last and "+" not in last)


def split_share(topic_filter: str) -> tuple[str, str]:
    """Return (group, filter); the group is "" for a filter that is not shared."""
    if not topic_filter.startswith(SHARE):
        return "", topic_filter
    group, _, rest = topic_filter[len(SHARE) :].partition("/")
    return group, rest


def matches(topic_filter: str, name: str) -> bool:
    """Whether the (unshared) filter matches the name."""
    levels, names = topic_filter.split("/"), name.split("/")
    if name[:1] == "$" and levels[0] in ("+", "#"):
        return False
    for at, level in enumerate(levels):
        if level == "#":
            return True
        if at >= len(names) or level not in ("+", names[at]):
            return False
    return len(levels) == len(names)


class _Node(Generic[V]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.values: dict[Hashable, V] | None = None


class Trie(Generic[V]):
    """Values under topic filters, one per filter and key."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()

    def add(self, topic_filter: str, key: Hashable, value: V) -> None:
        """Put ``value``; an older one of the same filter and key is replaced."""
        node = self._root
        for level in topic_filter.split("/"):
            found = node.children.get(level)
            if found is None:
                found = node.children[level] = _Node()
            node = found
        if node.values is None:
            node.values = {}
        node.values[key] = value

    def get(self, topic_filter: str, key: Hashable) -> V | None:
        node: _Node[V] | None = self._root
        for level in topic_filter.split("/"):
            node = node.children.get(level) if node is not None else None
        return node.values.get(key) if node is not None and node.values else None

    def discard(self, topic_filter: str, key: Hashable) -> None:
        """Take one value away; branches that hold nothing any more go too."""
        path: list[tuple[_Node[V], str]] = []
        node = self._root
        for level in topic_filter.split("/"):
            found = node.children.get(level)
            if found is None:
                return
            path.append((node, level))
            node = found
        if node.values is None or key not in node.values:
            return
        del node.values[key]
        node.values = node.values or None
        for parent, level in reversed(path):
            if parent.children[level].values is None and not parent.children[level].children:
                del parent.children[level]

    def match(self, name: str) -> list[V]:
        """Return the values of every filter that matches ``name``."""
        out: list[V] = []
        nodes = [self._root]
        for depth, level in enumerate(name.split("/")):
            wild = depth > 0 or level[:1] != "$"
            following: list[_Node[V]] = []
            for node in nodes:
                children = node.children
                if level in children:
                    following.append(children[level])
                if wild:
                    if "+" in children:
                        following.append(children["+"])
                    _take(out, children.get("#"))
            nodes = following
            if not nodes:
                return out
        for node in nodes:
            _take(out, node)
            _take(out, node.children.get("#"))
        return out


def _take(out: list[V], node: _Node[V] | None) -> None:
    if node is not None and node.values is not None:
        out += node.values.values()


class NameTree(Generic[V]):
    """One value per topic name; asked by filter (the retained messages)."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()
        self.names = 0

    def get(self, name: str) -> V | None:
        node: _Node[V] | None = self._root
        for level in name.split("/"):
            node = node.children.get(level) if node is not None else None
        return node.values[None] if node is not None and node.values else None

    def put(self, name: str, value: V | None) -> None:
        """Set the value of ``name``; None removes it."""
        path = [self._root]
        levels = name.split("/")
        for level in levels:
            found = path[-1].children.get(level)
            if found is None:
                found = path[-1].children[level] = _Node()
            path.append(found)
        node = path[-1]
        self.names += (value is not None) - (node.values is not None)
        node.values = None if value is None else {None: value}
        for parent, level in zip(reversed(path[:-1]), reversed(levels), strict=True):
            if parent.children[level].values is None and not parent.children[level].children:
                del parent.children[level]

    def match(self, topic_filter: str) -> Iterator[V]:
        """Yield the values whose names the filter matches."""
        nodes = [self._root]
        for depth, level in enumerate(topic_filter.split("/")):
            if level == "#":
                for node in nodes:
                    yield from _walk(node, hide_dollar=depth == 0)
                return
            following: list[_Node[V]] = []
            for node in nodes:
                if level == "+":
                    following += [c for n, c in node.children.items() if depth or n[:1] != "$"]
                elif level in node.children:
                    following.append(node.children[level])
            nodes = following
        for node in nodes:
            yield from (node.values or {}).values()


def _walk(node: _Node[V], *, hide_dollar: bool) -> Iterator[V]:
    stack = [node]
    if hide_dollar:
        stack = [child for name, child in node.children.items() if name[:1] != "$"]
    while stack:
        found = stack.pop()
        yield from (found.values or {}).values()
        stack += found.children.values()
