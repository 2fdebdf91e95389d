"""The durable log under the store: one row per change, newest row per key is the object; old rows are compacted.

One table is both the state and the watch history, so a write is one append. A row may go once the row that superseded it
is older than the compaction horizon; a watch from at or after the horizon therefore finds every event and its previous.
"""

import sqlite3
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from proto.kit.database import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS kube_log (
  revision INTEGER PRIMARY KEY, previous INTEGER NOT NULL, deleted INTEGER NOT NULL,
  resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS kube_meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""
SET_META = "INSERT INTO kube_meta VALUES (?,?) ON CONFLICT (name) DO UPDATE SET number = excluded.number"
CEILING_STEP = 10_000  # revisions reserved at a time: memory-only kinds use revisions that no row records


@dataclass(frozen=True, slots=True)
class Limits:
    """How much history is kept for watches that come back."""

    rows: int = 10_000  # superseded rows; more and the oldest are compacted
    bytes: int = 32 * 1024 * 1024
    batch: int = 256  # rows deleted per transaction: bounds the pause of writers


class History:
    """Which rows are superseded, by which revision: what compaction may delete, oldest first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.compacted = 0  # watches from before this revision get 410
        self.bytes = 0
        self._superseded: deque[tuple[int, int, int]] = deque()  # (superseding revision, row to delete, its bytes)

    def __len__(self) -> int:
        return len(self._superseded)

    def note(self, superseding: int, row: int, size: int) -> None:
        self._superseded.append((superseding, row, size))
        self.bytes += size

    def due(self) -> list[int]:
        """Return the rows to delete now and raise the horizon; empty while the history is small enough."""
        limits = self.limits
        if len(self._superseded) < limits.rows + limits.batch and self.bytes <= limits.bytes:
            return []
        rows: list[int] = []
        while self._superseded and len(rows) < limits.batch:
            superseding, row, size = self._superseded.popleft()
            self.bytes -= size
            self.compacted = max(self.compacted, superseding)
            rows.append(row)
        return rows


def append(tx: Tx, row: tuple[int, int, int, str, str, str, bytes]) -> None:
    tx.execute("INSERT INTO kube_log VALUES (?,?,?,?,?,?,?)", row)


def delete(tx: Tx, rows: list[int], compacted: int) -> None:
    tx.executemany("DELETE FROM kube_log WHERE revision = ?", ((r,) for r in rows))
    set_meta(tx, "compacted", compacted)


def set_meta(tx: Tx, name: str, number: int) -> None:
    tx.execute(SET_META, (name, number))


def meta(conn: sqlite3.Connection, name: str) -> int:
    row = conn.execute("SELECT number FROM kube_meta WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def rows(conn: sqlite3.Connection) -> Iterator[tuple[int, int, int, str, str, str, bytes]]:
    """Yield every row in revision order."""
    yield from conn.execute(
        "SELECT revision, previous, deleted, resource, namespace, name, body FROM kube_log ORDER BY revision"
    )


def since(
    conn: sqlite3.Connection, resource: str, after: int, upto: int
) -> list[tuple[int, int, int, str, str, str, bytes, bytes]]:
    """Return the rows of ``resource`` in (after, upto], each with its previous body (empty when there was none)."""
    return conn.execute(
        "SELECT l.revision, l.previous, l.deleted, l.resource, l.namespace, l.name, l.body, coalesce(p.body, x'')"
        " FROM kube_log l LEFT JOIN kube_log p ON p.revision = l.previous"
        " WHERE l.revision > ? AND l.revision <= ? AND l.resource = ? ORDER BY l.revision",
        (after, upto, resource),
    ).fetchall()
