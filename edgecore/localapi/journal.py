"""Offline writes at the node: each is in the journal from the transaction that stored it until the cloud has answered.

While a key has writes that wait, what the state lane brings for it is parked, so that the local version stays visible; the
last answer puts the cloud's version in its place. Everything here runs in the writer thread, inside somebody's transaction.
"""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from edgecore.kinds import WRITE_CONFLICT
from edgecore.localapi.changes import cloudly, marked, write_of
from edgecore.localapi.refusals import Refusals
from kubeapi.access import INTERNAL, User
from kubeapi.errors import ApiError, too_large
from kubeapi.recording import Change
from proto import labels, writes
from proto.kit import canonical
from proto.kit.clock import Clock, rfc3339
from proto.kit.database import Database, Tx
from proto.kit.errors import MalformedMessage, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.outbox import Outbox
from proto.link.replica import MessageRow
from proto.writes import Write, WriteResult

SCHEMA = """
CREATE TABLE IF NOT EXISTS pending_write (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, body BLOB NOT NULL,
  outcome TEXT NOT NULL DEFAULT '',   -- '' waits for the cloud; conflict | refused: kept for a person
  reason TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', conflict TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS pending_write_key ON pending_write (key, outcome);
CREATE TABLE IF NOT EXISTS pending_parked (
  key TEXT PRIMARY KEY, body BLOB     -- the newest that the cloud said; NULL: it has no such object
) STRICT;
CREATE TABLE IF NOT EXISTS pending_journal (id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL) STRICT;
INSERT OR IGNORE INTO pending_journal VALUES (1, lower(hex(randomblob(5))));
CREATE TABLE IF NOT EXISTS pending_alias (
  key TEXT PRIMARY KEY, uid TEXT NOT NULL, journal TEXT NOT NULL, seq INTEGER NOT NULL, cloud_uid TEXT NOT NULL DEFAULT ''
) STRICT;
"""
LOCAL = frozenset({"coordination.k8s.io/leases"})  # elections at a node are the node's own (LOCAL-9)
ALIASED = frozenset({"core/pods"})  # what runs under its uid keeps it (LOCAL-8)
ASK_AGAIN_S = 600.0
WAITING = "SELECT seq, body FROM pending_write WHERE outcome = '' ORDER BY seq"
MAX_WAITING = 20_000  # writes; more are refused: a month of work by hand, and some 20 MB

log = Logger("offline-writes")
Show = Callable[[Tx, str, "bytes | None"], None]
Adopt = Callable[[Tx, str, dict[str, Any]], None]


class Journal:
    """``record`` is the Objects' hook; ``park``, ``localize`` and ``answered`` are called by the link's replica."""

    def __init__(self, node: str, refusals: Refusals, *, clock: Clock, metrics: Metrics, waiting: int = 0) -> None:
        self.waiting = waiting
        self.adopted: Callable[[], None] = lambda: None  # the cloud knows a pod that was created here; after the commit
        self.adopt: Adopt = lambda _tx, _key, _obj: None  # told of each object of the cloud before it is stored
        self._node, self._refusals, self._clock = node, refusals, clock
        self._answers = metrics.counter(
            "skerry_edge_writes_answered_total",
            "Writes at the node-local API that the cloud has answered",
            ("outcome",),
        )
        metrics.gauge(
            "skerry_edge_writes_waiting", "Writes that wait for the cloud's answer", source=lambda: self.waiting
        )

    def connect(self, outbox: Outbox, show: Show) -> None:
        """Say where messages go, and who makes the store show what the cloud says of a key; before anything else."""
        self._outbox, self._show = outbox, show

    # at the node-local API

    def record(self, tx: Tx, change: Change) -> dict[str, Any] | None:
        """Keep a change for the cloud; returns the object with the sign of it. Raises 413, 429, StorageFull."""
        user = change.opts.user
        if change.res.storage in LOCAL or not isinstance(user, User) or user is INTERNAL:
            return None
        self._refusals.forget(tx, change)
        write = write_of(change, rfc3339(self._clock.wall()))
        if write is None:
            return None
        if self.waiting >= MAX_WAITING:
            text = f"{MAX_WAITING} writes wait for the cloud already; connect this node first"
            raise ApiError(429, "TooManyRequests", text, {"retryAfterSeconds": 60})
        self._remember_cloud(tx, write.key, change)
        self._append(tx, write)
        aliased = change.res.storage in ALIASED
        if write.verb == writes.CREATE and aliased:
            uid = change.after["metadata"]["uid"]
            tx.execute(
                "INSERT OR REPLACE INTO pending_alias (key, uid, journal, seq) VALUES (?, ?, ?, ?)",
                (write.key, uid, write.journal, write.seq),
            )
        return marked(change, write.seq, aliased=aliased)

    def _remember_cloud(self, tx: Tx, key: str, change: Change) -> None:
        """At the first write since the last answer, what is stored is what the cloud said."""
        body = None
        if change.before is not None:
            body = canonical.encode(cloudly(change.before, status="status" not in change.res.subresources))
        tx.execute("INSERT OR IGNORE INTO pending_parked (key, body) VALUES (?, ?)", (key, body))

    def _append(self, tx: Tx, write: Write) -> None:
        (write.seq,) = tx.execute(
            "INSERT INTO pending_write (key, body) VALUES (?, x'') RETURNING seq", (write.key,)
        ).fetchone()
        (write.journal,) = tx.execute("SELECT name FROM pending_journal").fetchone()
        body = writes.encode(write)
        tx.execute("UPDATE pending_write SET body = ? WHERE seq = ?", (body, write.seq))
        try:
            self._outbox.put_message(tx, writes.KIND, body)
        except Terminal as error:
            raise too_large(self._outbox.settings.object_bytes) from error
        tx.after_commit(lambda: self._count(+1))

    def _count(self, by: int) -> None:
        self.waiting += by

    async def run(self, db: Database, connected: Callable[[], bool]) -> None:
        """Ask again about writes that the cloud has and does not answer: it was restored, or had no room for answers."""
        asked = 0  # newest write that waited at the last look
        while True:
            await self._clock.sleep(ASK_AGAIN_S)
            floor, last = self._outbox.bounds()
            if not connected() or floor != last:
                continue
            found = db.read(lambda conn: conn.execute(WAITING).fetchall())
            old = [body for seq, body in found if seq <= asked]
            asked = max((seq for seq, _ in found), default=0)
            if old:
                log.info("writes are sent again", writes=len(old))
                await db.tx(lambda tx, old=old: self._send_again(tx, old))  # type: ignore[misc]

    def _send_again(self, tx: Tx, bodies: list[bytes]) -> None:
        for body in bodies:
            self._outbox.put_message(tx, writes.KIND, body)

    # from the cloud

    def park(self, tx: Tx, key: str, body: bytes | None) -> bool:
        """Keep what the cloud says of ``key`` aside while writes of it wait; whether it was kept."""
        if body is None and key.startswith(f"{WRITE_CONFLICT.storage}/"):  # dropped in the cloud
            self._refusals.drop(tx, key.removeprefix(f"{WRITE_CONFLICT.storage}/"))
        found = tx.execute("UPDATE pending_parked SET body = ? WHERE key = ?", (body, key))
        if found.rowcount == 0 and body is None:
            tx.execute("DELETE FROM pending_alias WHERE key = ?", (key,))
        return found.rowcount > 0

    def localize(self, tx: Tx, key: str, obj: dict[str, Any]) -> None:
        """Give a pod that was created here the uid that it runs under; its uid in the cloud becomes an annotation."""
        self.adopt(tx, key, obj)
        row = tx.execute("SELECT uid, journal, seq, cloud_uid FROM pending_alias WHERE key = ?", (key,)).fetchone()
        if row is None:
            return
        metadata = obj["metadata"]
        uid, journal, seq, known = row
        annotations = metadata.get("annotations") or {}
        if not known and writes.has_seen(obj, self._node, journal, seq):
            known = metadata["uid"]
            tx.execute("UPDATE pending_alias SET cloud_uid = ? WHERE key = ?", (known, key))
            tx.after_commit(self.adopted)
        if known != metadata.get("uid"):  # another pod of that name
            tx.execute("DELETE FROM pending_alias WHERE key = ?", (key,))
            return
        metadata["uid"] = uid
        metadata["annotations"] = {**annotations, labels.CLOUD_UID: known}

    def answered(self, tx: Tx, row: MessageRow) -> None:
        """Carry out a ``write-result``. Raises MalformedMessage."""
        result = writes.decode_result(row.body)
        found = tx.execute(
            "SELECT key, body FROM pending_write WHERE seq = ? AND outcome = ''", (result.seq,)
        ).fetchone()
        if found is None:  # answered before; this disk was restored, or the cloud repeats itself
            log.info("an answer to no write of ours", seq=result.seq)
            return
        key, body = found
        if result.key != key:
            raise MalformedMessage(f"an answer about {result.key} to write {result.seq} of {key}")
        write = writes.decode_write(body)
        if result.outcome == writes.APPLIED:
            tx.execute("DELETE FROM pending_write WHERE seq = ?", (result.seq,))
            self._take(tx, write, result)
        else:
            tx.execute(
                "UPDATE pending_write SET outcome = ?, reason = ?, message = ?, conflict = ? WHERE seq = ?",
                (result.outcome, result.reason, result.message, result.conflict, result.seq),
            )
            self._refusals.keep(tx, write, result)
        tx.after_commit(lambda: self._told(result))
        if tx.execute("SELECT 1 FROM pending_write WHERE key = ? AND outcome = ''", (key,)).fetchone() is None:
            self._unpark(tx, key)

    def _take(self, tx: Tx, write: Write, result: WriteResult) -> None:
        """Make the cloud's object after our write the parked one, unless what is parked has seen the write already."""
        row = tx.execute("SELECT body FROM pending_parked WHERE key = ?", (write.key,)).fetchone()
        parked = json.loads(row[0]) if row is not None and row[0] is not None else None
        if parked is not None:
            metadata = parked["metadata"]
            if write.verb == writes.DELETE and write.uid and metadata.get("uid") not in (write.uid, _uid(result)):
                return  # made again since
            if write.verb != writes.DELETE and writes.has_seen(parked, self._node, write.journal, write.seq):
                return
        now = None if result.object is None else canonical.encode(cloudly(result.object, status=False))
        tx.execute("UPDATE pending_parked SET body = ? WHERE key = ?", (now, write.key))

    def _unpark(self, tx: Tx, key: str) -> None:
        row = tx.execute("DELETE FROM pending_parked WHERE key = ? RETURNING body", (key,)).fetchone()
        if row is None:
            return
        if row[0] is None:
            tx.execute("DELETE FROM pending_alias WHERE key = ?", (key,))
        self._show(tx, key, row[0])

    def _told(self, result: WriteResult) -> None:
        self._count(-1)
        self._answers.inc(result.outcome)
        if result.outcome != writes.APPLIED:
            log.warning("write not applied", seq=result.seq, key=result.key, outcome=result.outcome, why=result.message)


def _uid(result: WriteResult) -> str:
    return str((result.object or {}).get("metadata", {}).get("uid", ""))


def waiting(conn: sqlite3.Connection) -> int:
    """Return how many writes wait for the cloud, as of the last commit."""
    (found,) = conn.execute("SELECT count(*) FROM pending_write WHERE outcome = ''").fetchone()
    return int(found)
