"""Virtual time, disks with group commit, and a network of one broker; everything random comes from one seed."""

import heapq
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from proto.frames import Frame, Presence
from proto.kit.database import Tx

T = TypeVar("T")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """The event queue. ``now`` is true time in seconds; every actor sees it through its own clock."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.failpoint_ratio = 0.0  # how likely a commit is the moment of a crash
        self.trace: list[str] | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, delay_s: float, fn: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._count, fn))

    def run_until(self, end_s: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= end_s:
            self.now, _, fn = heapq.heappop(queue)
            self.events += 1
            fn()
        self.now = end_s

    def note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:9.3f} {text}")


class ActorClock:
    """Monotonic seconds begin anywhere at each boot; the wall clock jumps."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.offset_s = world.rng.uniform(0, 1000)
        self.skew = timedelta()

    def now_s(self) -> float:
        return self.world.now + self.offset_s

    def wall(self) -> datetime:
        return EPOCH + timedelta(seconds=self.world.now) + self.skew

    async def sleep(self, delay_s: float) -> None:
        raise NotImplementedError


@lru_cache
def _template(schema: str) -> bytes:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.executescript(schema)
    return conn.serialize()


def disk(schema: str) -> sqlite3.Connection:
    return _open(_template(schema))


def copy_of(conn: sqlite3.Connection) -> sqlite3.Connection:
    return _open(conn.serialize())


def _open(content: bytes) -> sqlite3.Connection:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.deserialize(content)
    conn.execute("PRAGMA journal_mode=OFF")  # nothing is ever rolled back here: what does not commit is never begun
    return conn


class Store:
    """One process's view of its disk: what is submitted commits together, a moment later, or never."""

    def __init__(self, world: World, conn: sqlite3.Connection, crash: Callable[[], None]) -> None:
        self.world = world
        self.conn = conn
        self.alive = True
        self._crash = crash
        self._pending: list[tuple[Callable[[Tx], Any], Callable[[Any], None] | None]] = []

    def submit(self, fn: Callable[[Tx], T], then: Callable[[T], None] | None = None) -> None:
        if not self._pending:
            self.world.at(self.world.rng.uniform(0.0005, 0.004), self.commit)
        self._pending.append((fn, then))

    def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        return fn(self.conn)

    def commit(self) -> None:
        jobs, self._pending = self._pending, []
        if not self.alive or not jobs:
            return
        doom = self.world.rng.random() if self.world.failpoint_ratio else 1.0
        if doom < self.world.failpoint_ratio / 2:
            self._crash()
            return
        tx = Tx(self.conn)
        self.conn.execute("BEGIN")
        results = [fn(tx) for fn, _ in jobs]
        self.conn.execute("COMMIT")
        if doom < self.world.failpoint_ratio:
            self._crash()
            return
        for after in tx.committed():
            after()
        for (_, then), result in zip(jobs, results, strict=True):
            if then is not None and self.alive:
                then(result)


@dataclass
class Weather:
    """What the network does to messages."""

    lose: float = 0.0
    double: float = 0.0
    slow: float = 0.0  # chance of a delay of seconds
    reorder: bool = False


@dataclass(eq=False)
class Wire:
    """One MQTT connection."""

    client: str
    on_frame: Callable[[str, str, Any], None]
    on_lost: Callable[[], None]
    will: tuple[str, Presence] | None = None
    alive: bool = True
    half_open: bool = False
    arrives: float = 0.0  # of the last message on it, so that order holds in fair weather


@dataclass
class Net:
    """The broker and everything between."""

    world: World
    weather: Weather = field(default_factory=Weather)
    up: bool = True
    cut_off: set[str] = field(default_factory=set)
    wires: dict[str, Wire] = field(default_factory=dict)
    retained: dict[str, Presence] = field(default_factory=dict)
    carried: int = 0

    def connect(self, wire: Wire) -> bool:
        if not self.up or wire.client in self.cut_off:
            return False
        old = self.wires.get(wire.client)
        if old is not None:
            self.cut(old)
        self.wires[wire.client] = wire
        return True

    def publish(self, wire: Wire, leg: str, node: str, payload: Frame | Presence) -> None:
        if not wire.alive or wire.half_open:
            return
        if isinstance(payload, Presence):
            self.world.at(self._delay(), lambda: self._retain(node, payload))
            return
        target = "cloudcore" if leg == "up" else node
        for _ in range(self._copies()):
            at = self.world.now + self._delay()
            if not self.weather.reorder:
                at = wire.arrives = max(at, wire.arrives)
            self.carried += 1
            self.world.at(at - self.world.now, lambda: self._arrive(target, leg, node, payload))

    def subscribe_cloud(self, wire: Wire) -> None:
        for node, presence in list(self.retained.items()):
            self.world.at(self._delay(), lambda n=node, p=presence: self._arrive("cloudcore", "presence", n, p))  # type: ignore[misc]

    def cut(self, wire: Wire, *, with_will: bool = True) -> None:
        if not wire.alive:
            return
        wire.alive = False
        if self.wires.get(wire.client) is wire:
            del self.wires[wire.client]
        if wire.will is not None and with_will:
            node, presence = wire.will
            self.world.at(self.world.rng.uniform(0.0, 3.0), lambda: self._retain(node, presence))
        self.world.at(0.0, wire.on_lost)

    def freeze(self, wire: Wire) -> None:
        """Half-open: neither end hears anything and the client is never told; the broker notices much later."""
        wire.half_open = True
        self.world.at(20.0, lambda: self._forget(wire))

    def _forget(self, wire: Wire) -> None:
        if wire.client != "cloudcore":  # the cloud's own client notices by MQTT's keep-alive
            wire.on_lost = lambda: None
        self.cut(wire)

    def stop(self, *, forget: bool) -> None:
        self.up = False
        for wire in list(self.wires.values()):
            self.cut(wire, with_will=not forget)
        if forget:
            self.retained.clear()

    def _retain(self, node: str, presence: Presence) -> None:
        if self.up:
            self.retained[node] = presence
            self._arrive("cloudcore", "presence", node, presence)

    def _arrive(self, target: str, leg: str, node: str, payload: Frame | Presence) -> None:
        wire = self.wires.get(target)
        if self.up and wire is not None and wire.alive and not wire.half_open:
            wire.on_frame(leg, node, payload)

    def _copies(self) -> int:
        weather, rng = self.weather, self.world.rng
        if weather.lose and rng.random() < weather.lose:
            return 0
        return 2 if weather.double and rng.random() < weather.double else 1

    def _delay(self) -> float:
        rng = self.world.rng
        delay = rng.uniform(0.002, 0.03)
        if self.weather.slow and rng.random() < self.weather.slow:
            delay += rng.uniform(0.1, 4.0)
        return delay
