"""Both replicas in memory, with a ledger of what was applied, and a whole link over any broker."""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proto import digest
from proto.calls import OpenCall
from proto.kit import canonical
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.database import Database, Tx
from proto.kit.metrics import Metrics
from proto.link import edge as edge_module
from proto.link import inbox, sqlite_log
from proto.link.broker import Broker
from proto.link.cloud import CloudLink
from proto.link.edge import EdgeLink
from proto.link.log import CloudLog
from proto.link.replica import MessageRow, NotSynced, StateChange
from proto.link.settings import LinkSettings
from proto.link.sqlite_log import SqliteLog
from proto.link.streams import EdgeStreams

FAST = LinkSettings(
    keep_alive_s=2.0, reconnect_base_s=0.02, reconnect_cap_s=0.2, hello_base_s=0.1, resend_base_s=0.3, reserve_bytes=0
)
EDGE_STORE = """
CREATE TABLE IF NOT EXISTS t_held (key TEXT PRIMARY KEY, digest BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS t_got (n INTEGER PRIMARY KEY, seq INTEGER, kind TEXT, body BLOB);
CREATE TABLE IF NOT EXISTS t_status (key TEXT PRIMARY KEY, body BLOB NOT NULL);
"""
CLOUD_STORE = """
CREATE TABLE IF NOT EXISTS t_history (n INTEGER PRIMARY KEY, node TEXT, incarnation TEXT, seq INTEGER, kind TEXT, body BLOB);
CREATE TABLE IF NOT EXISTS t_api (node TEXT, key TEXT, body BLOB NOT NULL, PRIMARY KEY (node, key));
"""


def thing(name: str, **spec: Any) -> bytes:
    return canonical.encode({"kind": "Thing", "metadata": {"name": name}, "spec": spec})


def status(version: int, **fields: Any) -> bytes:
    return canonical.encode({"uid": "u", "version": version, "status": fields})


class StoreEdge:
    """EdgeReplica over tables of the edge's database."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def held(self) -> Mapping[str, bytes]:
        return dict(self.db.read(lambda c: c.execute("SELECT key, digest FROM t_held").fetchall()))

    def bodies(self) -> dict[str, bytes]:
        return dict(self.db.read(lambda c: c.execute("SELECT key, body FROM t_held").fetchall()))

    def apply(self, tx: Tx, changes: Sequence[StateChange]) -> None:
        for change in changes:
            if change.body is None:
                tx.execute("DELETE FROM t_held WHERE key = ?", (change.key,))
            else:
                tx.execute("INSERT OR REPLACE INTO t_held VALUES (?, ?, ?)", (change.key, change.digest, change.body))

    def apply_messages(self, tx: Tx, rows: Sequence[MessageRow]) -> None:
        for row in rows:
            tx.execute("INSERT INTO t_got (seq, kind, body) VALUES (?, ?, ?)", (row.seq, row.kind, row.body))

    def got(self) -> list[tuple[str, bytes]]:
        return self.db.read(lambda c: c.execute("SELECT kind, body FROM t_got ORDER BY n").fetchall())

    def statuses(self) -> Mapping[str, bytes]:
        return dict(self.db.read(lambda c: c.execute("SELECT key, body FROM t_status").fetchall()))


@dataclass
class StoreCloud:
    """CloudReplica over tables of the log's database, and objects in memory."""

    db: Database
    objects: dict[str, dict[str, bytes]] = field(default_factory=dict)
    synced: bool = True
    told: list[tuple[str, str, int]] = field(default_factory=list)
    alarms: list[tuple[str, str]] = field(default_factory=list)

    def wanted(self, node: str) -> Mapping[str, bytes]:
        if not self.synced:
            raise NotSynced("informers are listing")
        return {key: digest.object_digest(body) for key, body in self.objects.get(node, {}).items()}

    def body(self, node: str, key: str) -> bytes | None:
        return self.objects.get(node, {}).get(key)

    def status_digests(self, node: str) -> Mapping[str, bytes]:
        return {key: digest.status_digest(body) for key, body in self.statuses(node).items()}

    def statuses(self, node: str) -> dict[str, bytes]:
        return dict(self.db.read(lambda c: c.execute("SELECT key, body FROM t_api WHERE node = ?", (node,)).fetchall()))

    async def apply_statuses(self, node: str, changes: Sequence[StateChange]) -> None:
        def work(tx: Tx) -> None:
            for change in changes:
                found = tx.execute("SELECT body FROM t_api WHERE node = ? AND key = ?", (node, change.key)).fetchone()
                assert change.body is not None
                if found is None or canonical.decode(found[0])["version"] < canonical.decode(change.body)["version"]:
                    tx.execute("INSERT OR REPLACE INTO t_api VALUES (?, ?, ?)", (node, change.key, change.body))

        await self.db.tx(work)

    async def apply_messages(self, node: str, incarnation: str, rows: Sequence[MessageRow]) -> None:
        def work(tx: Tx) -> None:
            mark = sqlite_log.mark(tx, node, incarnation)
            for row in rows:
                if row.seq > mark:
                    tx.execute(
                        "INSERT INTO t_history (node, incarnation, seq, kind, body) VALUES (?, ?, ?, ?, ?)",
                        (node, incarnation, row.seq, row.kind, row.body),
                    )
            sqlite_log.advance(tx, node, incarnation, max(mark, rows[-1].seq))

        await self.db.tx(work)

    def history(self, node: str, kind: str = "history") -> list[bytes]:
        query = "SELECT body FROM t_history WHERE node = ? AND kind = ? ORDER BY n"
        return [row[0] for row in self.db.read(lambda c: c.execute(query, (node, kind)).fetchall())]

    async def connected(self, node: str, epoch: int) -> None:
        self.told.append(("connected", node, epoch))

    async def lost(self, node: str, epoch: int) -> None:
        self.told.append(("lost", node, epoch))

    async def fenced(self, node: str, reason: str) -> None:
        self.alarms.append((node, reason))


@dataclass
class Edge:
    node: str
    db: Database
    replica: StoreEdge
    link: EdgeLink
    tasks: Supervisor

    async def stop(self) -> None:
        await self.tasks.close()
        await self.db.close()

    async def put(self, *bodies: bytes, kind: str = "history") -> None:
        def work(tx: Tx) -> None:
            for body in bodies:
                self.link.outbox.put_message(tx, kind, body)

        await self.db.tx(work)

    async def report(self, key: str, body: bytes) -> None:
        def work(tx: Tx) -> None:
            tx.execute("INSERT OR REPLACE INTO t_status VALUES (?, ?)", (key, body))
            self.link.outbox.put_state(tx, key, body)

        await self.db.tx(work)


@dataclass
class Cloud:
    db: Database
    log: CloudLog
    replica: StoreCloud
    link: CloudLink
    tasks: Supervisor

    async def stop(self) -> None:
        await self.tasks.close()
        await self.db.close()

    def put(self, node: str, key: str, body: bytes | None) -> None:
        objects = self.replica.objects.setdefault(node, {})
        if body is None:
            objects.pop(key, None)
        else:
            objects[key] = body
        self.link.changed(node, key)


def start_edge(
    path: Path,
    broker: Broker,
    *,
    node: str = "gw-1",
    settings: LinkSettings = FAST,
    seed: int = 1,
    calls: OpenCall | None = None,
) -> Edge:
    db = Database.open(path, [edge_module.SCHEMA, EDGE_STORE])
    replica, clock = StoreEdge(db), SystemClock()
    link = EdgeLink(node, broker, db, replica, settings, clock=clock, rng=random.Random(seed), metrics=Metrics())
    if calls is not None:
        link.streams = EdgeStreams(calls, settings, clock=clock, metrics=Metrics())
    tasks = Supervisor(clock)
    tasks.spawn(link.run(), "edge link")
    return Edge(node, db, replica, link, tasks)


def start_cloud(path: Path, broker: Broker, *, settings: LinkSettings = FAST, client_id: str = "cloudcore") -> Cloud:
    db = Database.open(path, [sqlite_log.SCHEMA, CLOUD_STORE])
    replica, log = StoreCloud(db), SqliteLog(db)
    clock = SystemClock()
    link = CloudLink(
        broker, log, replica, settings, clock=clock, rng=random.Random(2), metrics=Metrics(), client_id=client_id
    )
    tasks = Supervisor(clock)
    tasks.spawn(link.run(), "cloud link")
    return Cloud(db, log, replica, link, tasks)


@asynccontextmanager
async def running(*parts: Edge | Cloud) -> AsyncIterator[None]:
    """Stop every part at the end, however the test ends."""
    try:
        yield
    finally:
        for part in parts:
            await part.stop()


__all__ = ["FAST", "Cloud", "Edge", "inbox", "running", "start_cloud", "start_edge", "status", "thing"]
