"""A broker in this process, for tests and simulations of a whole link: clean sessions, retained messages, wills.

Faults are asked for by the test: ``cut``, ``pause`` (half-open), and a ``fate`` for each delivery.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from proto.link.broker import ConnectionLost, Inbound, Refused, Unreachable, Will

MAX_QUEUED = 100_000  # a consumer this far behind is disconnected
Fate = Callable[[str, bytes], int]  # how many copies of a publish are delivered: 0 loses it, 2 doubles it


def matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT filter matches a topic."""
    wanted, have = topic_filter.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(have) or level not in ("+", have[i]):
            return False
    return len(wanted) == len(have)


@dataclass
class MemoryBroker:
    """All connections made from one instance see each other."""

    fate: Fate = lambda _topic, _payload: 1
    allow: Callable[[str, str, str], bool] = lambda _client, _verb, _topic: True
    up: bool = True
    retained: dict[str, bytes] = field(default_factory=dict)
    connections: dict[str, "MemoryConnection"] = field(default_factory=dict)
    exact: dict[str, dict["MemoryConnection", None]] = field(default_factory=dict)  # subscribers by filter
    wild: dict["MemoryConnection", None] = field(default_factory=dict)  # subscribers of filters with wildcards
    published: int = 0
    lost: int = 0

    async def connect(self, client_id: str, *, will: Will | None = None, keep_alive_s: int = 30) -> "MemoryConnection":
        """Return a live connection; one with the same client id is taken over. Raises Unreachable."""
        del keep_alive_s
        if not self.up:
            raise Unreachable("the memory broker is down")
        old = self.connections.pop(client_id, None)
        connection = MemoryConnection(self, client_id, will)
        self.connections[client_id] = connection
        if old is not None:
            old.end(with_will=True)
        return connection

    def cut(self, client_id: str | None = None) -> None:
        """End connections as a broken network does: wills are published."""
        for name, connection in list(self.connections.items()):
            if client_id in (None, name):
                self.connections.pop(name, None)
                connection.end(with_will=True)

    def stop(self) -> None:
        """Refuse connections and cut those that are."""
        self.up = False
        self.cut()

    def start(self, *, forget: bool = False) -> None:
        """Serve again; ``forget`` loses retained messages as a broker without a disk does."""
        self.up = True
        if forget:
            self.retained.clear()

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.published += 1
        if retain:
            if payload:
                self.retained[topic] = payload
            else:
                self.retained.pop(topic, None)
        for connection in {**self.exact.get(topic, {}), **self.wild}:
            if any(matches(f, topic) for f in connection.filters):
                copies = self.fate(topic, payload)
                self.lost += copies == 0
                for _ in range(copies):
                    connection.deliver(topic, payload, retain=False)


class MemoryConnection:
    """One connection of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, client_id: str, will: Will | None) -> None:
        self.client_id = client_id
        self.filters: list[str] = []
        self.paused = False
        self.unacked = 0
        self._broker = broker
        self._will = will
        self._alive = True
        self._queue: deque[Inbound] = deque()
        self._waiter: asyncio.Future[None] | None = None

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        del qos
        self._check()
        if not self._broker.allow(self.client_id, "subscribe", topic_filter):
            raise Refused(f"subscription to {topic_filter} is not allowed")
        self.filters.append(topic_filter)
        if "+" in topic_filter or "#" in topic_filter:
            self._broker.wild[self] = None
        else:
            self._broker.exact.setdefault(topic_filter, {})[self] = None
        for topic, payload in list(self._broker.retained.items()):
            if matches(topic_filter, topic):
                self.deliver(topic, payload, retain=True)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> "asyncio.Future[None]":
        del qos
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._alive:
            future.set_exception(ConnectionLost("the connection has ended"))
        elif self.paused:
            return future  # half-open: neither sent nor refused
        elif not self._broker.allow(self.client_id, "publish", topic):
            future.set_exception(Refused(f"publishing to {topic} is not allowed"))
        else:
            self._broker.route(topic, payload, retain=retain)
            future.set_result(None)
        return future

    async def receive(self) -> Inbound:
        while not self._queue:
            self._check()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._queue.popleft()

    async def close(self) -> None:
        if self._broker.connections.get(self.client_id) is self:
            del self._broker.connections[self.client_id]
        self.end(with_will=False)

    def deliver(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if not self._alive or self.paused:
            return
        if len(self._queue) >= MAX_QUEUED:
            self._broker.cut(self.client_id)
            return
        self.unacked += 1
        self._queue.append(Inbound(topic, payload, retain, self._acked))
        self._wake()

    def end(self, *, with_will: bool) -> None:
        if not self._alive:
            return
        self._alive = False
        self._queue.clear()
        self._broker.wild.pop(self, None)
        for topic_filter in self.filters:
            self._broker.exact.get(topic_filter, {}).pop(self, None)
        self._wake()
        if with_will and self._will is not None:
            self._broker.route(self._will.topic, self._will.payload, retain=self._will.retain)

    def _acked(self) -> None:
        self.unacked -= 1

    def _check(self) -> None:
        if not self._alive:
            raise ConnectionLost("the connection has ended")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
