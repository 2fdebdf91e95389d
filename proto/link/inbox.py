"""What this edge knows of the cloud: its own incarnation, the epoch it committed, and marks of what was applied."""

import secrets
import sqlite3

from proto import gap
from proto.frames import Mark, Messages, Welcome
from proto.kit.database import Tx
from proto.link.replica import MessageRow
from proto.session_edge import Identity

SCHEMA = """
CREATE TABLE IF NOT EXISTS link_self (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    incarnation  TEXT NOT NULL,     -- of this disk; random, made with the database
    epoch        INTEGER NOT NULL,  -- newest session committed here; 0 = none
    cloud        TEXT NOT NULL      -- incarnation of the cloud that granted it
) STRICT;
CREATE TABLE IF NOT EXISTS link_mark (
    cloud  TEXT PRIMARY KEY,        -- incarnation of the cloud that numbered the messages
    mark   INTEGER NOT NULL,        -- newest message applied here
    used   INTEGER NOT NULL         -- epoch that last moved it, to forget the oldest
) STRICT;
"""
MAX_MARKS = 16  # cloud incarnations remembered; each restore makes one


def identity(tx: Tx) -> Identity:
    """Return who this disk is, making its incarnation at the first call."""
    row = tx.execute("SELECT incarnation, epoch, cloud FROM link_self").fetchone()
    if row is None:
        row = (secrets.token_hex(16), 0, "")
        tx.execute("INSERT INTO link_self VALUES (1, ?, ?, ?)", row)
    return Identity(*row)


def rejoin(tx: Tx) -> None:
    """Become a new disk for the cloud: call when a fenced node joins again. Waiting rows are kept and sent anew."""
    tx.execute("UPDATE link_self SET incarnation = ?, epoch = 0, cloud = ''", (secrets.token_hex(16),))


def adopt(tx: Tx, epoch: int, welcome: Welcome) -> None:
    """Commit the granted epoch and the positions that the cloud begins at (LINK-4)."""
    tx.execute("UPDATE link_self SET epoch = ?, cloud = ?", (epoch, welcome.cloud))
    for base in welcome.bases:
        _advance(tx, base.lineage, base.seq, epoch)
    tx.execute(
        "DELETE FROM link_mark WHERE cloud NOT IN (SELECT cloud FROM link_mark ORDER BY used DESC LIMIT ?)",
        (MAX_MARKS,),
    )


def fresh(tx: Tx, batch: Messages, epoch: int) -> list[MessageRow]:
    """Return the rows that were never applied, and move the mark in this same transaction (LINK-15)."""
    found = tx.execute("SELECT mark FROM link_mark WHERE cloud = ?", (batch.lineage,)).fetchone()
    rows = list(gap.clip(batch.rows, found[0] if found else 0))
    if rows:
        _advance(tx, batch.lineage, rows[-1].seq, epoch)
    return rows


def marks(conn: sqlite3.Connection) -> tuple[Mark, ...]:
    """Return all marks, newest used first."""
    return tuple(Mark(*row) for row in conn.execute("SELECT cloud, mark FROM link_mark ORDER BY used DESC, cloud"))


def _advance(tx: Tx, cloud: str, seq: int, epoch: int) -> None:
    tx.execute(
        "INSERT INTO link_mark VALUES (?, ?, ?) ON CONFLICT (cloud) DO UPDATE"
        " SET mark = max(mark, excluded.mark), used = excluded.used",
        (cloud, seq, epoch),
    )
