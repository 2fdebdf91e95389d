"""CloudLog in a ``proto.kit.database`` file: for tests, and where cloudcore needs no other database."""

import secrets
import sqlite3
from collections.abc import Callable, Sequence

from proto.kit.database import Database, Tx
from proto.kit.errors import StorageFull
from proto.link.log import LogRow, NodeRecord

SCHEMA = """
CREATE TABLE IF NOT EXISTS log_self (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    incarnation  TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS log_node (
    node         TEXT PRIMARY KEY,
    incarnation  TEXT NOT NULL,
    cloud        TEXT NOT NULL,
    granted      INTEGER NOT NULL,
    acked        INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS log_mark (
    node         TEXT NOT NULL,
    incarnation  TEXT NOT NULL,
    mark         INTEGER NOT NULL,
    PRIMARY KEY (node, incarnation)
) STRICT;
CREATE TABLE IF NOT EXISTS log_lane (
    node   TEXT NOT NULL,
    cloud  TEXT NOT NULL,
    last   INTEGER NOT NULL,  -- newest seq given; kept when all rows are gone
    PRIMARY KEY (node, cloud)
) STRICT;
CREATE TABLE IF NOT EXISTS log_row (
    position  INTEGER PRIMARY KEY AUTOINCREMENT,
    node      TEXT NOT NULL,
    cloud     TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    body      BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS log_row_of_node ON log_row (node, position);
"""


def incarnation(tx: Tx) -> str:
    """Return the database's incarnation, making it at the first call."""
    row = tx.execute("SELECT incarnation FROM log_self").fetchone()
    return row[0] if row is not None else renew(tx)


def renew(tx: Tx) -> str:
    """Replace the incarnation."""
    fresh = secrets.token_hex(16)
    tx.execute(
        "INSERT INTO log_self VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation", (fresh,)
    )
    return fresh


def update(tx: Tx, node: str, change: Callable[[NodeRecord], NodeRecord]) -> NodeRecord:
    """Read, change, store one node's record."""
    row = tx.execute("SELECT incarnation, cloud, granted, acked FROM log_node WHERE node = ?", (node,)).fetchone()
    after = change(NodeRecord(*row) if row is not None else NodeRecord())
    tx.execute(
        "INSERT OR REPLACE INTO log_node VALUES (?, ?, ?, ?, ?)",
        (node, after.incarnation, after.cloud, after.granted, after.acked),
    )
    return after


def mark(conn: sqlite3.Connection | Tx, node: str, edge: str) -> int:
    """Return the high-water mark of (node, edge incarnation)."""
    row = conn.execute("SELECT mark FROM log_mark WHERE node = ? AND incarnation = ?", (node, edge)).fetchone()
    return row[0] if row is not None else 0


def advance(tx: Tx, node: str, edge: str, seq: int) -> None:
    """Set the high-water mark: for a ``CloudReplica.apply_messages`` that keeps its rows in this same database."""
    tx.execute("INSERT OR REPLACE INTO log_mark VALUES (?, ?, ?)", (node, edge, seq))


def append(tx: Tx, node: str, kind: str, body: bytes, quota_bytes: int) -> LogRow:
    """Add one outgoing row; raises StorageFull."""
    if quota_bytes:
        (waiting,) = tx.execute("SELECT coalesce(sum(length(body)), 0) FROM log_row WHERE node = ?", (node,)).fetchone()
        if waiting + len(body) > quota_bytes:
            raise StorageFull(f"{waiting} bytes of messages already wait for node {node}; the limit is {quota_bytes}")
    cloud = incarnation(tx)
    (seq,) = tx.execute(
        "INSERT INTO log_lane VALUES (?, ?, 1) ON CONFLICT (node, cloud) DO UPDATE SET last = last + 1 RETURNING last",
        (node, cloud),
    ).fetchone()
    cursor = tx.execute(
        "INSERT INTO log_row (node, cloud, seq, kind, body) VALUES (?, ?, ?, ?, ?)", (node, cloud, seq, kind, body)
    )
    assert cursor.lastrowid is not None
    return LogRow(cursor.lastrowid, cloud, seq, kind, body)


def pending(conn: sqlite3.Connection | Tx, node: str, after: int, limit: int, max_bytes: int) -> list[LogRow]:
    """Return waiting rows in order."""
    out: list[LogRow] = []
    size = 0
    query = (
        "SELECT position, cloud, seq, kind, body FROM log_row WHERE node = ? AND position > ? ORDER BY position LIMIT ?"
    )
    for row in conn.execute(query, (node, after, limit)):
        size += len(row[4])
        if out and size > max_bytes:
            break
        out.append(LogRow(*row))
    return out


def ack(tx: Tx, node: str, cloud: str, seq: int) -> int:
    """Forget rows."""
    return tx.execute("DELETE FROM log_row WHERE node = ? AND cloud = ? AND seq <= ?", (node, cloud, seq)).rowcount


def bases(tx: Tx, node: str) -> dict[str, int]:
    """Return where each incarnation's rows begin."""
    cloud = incarnation(tx)
    last = tx.execute("SELECT last FROM log_lane WHERE node = ? AND cloud = ?", (node, cloud)).fetchone()
    found = tx.execute("SELECT cloud, min(seq) - 1 FROM log_row WHERE node = ? GROUP BY cloud", (node,)).fetchall()
    return {cloud: last[0] if last is not None else 0} | dict(found)


class SqliteLog:
    """CloudLog over one Database; ``SCHEMA`` must be among its schemas."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def incarnation(self) -> str:
        return await self._db.tx(incarnation)

    async def renew(self) -> str:
        return await self._db.tx(renew)

    async def update(self, node: str, change: Callable[[NodeRecord], NodeRecord]) -> NodeRecord:
        return await self._db.tx(lambda tx: update(tx, node, change))

    async def mark(self, node: str, incarnation: str) -> int:
        return self._db.read(lambda conn: mark(conn, node, incarnation))

    async def append(self, node: str, kind: str, body: bytes, *, quota_bytes: int) -> LogRow:
        return await self._db.tx(lambda tx: append(tx, node, kind, body, quota_bytes))

    async def pending(self, node: str, after: int, *, limit: int, max_bytes: int) -> Sequence[LogRow]:
        return self._db.read(lambda conn: pending(conn, node, after, limit, max_bytes))

    async def ack(self, node: str, cloud: str, seq: int) -> int:
        return await self._db.tx(lambda tx: ack(tx, node, cloud, seq))

    async def bases(self, node: str) -> dict[str, int]:
        return await self._db.tx(lambda tx: bases(tx, node))

    async def waiting(self) -> dict[str, int]:
        return dict(
            self._db.read(lambda conn: conn.execute("SELECT node, count(*) FROM log_row GROUP BY node").fetchall())
        )
