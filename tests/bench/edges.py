"""Simulated edges: the product's link machine over real TLS and MQTT, with disk and device in memory."""

import asyncio
import ssl
from collections.abc import Container, Mapping

from proto import codec, digest, topics
from proto.exchange import StateRow
from proto.frames import Ask, Inventory, Messages, Ping, Pong, Presence
from proto.kit import canonical
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.link.broker import Will
from proto.link.replica import MessageRow, StateChange
from proto.link.settings import LinkSettings
from proto.names import ObjectKey
from proto.session import Adopt, Announce, Deliver, Differ, Drop, EdgeState, Effect, Opened, Send, Settled
from proto.session_edge import NONCES, EdgeSession, Identity, Positions
from tests.bench.wire import Wire, dial

GROUP = "devices.kubeedge.io"
TICK_S = 0.25
NEEDED = ("core/nodes/-/", f"{GROUP}/devices/", f"{GROUP}/devicemodels/")  # by each edge, among what it gets
PROBE_S = 1.0  # how often an edge that seems done asks the cloud whether it agrees


class Room:
    """What one edge holds, reports and has to send: the Feed of its session."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.objects: dict[str, tuple[bytes, bytes]] = {}  # key -> (digest, body)
        self.statuses: dict[str, bytes] = {}
        self.dirty: dict[str, None] = {}
        self.rows: list[MessageRow] = []
        self.last = self._cursor = 0
        self._version = 0

    def put_message(self, kind: str, body: bytes) -> None:
        self.last += 1
        self.rows.append(MessageRow(self.last, kind, body))

    def report(self, count: int) -> None:
        """The device reports: one history row, and a newer status of the device. No-op before the device is known."""
        for key, (_, body) in self.objects.items():
            if "/devices/" not in key:
                continue
            device = canonical.decode(body)
            name, uid = device["metadata"]["name"], device["metadata"]["uid"]
            self._version += 1
            row = ["default", name, uid, 1_700_000_000_000 + count, self._version, {"count": str(count)}]
            self.put_message("history", canonical.encode(row))
            reported = {"value": str(count), "metadata": {"type": "int", "version": str(self._version)}}
            status = {
                "twins": [{"propertyName": "count", "reported": reported}],
                "state": "online",
                "extensions": {"version": self._version},
            }
            self.put_status(f"{GROUP}/devicestatuses/default/{name}", uid, status)

    def put_status(self, key: str, uid: str, status: Mapping[str, object]) -> None:
        self._version += 1
        self.statuses[key] = canonical.encode({"uid": uid, "version": self._version, "status": status})
        self.dirty[key] = None

    def apply(self, changes: list[StateChange]) -> None:
        for change in changes:
            if change.body is None:
                self.objects.pop(change.key, None)
            else:
                self.objects[change.key] = (digest.object_digest(change.body), change.body)

    def settle(self, effect: Settled) -> None:
        mark = max((flight.end for flight in effect.flights if flight.token is None), default=0)
        self.rows = [row for row in self.rows if row.seq > mark]
        for flight in effect.flights:
            for row in flight.token or ():
                if self.statuses.get(row.change.key) == row.change.body:
                    self.dirty.pop(row.change.key, None)

    @property
    def empty(self) -> bool:
        return not self.dirty and not self.rows

    # EdgeFeed

    def positions(self) -> Positions:
        return Positions(self.rows[0].seq - 1 if self.rows else self.last, self.last, ())

    def has_states(self) -> bool:
        return bool(self.dirty)

    def begin(self, mark: int) -> None:
        self.rows = [row for row in self.rows if row.seq > mark]
        self._cursor = mark

    def states(self, flying: Container[str], max_rows: int, max_bytes: int) -> list[StateRow]:
        keys = [key for key in self.dirty if key not in flying][:max_rows]
        return [
            StateRow(StateChange(key, self.statuses[key], digest.status_digest(self.statuses[key]))) for key in keys
        ]

    def messages(self, lineage: str | None, max_rows: int, max_bytes: int) -> Messages | None:
        rows = [row for row in self.rows if row.seq > self._cursor][:max_rows]
        if not rows:
            return None
        before, self._cursor = rows[0].seq - 1, rows[-1].seq
        return Messages(before, rows)

    def expected(self) -> Mapping[str, bytes]:
        return {key: digest.status_digest(body) for key, body in self.statuses.items()}

    def held(self) -> Mapping[str, bytes]:
        return {key: found for key, (found, _) in self.objects.items()}


class BenchEdge:
    """One edge: dials again and again as the real one does, and knows whether the cloud agrees with it."""

    def __init__(
        self, node: str, address: tuple[str, int], tls: ssl.SSLContext, settings: LinkSettings, clock: Clock, rng: Rng
    ) -> None:
        self.node = node
        self.room = Room(node)
        self.session = EdgeSession(Identity(f"{rng.getrandbits(128):032x}"), self.room, settings, rng)
        self.sessions = 0
        self.dials = 0
        self.last_error = ""  # why it could not connect, since the last session
        self.agreed = False
        self._address, self._tls = address, tls
        self._settings, self._clock, self._rng = settings, clock, rng
        self._backoff = Backoff(settings.reconnect_base_s, settings.reconnect_cap_s, rng)
        self._wire: Wire | None = None
        self._probe_due_s = 0.0
        self._pause_s = 0.0

    @property
    def synced(self) -> bool:
        """Whether this session's cloud has confirmed both inventories, and nothing waits."""
        return self.agreed and self.session.state is EdgeState.LIVE and self.room.empty

    async def run(self) -> None:
        while True:
            self.dials += 1
            try:
                await self._serve()
            except (OSError, TimeoutError) as error:
                self.last_error = type(error).__name__
            pause_s, self._pause_s = self._pause_s, 0.0
            await self._clock.sleep(max(pause_s, self._backoff.next_s()))

    async def _serve(self) -> None:
        number = self._rng.randrange(1, NONCES)
        gone = codec.encode_presence(Presence(False, number, self.session.identity.epoch))
        wire = await dial(
            self._address,
            self._tls,
            self.node,
            will=Will(topics.presence(self.node), gone),
            keep_alive_s=int(self._settings.keep_alive_s),
            topic=topics.down(self.node),
            receive=self._received,
        )
        wire.on_puback = lambda: self.session.broker_answered(self._clock.now_s())
        self._wire = wire
        try:
            self._perform(self.session.connected(number, self._clock.now_s()))
            await wire.lost
        finally:
            self._wire, self.agreed = None, False
            if self.session.state is not EdgeState.DOWN:
                self._perform(self.session.lost())
            wire.transport.abort()

    def tick(self, now_s: float) -> None:
        """Do what is due; ask the cloud whether it agrees when everything seems said."""
        session = self.session
        due_s = session.due_s()
        if due_s is not None and due_s <= now_s:
            self._perform(session.tick(now_s))
        exchange = session.exchange
        if exchange is None or self.agreed or now_s < self._probe_due_s:
            return
        if exchange.idle and self.room.empty:
            self._probe_due_s = now_s + PROBE_S
            self._perform([Send(exchange.frame(Ping(digest.root(self.room.held()))), 0)])

    def report(self, count: int) -> None:
        self.agreed = False
        self.room.report(count)
        self._perform(self.session.wake(self._clock.now_s()))

    def _received(self, payload: bytes) -> None:
        if self._wire is None:
            return
        frame = codec.decode(payload, max_bytes=self._settings.frame_bytes)
        self._perform(self.session.receive(frame, self._clock.now_s()))
        exchange = self.session.exchange
        if exchange is None or (frame.epoch, frame.tag) != (exchange.epoch, exchange.tag):
            return
        if isinstance(frame.body, Pong) and frame.body.statuses:
            whole = all(any(key.startswith(need) for key in self.room.objects) for need in NEEDED)
            self.agreed = whole and exchange.idle and frame.body.statuses == digest.root(self.room.expected())
        elif isinstance(frame.body, Ask) and frame.body.inventory is Inventory.HELD:
            self.agreed = False  # the cloud thinks that this edge should hold something else

    def _perform(self, effects: list[Effect]) -> None:
        wire = self._wire
        for effect in effects:
            if isinstance(effect, Send) and wire is not None:
                wire.publish(topics.up(self.node), codec.encode(effect.frame), qos=effect.qos)
            elif isinstance(effect, Announce) and wire is not None:
                wire.publish(topics.presence(self.node), codec.encode_presence(effect.presence), retain=True)
            elif isinstance(effect, Deliver):
                self._deliver(effect)
            elif isinstance(effect, Settled):
                self.room.settle(effect)
            elif isinstance(effect, Differ):
                self.room.dirty.update(dict.fromkeys(key for key in effect.keys if key in self.room.statuses))
                self._perform(self.session.wake(self._clock.now_s()))
            else:
                self._note(effect)

    def _note(self, effect: Effect) -> None:
        if isinstance(effect, Adopt):
            self._perform(self.session.adopted(self._clock.now_s()))
        elif isinstance(effect, Opened):
            self.sessions += 1
            self.last_error = ""
            self.agreed, self._probe_due_s = False, 0.0
            self._backoff.reset()
        elif isinstance(effect, Drop):
            self._pause_s = effect.pause_s
            if self._wire is not None:
                self._wire.transport.abort()

    def _deliver(self, effect: Deliver) -> None:
        fresh = not any("/devices/" in key for key in self.room.objects)
        self.room.apply(effect.changes)
        if fresh:
            self.room.report(0)  # a device that was just declared gets its first status
        self._perform(self.session.committed(effect.epoch, effect.state_seq, effect.messages, self._clock.now_s()))


def register(room: Room) -> None:
    """Put what an edge says at its first start: its Node, and the Node's status."""
    labels = {"kubernetes.io/hostname": room.node, "node-role.kubernetes.io/edge": ""}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": room.node, "labels": labels}, "spec": {}}
    room.put_message("register", canonical.encode(node))
    addresses = [{"type": "Hostname", "address": room.node}]
    conditions = [{"type": "Ready", "status": "True", "reason": "EdgeReady", "message": "simulated"}]
    status = {"addresses": addresses, "conditions": conditions, "nodeInfo": {"kubeletVersion": "v0.0.0"}}
    room.put_status(str(ObjectKey("", "nodes", "", room.node)), "", status)


async def run_all(edges: list[BenchEdge], clock: Clock) -> None:
    """Run every edge, and the timers of all of them, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for edge in edges:
            group.create_task(edge.run())
        while True:
            await clock.sleep(TICK_S)
            now_s = clock.now_s()
            for edge in edges:
                edge.tick(now_s)
