"""Who gets a message: subscriptions, shared groups and sinks under their filters, with a cache per topic name."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from proto.mqtt.packets import Publish, Subscription
from proto.mqtt.session import Session
from proto.mqtt.topics import Trie, split_share

MAX_PLANS = 8192  # topics whose receivers are remembered

Sink: TypeAlias = Callable[[list[Publish]], Awaitable[Any] | None]


class Ticket:
    """The acknowledgements of what one read brought. They leave together, and only when everybody kept it."""

    __slots__ = ("acks", "after", "done", "durable", "error", "messages", "sinks", "waiting")

    def __init__(self, done: Callable[[], None] | None = None) -> None:
        self.acks: list[bytes] = []
        self.after: list[Callable[[], None]] | None = None  # to do once the acknowledgements are written
        self.messages = 0  # QoS 1 and 2 messages among them
        self.waiting = 0  # commits and sinks not finished
        self.durable = False  # something was put into the store
        self.sinks: dict[Sink, list[Publish]] | None = None
        self.error: BaseException | None = None
        self.done = done

    def settle(self, error: BaseException | None = None) -> None:
        """One of those it waits for is done."""
        self.waiting -= 1
        self.error = self.error or error
        if self.waiting <= 0 and self.done is not None:
            self.done()

    def settle_future(self, future: "asyncio.Future[Any]") -> None:
        self.settle(asyncio.CancelledError() if future.cancelled() else future.exception())


@dataclass(slots=True, eq=False)
class Route:
    """A session and the subscriptions of it that match, merged: it gets one copy."""

    session: Session
    subscriptions: tuple[Subscription, ...]
    qos: int = 0
    retain_as_published: bool = False
    ids: tuple[int, ...] = ()
    no_local: bool = False

    def merge(self) -> "Route":
        self.qos = max(one.qos for one in self.subscriptions)
        self.retain_as_published = any(one.retain_as_published for one in self.subscriptions)
        self.ids = tuple(one.identifier for one in self.subscriptions if one.identifier)
        self.no_local = any(one.no_local for one in self.subscriptions)
        return self

    def without_local(self) -> "Route | None":
        """Return what is left when the session itself is the publisher."""
        left = tuple(one for one in self.subscriptions if not one.no_local)
        return Route(self.session, left).merge() if left else None


@dataclass(slots=True, eq=False)
class ShareGroup:
    """``$share/{name}/{filter}``: each message goes to one member, in turns, connected ones first."""

    members: dict[Session, Subscription] = field(default_factory=dict)
    turn: int = 0

    def pick(self, allowed: Callable[[Session], bool]) -> Route | None:
        members = [one for one in self.members.items() if allowed(one[0])]
        members = [one for one in members if one[0].outlet is not None] or [one for one in members if one[0].stored]
        if not members:
            return None
        self.turn += 1
        session, subscription = members[self.turn % len(members)]
        return Route(session, (subscription,)).merge()


@dataclass(slots=True, eq=False)
class SinkEntry:
    sink: Sink


@dataclass(slots=True)
class Plan:
    routes: list[Route]
    groups: list[ShareGroup]
    sinks: list[Sink]


class Routing:
    """All subscriptions of a broker."""

    def __init__(self, may_receive: Callable[[Session, str], bool]) -> None:
        self._may_receive = may_receive
        self._trie: Trie[Route | ShareGroup | SinkEntry] = Trie()
        self._plans: dict[str, Plan] = {}
        self.subscriptions = 0

    def subscribe(self, session: Session, one: Subscription) -> bool:
        """Add or replace a subscription; returns whether it is new."""
        session.subscriptions = session.subscriptions or {}
        new = one.topic_filter not in session.subscriptions
        session.subscriptions[one.topic_filter] = one
        self.subscriptions += new
        self._attach(session, one)
        return new

    def restore(self, session: Session) -> None:
        """Take up the subscriptions that a loaded session already has."""
        for one in (session.subscriptions or {}).values():
            self._attach(session, one)
            self.subscriptions += 1

    def _attach(self, session: Session, one: Subscription) -> None:
        group, topic_filter = split_share(one.topic_filter)
        if not group:
            self._trie.add(topic_filter, session, Route(session, (one,)).merge())
        else:
            found = self._trie.get(topic_filter, group)
            if not isinstance(found, ShareGroup):
                found = ShareGroup()
                self._trie.add(topic_filter, group, found)
            found.members[session] = one
        self._changed(topic_filter)

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Remove a subscription; returns whether there was one."""
        if not session.subscriptions or topic_filter not in session.subscriptions:
            return False
        del session.subscriptions[topic_filter]
        session.subscriptions = session.subscriptions or None
        self.subscriptions -= 1
        group, bare = split_share(topic_filter)
        if not group:
            self._trie.discard(bare, session)
        else:
            found = self._trie.get(bare, group)
            if isinstance(found, ShareGroup):
                found.members.pop(session, None)
                if not found.members:
                    self._trie.discard(bare, group)
        self._changed(bare)
        return True

    def forget(self, session: Session) -> None:
        for topic_filter in list(session.subscriptions or ()):
            self.unsubscribe(session, topic_filter)

    def add_sink(self, topic_filter: str, sink: Sink) -> None:
        self._trie.add(topic_filter, sink, SinkEntry(sink))
        self.changed()

    def changed(self) -> None:
        """Rights or filters changed: forget who gets what."""
        self._plans.clear()

    def _changed(self, topic_filter: str) -> None:
        if "+" in topic_filter or "#" in topic_filter:
            self._plans.clear()
        else:
            self._plans.pop(topic_filter, None)

    def plan(self, topic: str) -> Plan:
        """Return who gets messages of ``topic``."""
        found = self._plans.get(topic)
        if found is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            found = self._plans[topic] = self._make(topic, self._trie.match(topic))
        return found

    def _make(self, topic: str, values: Iterable[Route | ShareGroup | SinkEntry]) -> Plan:
        routes: dict[Session, Route] = {}
        plan = Plan([], [], [])
        for value in values:
            if isinstance(value, SinkEntry):
                plan.sinks.append(value.sink)
            elif isinstance(value, ShareGroup):
                plan.groups.append(value)
            elif value.session in routes:
                both = (*routes[value.session].subscriptions, *value.subscriptions)
                routes[value.session] = Route(value.session, both).merge()
            elif self._may_receive(value.session, topic):
                routes[value.session] = value
        plan.routes = list(routes.values())
        plan.sinks = list(dict.fromkeys(plan.sinks))
        return plan
