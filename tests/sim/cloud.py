"""The cloud in virtual time: the product's machines, judge and log functions over a simulated disk, API and network."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proto import digest, gap
from proto.frames import GAP, Frame, Hello, Mark, Presence
from proto.kit import canonical
from proto.kit.database import Tx
from proto.link import sqlite_log
from proto.link.feeds import CloudOutlet
from proto.link.replica import MessageRow, NotSynced, StateChange
from proto.session import (
    Alarm,
    CloudState,
    Confirm,
    Deliver,
    Differ,
    Effect,
    Ended,
    Fenced,
    Judge,
    Send,
    Settled,
)
from proto.session_cloud import CloudSession
from tests.sim.world import ActorClock, Store, Wire, copy_of, disk

if TYPE_CHECKING:
    from tests.sim.scenario import Scenario

SCHEMA = (
    sqlite_log.SCHEMA
    + """
CREATE TABLE t_history (
    n INTEGER PRIMARY KEY, node TEXT, incarnation TEXT, seq INTEGER, kind TEXT, body BLOB, epoch INTEGER
);
"""
)


@dataclass
class Api:
    """The Kubernetes API: it outlives the cloud's process and disk."""

    objects: dict[str, dict[str, bytes]] = field(default_factory=dict)
    statuses: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revision: int = 0


@dataclass
class Peer:
    node: str
    session: CloudSession
    outlet: CloudOutlet
    states: list[Deliver] = field(default_factory=list)
    messages: list[Deliver] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    tick_at: float = float("inf")


class SimCloud:
    """cloudcore: one process over one disk."""

    def __init__(self, scenario: "Scenario") -> None:
        self.scenario = scenario
        self.world = scenario.world
        self.net = scenario.net
        self.api = Api()
        self.conn = disk(SCHEMA)
        self.backup: sqlite3.Connection | None = None
        self.running = False
        self.boots = 0
        self.wire: Wire | None = None
        self.alarms: list[str] = []
        self.restores = 0

    # process

    def boot(self) -> None:
        if self.running:
            return
        self.running = True
        self.boots += 1
        self.clock = ActorClock(self.world)
        self.store = Store(self.world, self.conn, self.crash)
        self.peers: dict[str, Peer] = {}
        self.synced = False
        self.cloud = ""
        boot = self.boots
        self.world.at(self.world.rng.uniform(0.1, 1.5), lambda: self._listed(boot))
        self.store.submit(sqlite_log.incarnation, self._started)

    def _started(self, cloud: str) -> None:
        self.cloud = cloud
        self._dial(self.boots)

    def _listed(self, boot: int) -> None:
        if self.running and self.boots == boot:
            self.synced = True
            for peer in self.peers.values():
                self.perform(peer, peer.session.wake(self.clock.now_s()))

    def crash(self) -> None:
        if not self.running:
            return
        self.world.note("cloud crashes")
        self.running = False
        self.store.alive = False
        if self.wire is not None:
            wire, self.wire = self.wire, None
            wire.on_lost = lambda: None
            self.net.cut(wire)
        self.world.at(self.world.rng.uniform(0.2, 2.0), self.boot)

    def save(self) -> None:
        self.backup = copy_of(self.conn)

    def restore(self) -> None:
        """Stop, put the backup in place, tell the log that it was restored, start."""
        if self.backup is None:
            return
        self.crash()
        self.world.note("cloud restored from a backup")
        self.restores += 1
        self.conn = copy_of(self.backup)
        tx = Tx(self.conn)
        self.conn.execute("BEGIN")
        self.scenario.renew(tx)
        self.conn.execute("COMMIT")

    def _dial(self, boot: int) -> None:
        if not self.running or self.boots != boot or self.wire is not None:
            return
        wire = Wire("cloudcore", self._frame, lambda: self._lost(boot))
        if self.net.connect(wire):
            self.wire = wire
            self.net.subscribe_cloud(wire)
        else:
            self.world.at(self.world.rng.uniform(0.05, 1.0), lambda: self._dial(boot))

    def _lost(self, boot: int) -> None:
        if self.running and self.boots == boot:
            self.wire = None
            self.world.at(self.world.rng.uniform(0.02, 0.5), lambda: self._dial(boot))

    def _frame(self, leg: str, node: str, payload: Any) -> None:
        if not self.running or not self.cloud:
            return
        peer = self.peers.get(node)
        if peer is None:
            outlet = CloudOutlet(node, self)
            session = self.scenario.make_cloud_session(node, self.cloud, outlet, self.scenario.settings, self.world.rng)
            peer = self.peers[node] = Peer(node, session, outlet)
        now_s = self.clock.now_s()
        if leg == "presence":
            assert isinstance(payload, Presence)
            self.perform(peer, peer.session.presence(payload, now_s))
        else:
            assert isinstance(payload, Frame)
            effects = peer.session.receive(payload, now_s)
            self.scenario.checks.frame_taken(node, payload.epoch, effects)
            self.perform(peer, effects)

    # CloudReplica

    def wanted(self, node: str) -> Mapping[str, bytes]:
        if not self.synced:
            raise NotSynced("listing")
        return {key: digest.object_digest(body) for key, body in self.api.objects.get(node, {}).items()}

    def body(self, node: str, key: str) -> bytes | None:
        return self.api.objects.get(node, {}).get(key) if self.synced else None

    def status_digests(self, node: str) -> Mapping[str, bytes]:
        return {key: digest.status_digest(body) for key, body in self.api.statuses.get(node, {}).items()}

    async def apply_statuses(self, node: str, changes: Any) -> None: ...
    async def apply_messages(self, node: str, incarnation: str, rows: Any) -> None: ...
    async def connected(self, node: str, epoch: int) -> None: ...
    async def lost(self, node: str, epoch: int) -> None: ...
    async def fenced(self, node: str, reason: str) -> None: ...

    # what CloudLink does

    def perform(self, peer: Peer, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.scenario.checks.cloud_sent(peer.node, effect.frame.body)
                if self.wire is not None:
                    self.net.publish(self.wire, "down", peer.node, effect.frame)
            elif isinstance(effect, Deliver):
                if effect.changes:
                    peer.states.append(effect)
                    self._run_states(peer)
                if effect.messages:
                    peer.messages.append(effect)
                    self._run_messages(peer)
            elif isinstance(effect, Settled):
                self._settle(peer, effect)
            elif isinstance(effect, Differ):
                peer.outlet.dirty.update(dict.fromkeys(effect.keys))
                self.perform(peer, peer.session.wake(self.clock.now_s()))
            elif isinstance(effect, Judge):
                self._judge(peer, effect.hello)
            elif isinstance(effect, Confirm):
                self._confirm(peer, effect)
            elif isinstance(effect, Ended):
                self.scenario.checks.session_ended(peer.node, peer.session.connection, effect)
                peer.states.clear()
                peer.messages.clear()
            elif isinstance(effect, Alarm):
                self.alarms.append(peer.node)
        if peer.outlet.starving and peer.session.state is CloudState.LIVE:
            peer.outlet.starving = False
            rows = sqlite_log.pending(self.conn, peer.node, peer.outlet.position, 100, 1 << 20)
            if rows:
                peer.outlet.offer(rows)
                self.perform(peer, peer.session.wake(self.clock.now_s()))
        self._arm(peer)

    def _arm(self, peer: Peer) -> None:
        due = peer.session.due_s()
        if due is None:
            return
        at = self.world.now + max(due - self.clock.now_s(), 0.001)
        if at < peer.tick_at:
            peer.tick_at = at
            boot = self.boots
            self.world.at(at - self.world.now, lambda: self._tick(peer, at, boot))

    def _tick(self, peer: Peer, at: float, boot: int) -> None:
        if self.running and self.boots == boot and peer.tick_at == at:
            peer.tick_at = float("inf")
            self.perform(peer, peer.session.tick(self.clock.now_s()))

    def _judge(self, peer: Peer, hello: Hello) -> None:
        def work(tx: Tx) -> Any:
            try:
                record = sqlite_log.update(tx, peer.node, lambda r: self.scenario.judge(r, hello, self.cloud))
            except Fenced as error:
                return error
            mark = self.scenario.mark(tx, peer.node, hello.incarnation)
            if hello.floor > mark:
                body = gap.encode(gap.Gap(mark + 1, hello.floor, "restored"))
                self._insert(tx, peer.node, hello.incarnation, record.granted, MessageRow(hello.floor, GAP, body))
                sqlite_log.advance(tx, peer.node, hello.incarnation, hello.floor)
                mark = hello.floor
            bases = sqlite_log.bases(tx, peer.node)
            for seen in hello.marks:
                if bases.get(seen.lineage, seen.seq) < seen.seq:
                    sqlite_log.ack(tx, peer.node, seen.lineage, seen.seq)
                    bases[seen.lineage] = seen.seq
            return record, mark, [Mark(*item) for item in bases.items()]

        def then(found: Any) -> None:
            if isinstance(found, Fenced):
                self.perform(peer, peer.session.fenced(hello, str(found)))
                return
            record, mark, bases = found
            root = digest.root(self.status_digests(peer.node))
            self.perform(peer, peer.session.granted(hello, record.granted, mark, bases, root, self.clock.now_s()))

        self.store.submit(work, then)

    def _confirm(self, peer: Peer, wanted: Confirm) -> None:
        self.store.submit(
            lambda tx: sqlite_log.update(
                tx, peer.node, lambda r: self.scenario.confirm(r, wanted.incarnation, wanted.epoch)
            ),
            lambda _: self.perform(peer, peer.session.confirmed(wanted.epoch, self.clock.now_s())),
        )

    def _run_states(self, peer: Peer) -> None:
        batch = [d for d in peer.states if d.epoch == peer.session.epoch]
        if not batch or "states" in peer.running:
            return
        peer.running.add("states")
        boot, epoch = self.boots, batch[0].epoch

        def write() -> None:
            if not self.running or self.boots != boot:
                return
            for change in {c.key: c for d in batch for c in d.changes}.values():
                self.scenario.write_status(self, peer.node, change, epoch)
            peer.running.discard("states")
            self._done(peer, peer.states, batch, batch[-1].state_seq)
            self._run_states(peer)

        self.world.at(self.world.rng.uniform(0.002, 0.02), write)

    def _run_messages(self, peer: Peer) -> None:
        batch = [d for d in peer.messages if d.epoch == peer.session.epoch]
        if not batch or "messages" in peer.running:
            return
        peer.running.add("messages")
        rows = [row for d in batch for m in d.messages for row in m.rows]
        edge, epoch = peer.session.incarnation, batch[0].epoch

        def work(tx: Tx) -> None:
            self.scenario.store_messages(self, tx, peer.node, edge, epoch, rows)

        def then(_: None) -> None:
            peer.running.discard("messages")
            self._done(peer, peer.messages, batch, 0)
            self._run_messages(peer)

        self.store.submit(work, then)

    def _insert(self, tx: Tx, node: str, edge: str, epoch: int, row: MessageRow) -> None:
        tx.execute(
            "INSERT INTO t_history (node, incarnation, seq, kind, body, epoch) VALUES (?, ?, ?, ?, ?, ?)",
            (node, edge, row.seq, row.kind, row.body, epoch),
        )

    def _done(self, peer: Peer, queue: list[Deliver], batch: list[Deliver], state_seq: int) -> None:
        if queue and queue[0] is batch[0]:
            del queue[: len(batch)]
        messages = [m for d in batch for m in d.messages]
        self.perform(peer, peer.session.committed(batch[0].epoch, state_seq, messages, self.clock.now_s()))

    def _settle(self, peer: Peer, effect: Settled) -> None:
        for flight in effect.flights:
            if flight.token is None:
                lineage, end = flight.lineage, flight.end
                self.store.submit(lambda tx, lin=lineage, seq=end: sqlite_log.ack(tx, peer.node, lin, seq))  # type: ignore[misc]

    # what people do

    def put(self, node: str, key: str, *, gone: bool = False) -> None:
        """Change or delete a desired object in the API."""
        objects = self.api.objects.setdefault(node, {})
        self.api.revision += 1
        if gone:
            objects.pop(key, None)
        else:
            objects[key] = canonical.encode(
                {"kind": "Thing", "metadata": {"name": key}, "spec": {"rev": self.api.revision}}
            )
        peer = self.peers.get(node) if self.running else None
        if peer is not None and self.synced and peer.session.state is CloudState.LIVE:
            peer.outlet.dirty[key] = None
            self.perform(peer, peer.session.wake(self.clock.now_s()))

    def command(self, node: str) -> None:
        """Send one command; what commits is in the ledger."""
        if not self.running:
            return
        body = f"c{self.restores}.{self.api.revision}.{self.world.rng.randrange(1 << 40)}".encode()

        def then(_: Any) -> None:
            self.scenario.checks.commands.setdefault(node, []).append(body)
            peer = self.peers.get(node)
            if peer is not None:
                peer.outlet.starving = True
                self.perform(peer, peer.session.wake(self.clock.now_s()))

        self.store.submit(lambda tx: sqlite_log.append(tx, node, "command", body, 0), then)


def newer(old: bytes | None, change: StateChange) -> bool:
    """Whether a status may replace what the API has: by uid and version."""
    assert change.body is not None
    if old is None:
        return True
    before, after = canonical.decode(old), canonical.decode(change.body)
    return bool(before["uid"] != after["uid"] or before["version"] < after["version"])
