"""An edge in virtual time: the product's machine, outbox and inbox over a simulated disk and network."""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from proto.frames import Presence
from proto.kit import canonical
from proto.kit.database import Tx
from proto.kit.metrics import Metrics
from proto.link import edge as link
from proto.link import edge_store, inbox
from proto.link.feeds import EdgeOutlet
from proto.link.replica import MessageRow, StateChange
from proto.session import Adopt, Announce, Deliver, Differ, Drop, EdgeState, Effect, Ended, Send, Settled
from proto.session_edge import NONCES, EdgeSession
from tests.sim.world import ActorClock, Store, Wire, disk

if TYPE_CHECKING:
    from tests.sim.scenario import Scenario

SCHEMA = (
    link.SCHEMA
    + """
CREATE TABLE t_held (key TEXT PRIMARY KEY, digest BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE t_got (n INTEGER PRIMARY KEY, seq INTEGER, body BLOB);
CREATE TABLE t_ledger (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE t_status (key TEXT PRIMARY KEY, version INTEGER NOT NULL, body BLOB NOT NULL);
"""
)


class SimReplica:
    """EdgeReplica over the disk."""

    def __init__(self, owner: "SimEdge") -> None:
        self.owner = owner

    def held(self) -> Mapping[str, bytes]:
        return dict(self.owner.conn.execute("SELECT key, digest FROM t_held").fetchall())

    def apply(self, tx: Tx, changes: Sequence[StateChange]) -> None:
        for change in changes:
            if change.body is None:
                tx.execute("DELETE FROM t_held WHERE key = ?", (change.key,))
            else:
                tx.execute("INSERT OR REPLACE INTO t_held VALUES (?, ?, ?)", (change.key, change.digest, change.body))
            self.owner.scenario.checks.edge_applied(self.owner, tx, change)

    def apply_messages(self, tx: Tx, rows: Sequence[MessageRow]) -> None:
        for row in rows:
            tx.execute("INSERT INTO t_got (seq, body) VALUES (?, ?)", (row.seq, row.body))

    def statuses(self) -> Mapping[str, bytes]:
        return dict(self.owner.conn.execute("SELECT key, body FROM t_status").fetchall())


class SimEdge:
    """One machine with one disk; ``boot`` and ``crash`` as often as the scenario likes."""

    def __init__(self, scenario: "Scenario", node: str, tag: str, conn: sqlite3.Connection | None = None) -> None:
        self.scenario = scenario
        self.world = scenario.world
        self.net = scenario.net
        self.node = node
        self.tag = tag  # which machine wrote a row; the copy of a disk writes another
        self.conn = conn if conn is not None else disk(SCHEMA)
        self.running = False
        self.wire: Wire | None = None
        self.boots = 0
        self.number = 0

    # process

    def boot(self) -> None:
        if self.running or self.scenario.ended.get(self.tag):
            return
        self.running = True
        self.boots += 1
        self.clock = ActorClock(self.world)
        self.store = Store(self.world, self.conn, self.crash)
        self.replica = SimReplica(self)
        settings = self.scenario.settings
        self.outbox = self.scenario.make_outbox(settings, clock=self.clock, metrics=Metrics(), read=self.store.read)
        self.outbox.wake = self._wake
        self.waking = False
        self.inbound: list[Deliver] = []
        self.settled: list[Settled] = []
        self.differing: list[str] = []
        self.tick_at = float("inf")
        self.busy = False
        self.session: EdgeSession | None = None
        self.store.submit(inbox.identity, self._identified)

    def _identified(self, identity: Any) -> None:
        outlet = EdgeOutlet(self.outbox, self.replica, lambda: inbox.marks(self.conn))
        self.session = self.scenario.make_edge_session(identity, outlet, self.scenario.settings, self.world.rng)
        self._dial()

    def crash(self) -> None:
        """Lose everything that is not on the disk; come back soon."""
        if not self.running:
            return
        self.world.note(f"{self.tag} crashes")
        self.running = False
        self.store.alive = False
        if self.wire is not None:
            wire, self.wire = self.wire, None
            wire.on_lost = lambda: None
            self.net.cut(wire)
        if not self.scenario.ended.get(self.tag):
            self.world.at(self.world.rng.uniform(0.2, 3.0), self.boot)

    def _dial(self) -> None:
        boot = self.boots
        if not self.running or self.session is None:
            return
        number = self.world.rng.randrange(1, NONCES)
        wire = Wire(self.node, self._frame, lambda: self._lost(wire, boot))
        wire.will = (self.node, Presence(False, number, self.session.identity.epoch))
        if self.net.connect(wire):
            self.wire = wire
            self.perform(self.session.connected(number, self.clock.now_s()))
        else:
            self.world.at(self.world.rng.uniform(0.05, 1.0), lambda: self._redial(boot))

    def _redial(self, boot: int) -> None:
        if self.running and self.boots == boot and self.wire is None:
            self._dial()

    def _lost(self, wire: Wire, boot: int) -> None:
        if self.running and self.boots == boot and self.wire is wire and self.session is not None:
            self.wire = None
            self.perform(self.session.lost())
            self.world.at(self.world.rng.uniform(0.02, 1.0), lambda: self._redial(boot))

    def _frame(self, leg: str, node: str, payload: Any) -> None:
        if self.running and self.session is not None and self.session.state is not EdgeState.DOWN:
            effects = self.session.receive(payload, self.clock.now_s())
            self.scenario.checks.frame_taken(self.tag, payload.epoch, effects)
            self.perform(effects)

    def _wake(self) -> None:
        if not self.waking and self.session is not None:
            self.waking = True
            boot = self.boots
            self.world.at(0.0, lambda: self._woken(boot))

    def _woken(self, boot: int) -> None:
        if self.running and self.boots == boot and self.session is not None:
            self.waking = False
            self.perform(self.session.wake(self.clock.now_s()))

    def _tick(self, at: float, boot: int) -> None:
        if self.running and self.boots == boot and self.tick_at == at and self.session is not None:
            self.tick_at = float("inf")
            self.perform(self.session.tick(self.clock.now_s()))

    # what EdgeLink does

    def perform(self, effects: list[Effect]) -> None:
        session, now_s = self.session, self.clock.now_s()
        assert session is not None
        work = False
        for effect in effects:
            if isinstance(effect, Send):
                if self.wire is not None:
                    self.net.publish(self.wire, "up", self.node, effect.frame)
            elif isinstance(effect, Deliver):
                self.inbound.append(effect)
            elif isinstance(effect, Settled):
                self.settled.append(effect)
                work = True
            elif isinstance(effect, Differ):
                self.differing += effect.keys
                work = True
            elif isinstance(effect, Adopt):
                self.store.submit(partial(self._adopt, effect), self._adopted)
            elif isinstance(effect, Announce) and self.wire is not None:
                self.net.publish(self.wire, "presence", self.node, effect.presence)
            elif isinstance(effect, Ended):
                self.inbound.clear()
            elif isinstance(effect, Drop) and self.wire is not None:
                wire, self.wire = self.wire, None
                self.net.cut(wire)
                self.perform(session.lost())
                boot, pause_s = self.boots, effect.pause_s
                self.world.at(pause_s + self.world.rng.uniform(0.02, 1.0), partial(self._redial, boot))
        if work:
            self._store_work()
        if self.inbound and not self.busy:
            self._apply()
        due = session.due_s()
        if due is not None:
            at = self.world.now + max(due - now_s, 0.001)
            if at < self.tick_at:
                self.tick_at = at
                boot = self.boots
                self.world.at(at - self.world.now, lambda: self._tick(at, boot))

    def _adopt(self, adopt: Adopt, tx: Tx) -> None:
        self.scenario.adopt(tx, adopt.epoch, adopt.welcome)
        self.outbox.settle(tx, (), adopt.welcome.mark)

    def _adopted(self, _: None) -> None:
        if self.session is not None:
            self.perform(self.session.adopted(self.clock.now_s()))

    def _apply(self) -> None:
        batch, self.inbound = self.inbound, []
        self.busy = True
        self.store.submit(lambda tx: self.scenario.edge_apply(tx, self.replica, batch), lambda _: self._applied(batch))

    def _applied(self, batch: list[Deliver]) -> None:
        self.busy = False
        if self.session is not None:
            state_seq = max(deliver.state_seq for deliver in batch)
            messages = [m for deliver in batch for m in deliver.messages]
            self.perform(self.session.committed(batch[-1].epoch, state_seq, messages, self.clock.now_s()))

    def _store_work(self) -> None:
        settled, self.settled = self.settled, []
        keys, self.differing = self.differing, []
        statuses = self.replica.statuses() if keys else {}

        def work(tx: Tx) -> None:
            self.scenario.edge_settle(tx, self.outbox, settled)
            edge_store.repair(tx, self.outbox, keys, statuses)

        self.store.submit(work)

    # what devices do

    def put(self, count: int) -> None:
        """A device reports ``count`` times; what commits is in the ledger."""
        if not self.running:
            return
        bodies = []
        for _ in range(count):
            self.number += 1
            bodies.append(f"{self.tag}:{self.boots}:{self.number}".encode())

        def work(tx: Tx) -> None:
            for body in bodies:
                seq = self.outbox.put_message(tx, "history", body)
                tx.execute("INSERT INTO t_ledger VALUES (?, ?)", (seq, body))

        self.store.submit(work)

    def report(self, key: str) -> None:
        """A device changes the status of ``key``."""
        if not self.running:
            return

        def work(tx: Tx) -> None:
            found = tx.execute("SELECT version FROM t_status WHERE key = ?", (key,)).fetchone()
            version = (found[0] if found else 0) + 1
            body = canonical.encode(
                {"uid": self.tag, "version": version, "status": {"at": self.clock.wall().timestamp()}}
            )
            tx.execute("INSERT OR REPLACE INTO t_status VALUES (?, ?, ?)", (key, version, body))
            self.outbox.put_state(tx, key, body)

        self.store.submit(work)

    def held_bodies(self) -> dict[str, bytes]:
        return dict(self.conn.execute("SELECT key, body FROM t_held").fetchall())

    def incarnation(self) -> str:
        row = self.conn.execute("SELECT incarnation FROM link_self").fetchone()
        return str(row[0]) if row else ""
