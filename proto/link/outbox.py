"""What the edge must not forget to send: statuses (newest per key) and messages (in order), in the edge's own database.

``put_*`` and ``settle`` run inside a caller's transaction (writer thread); everything else on the loop's thread.
"""

import sqlite3
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from proto import gap, writes
from proto.frames import GAP, Messages
from proto.kit.clock import Clock
from proto.kit.database import Tx
from proto.kit.errors import StorageFull, Terminal
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow, StateChange
from proto.link.settings import LinkSettings

SCHEMA = """
CREATE TABLE IF NOT EXISTS link_lane (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    state_seq  INTEGER NOT NULL,  -- newest number given to a status; never reused
    last       INTEGER NOT NULL,  -- newest message; never reused
    bytes      INTEGER NOT NULL,  -- of all waiting messages, with ROW_COST each
    elapsed_s  INTEGER NOT NULL   -- running time of this database: the age of rows does not depend on any wall clock
) STRICT;
INSERT OR IGNORE INTO link_lane VALUES (1, 0, 0, 0, 0);
CREATE TABLE IF NOT EXISTS link_state (
    key       TEXT PRIMARY KEY,
    seq       INTEGER NOT NULL,   -- changes at every replacement, so an acknowledgement of the old copy leaves the newer
    priority  INTEGER NOT NULL,
    body      BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS link_message (
    seq     INTEGER PRIMARY KEY,
    prev    INTEGER NOT NULL,     -- the row before this one: seq - 1, or for a gap row the row before the dropped ones
    kind    TEXT NOT NULL,
    born_s  INTEGER NOT NULL,     -- elapsed_s at its birth
    body    BLOB NOT NULL
) STRICT;
"""
ROW_COST = 64  # bytes that a row costs beside its body
PRUNE_RATIO = 0.02  # of the quota: drop a little more than needed, so that not every put drops
KEPT = (
    GAP,
    writes.KIND,
)  # never dropped by a quota: who writes at the node was promised an answer, and is bounded there
PRIORITY = 1
SETTLE_ROWS = 5_000  # forgotten in one transaction
FULL_DISK_ROWS = 100  # the same on a full disk: its log must fit into the reserve


@dataclass(slots=True)
class Pending:
    """What waits for the cloud."""

    states: int = 0
    messages: int = 0
    bytes: int = 0


class Outbox:
    """Durable outgoing rows. The link wakes after the commit of what was put."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        clock: Clock,
        metrics: Metrics,
        read: Callable[[Callable[[sqlite3.Connection], object]], object],
    ) -> None:
        self.settings = settings
        self.closed = ""  # why nothing may be put: the disk is full and its reserve is in use; "" = open
        self.wake: Callable[[], None] = lambda: None
        self.dirty: dict[str, int] = {}  # key -> priority of statuses that are committed and not sent in this session
        self._clock = clock
        self._opened_s = clock.now_s()
        self._read = read
        self._cursor = 0
        self._dropped = metrics.counter(
            "skerry_outbox_dropped_total",
            "Messages dropped by the declared policy; a gap row tells the cloud.",
            ["reason"],
        )
        self._elapsed_s, self._last = self._load()

    def _load(self) -> tuple[int, int]:
        def load(conn: sqlite3.Connection) -> tuple[int, int]:
            row: tuple[int, int] = conn.execute("SELECT elapsed_s, last FROM link_lane").fetchone()
            return row

        found = self._read(load)
        assert isinstance(found, tuple)
        return found

    # writing, in a transaction

    def put_state(self, tx: Tx, key: str, body: bytes, *, priority: int = PRIORITY) -> None:
        """Keep ``body`` as the newest status of ``key`` until the cloud has it. Lower ``priority`` is sent first.

        Raises StorageFull while the disk has no room, Terminal for a body over ``object_bytes``.
        """
        self._admit(body)
        (seq,) = tx.execute("UPDATE link_lane SET state_seq = state_seq + 1 RETURNING state_seq").fetchone()
        tx.execute(
            "INSERT INTO link_state (key, seq, priority, body) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
            " SET seq = excluded.seq, priority = excluded.priority, body = excluded.body",
            (key, seq, priority, body),
        )
        tx.after_commit(lambda: self._dirtied(key, priority))

    def forget_state(self, tx: Tx, key: str) -> None:
        """Drop the waiting status of ``key``: its object is gone."""
        tx.execute("DELETE FROM link_state WHERE key = ?", (key,))

    def put_message(self, tx: Tx, kind: str, body: bytes) -> int:
        """Append one message and return its seq. Over quota the oldest are dropped: counted, and told by a gap row.

        Raises StorageFull while the disk has no room, Terminal for a body over ``object_bytes``.
        """
        self._admit(body)
        seq, waiting = tx.execute(
            "UPDATE link_lane SET last = last + 1, bytes = bytes + ? RETURNING last, bytes", (len(body) + ROW_COST,)
        ).fetchone()
        tx.execute("INSERT INTO link_message VALUES (?, ?, ?, ?, ?)", (seq, seq - 1, kind, self.elapsed_s(), body))
        if waiting > self.settings.message_quota_bytes:
            self._prune_bytes(tx, waiting)
        tx.after_commit(lambda: self._appended(seq))
        return int(seq)

    def prune_age(self, tx: Tx) -> None:
        """Drop messages that have waited longer than the quota of age; call once a minute. Keeps ``elapsed_s``, too."""
        now = self.elapsed_s()
        tx.execute("UPDATE link_lane SET elapsed_s = ?", (now,))
        limit = self.settings.message_quota_age_s
        if limit:
            old = tx.execute(
                "SELECT seq, prev, length(body) FROM link_message WHERE born_s < ? AND kind NOT IN (?, ?) ORDER BY seq",
                (now - limit, *KEPT),
            ).fetchall()
            self._drop(tx, old, "age")

    def settle(self, tx: Tx, states: Sequence[tuple[str, int]], mark: int) -> bool:
        """Forget statuses whose (key, seq) the cloud has, and messages up to ``mark``.

        Returns whether messages up to ``mark`` are left: what one transaction writes is bounded, more so on a full disk.
        """
        if states:
            tx.executemany("DELETE FROM link_state WHERE key = ? AND seq = ?", states)
        if not mark:
            return False
        limit = FULL_DISK_ROWS if self.closed else SETTLE_ROWS
        count, newest, freed = tx.execute(
            "SELECT count(*), max(seq), sum(length(body) + ?) FROM"
            " (SELECT seq, body FROM link_message WHERE seq <= ? ORDER BY seq LIMIT ?)",
            (ROW_COST, mark, limit),
        ).fetchone()
        if count:
            tx.execute("DELETE FROM link_message WHERE seq <= ?", (newest,))
            tx.execute("UPDATE link_lane SET bytes = bytes - ?", (freed,))
        return bool(count == limit)

    def repair(self, tx: Tx, key: str, body: bytes) -> None:
        """Put ``key`` again because the cloud holds something else, unless something newer waits already."""
        if tx.execute("SELECT 1 FROM link_state WHERE key = ?", (key,)).fetchone() is None:
            self.put_state(tx, key, body)

    # reading, on the loop's thread

    def elapsed_s(self) -> int:
        """Return the running time of this database, over restarts."""
        return self._elapsed_s + int(self._clock.now_s() - self._opened_s)

    def pending(self) -> Pending:
        """Return how much waits, as of the last commit; a dropped range counts as its rows."""

        def count(conn: sqlite3.Connection) -> Pending:
            (states,) = conn.execute("SELECT count(*) FROM link_state").fetchone()
            last, waiting = conn.execute("SELECT last, bytes FROM link_lane").fetchone()
            first = conn.execute("SELECT prev FROM link_message ORDER BY seq LIMIT 1").fetchone()
            return Pending(states, last - first[0] if first else 0, waiting)

        found = self._read(count)
        assert isinstance(found, Pending)
        return found

    def waiting_states(self) -> int:
        """Return how many statuses the cloud has yet to acknowledge, as of the last commit."""

        def count(conn: sqlite3.Connection) -> int:
            (states,) = conn.execute("SELECT count(*) FROM link_state").fetchone()
            return int(states)

        found = self._read(count)
        assert isinstance(found, int)
        return found

    def bounds(self) -> tuple[int, int]:
        """Return (floor, last): messages up to floor are no longer held; last is the newest."""

        def read(conn: sqlite3.Connection) -> tuple[int, int]:
            (last,) = conn.execute("SELECT last FROM link_lane").fetchone()
            first = conn.execute("SELECT prev FROM link_message ORDER BY seq LIMIT 1").fetchone()
            return (first[0] if first else last), last

        found = self._read(read)
        assert isinstance(found, tuple)
        return found

    def rewind(self, mark: int) -> None:
        """Begin a new session: messages after ``mark``, and every status that waits."""
        self._cursor = mark

        def read(conn: sqlite3.Connection) -> dict[str, int]:
            return dict(conn.execute("SELECT key, priority FROM link_state").fetchall())

        found = self._read(read)
        assert isinstance(found, dict)
        self.dirty = found

    def next_messages(self, max_rows: int, max_bytes: int) -> Messages | None:
        """Return the next rows and move on; None when there are none."""
        if self._cursor >= self._last:
            return None

        def read(conn: sqlite3.Connection) -> Messages | None:
            rows: list[MessageRow] = []
            prev, size = -1, 0
            query = "SELECT seq, prev, kind, body FROM link_message WHERE seq > ? ORDER BY seq LIMIT ?"
            for seq, before, kind, body in conn.execute(query, (self._cursor, max_rows)):
                size += len(body)
                if rows and (size > max_bytes or before != rows[-1].seq):
                    break
                if prev < 0:
                    prev = before
                rows.append(MessageRow(seq, kind, body))
            return Messages(prev, rows) if rows else None

        batch = self._read(read)
        assert batch is None or isinstance(batch, Messages)
        self._cursor = batch.end if batch is not None else self._last
        return batch

    def next_states(
        self, flying: Container[str], max_rows: int, max_bytes: int
    ) -> list[tuple[StateChange, tuple[str, int]]]:
        """Return the newest body of the next dirty keys, with (key, seq) for ``settle``."""
        if not self.dirty:
            return []
        keys = [key for key in self.dirty if key not in flying]
        if not keys:
            return []
        if len(set(self.dirty.values())) > 1:
            keys.sort(key=self.dirty.__getitem__)
        out: list[tuple[StateChange, tuple[str, int]]] = []

        def read(conn: sqlite3.Connection) -> None:
            size = 0
            for key in keys[:max_rows]:
                row = conn.execute("SELECT seq, body FROM link_state WHERE key = ?", (key,)).fetchone()
                if row is None:
                    self.dirty.pop(key, None)
                    continue
                size += len(row[1])
                if out and size > max_bytes:
                    return
                del self.dirty[key]
                out.append((StateChange(key, row[1]), (key, row[0])))

        self._read(read)
        return out

    # inside

    def _admit(self, body: bytes) -> None:
        if self.closed:
            raise StorageFull(self.closed)
        if len(body) > self.settings.object_bytes:
            raise Terminal(f"a body of {len(body)} bytes is larger than {self.settings.object_bytes}")

    def _prune_bytes(self, tx: Tx, waiting: int) -> None:
        quota = self.settings.message_quota_bytes
        excess = waiting - quota + int(quota * PRUNE_RATIO)
        old: list[tuple[int, int, int]] = []
        query = "SELECT seq, prev, length(body) FROM link_message WHERE kind NOT IN (?, ?) ORDER BY seq"
        for row in tx.execute(query, KEPT):
            if excess <= 0:
                break
            old.append(row)
            excess -= row[2] + ROW_COST
        self._drop(tx, old, "bytes")

    def _drop(self, tx: Tx, old: Sequence[tuple[int, int, int]], reason: str) -> None:
        """Replace the rows (seq, prev, length) by gap rows, one per unbroken range."""
        freed, start = 0, 0
        for i, (seq, _prev, length) in enumerate(old):
            freed += length + ROW_COST
            if i + 1 == len(old) or old[i + 1][1] != seq:
                freed -= self._replace(tx, old[start][1] + 1, seq, reason)
                start = i + 1
        if old:
            tx.after_commit(lambda: self._dropped.inc(reason, by=len(old)))
        tx.execute("UPDATE link_lane SET bytes = bytes - ?", (freed,))

    def _replace(self, tx: Tx, first: int, last: int, reason: str) -> int:
        """Put a gap row for ``first``..``last`` (joined with the one before it); return the bytes that it adds."""
        added = 0
        before = tx.execute("SELECT body FROM link_message WHERE seq = ? AND kind = ?", (first - 1, GAP)).fetchone()
        if before is not None:
            earlier = gap.decode(before[0])
            if earlier.reason == reason:
                first = earlier.first
                added -= len(before[0]) + ROW_COST
        tx.execute("DELETE FROM link_message WHERE seq BETWEEN ? AND ?", (first, last))
        body = gap.encode(gap.Gap(first, last, reason))
        tx.execute("INSERT INTO link_message VALUES (?, ?, ?, ?, ?)", (last, first - 1, GAP, self.elapsed_s(), body))
        return added + len(body) + ROW_COST

    def _dirtied(self, key: str, priority: int) -> None:
        self.dirty[key] = priority
        self.wake()

    def _appended(self, seq: int) -> None:
        self._last = seq
        self.wake()
