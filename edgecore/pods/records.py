"""What must survive this process beside the store: versions of statuses, and how long a pod has run."""

import sqlite3
from dataclasses import dataclass

from proto.kit.database import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS pod_record (
  uid TEXT PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL,
  version INTEGER NOT NULL,  -- edge counter of the status last written
  boot TEXT NOT NULL, at_s REAL NOT NULL, elapsed_s REAL NOT NULL  -- had run elapsed_s at at_s of the monotonic clock of boot
) WITHOUT ROWID;
"""


@dataclass(slots=True)
class Record:
    """One pod that this disk knows. It goes when nothing of the pod is left here and its object is gone."""

    uid: str
    namespace: str
    name: str
    version: int = 0
    boot: str = ""
    at_s: float = 0.0
    elapsed_s: float = 0.0

    def elapsed(self, boot: str, now_s: float) -> float:
        """How long the pod has run; the time between its last status and a power cut does not count."""
        return self.elapsed_s + (max(0.0, now_s - self.at_s) if boot == self.boot else 0.0)


def load(conn: sqlite3.Connection) -> dict[str, Record]:
    rows = conn.execute("SELECT uid, namespace, name, version, boot, at_s, elapsed_s FROM pod_record")
    return {row[0]: Record(*row) for row in rows}


def save(tx: Tx, row: tuple[str, str, str, int, str, float, float]) -> None:
    tx.execute(
        "INSERT INTO pod_record VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uid) DO UPDATE SET"
        " version = excluded.version, boot = excluded.boot, at_s = excluded.at_s, elapsed_s = excluded.elapsed_s",
        row,
    )


def forget(tx: Tx, uid: str) -> None:
    tx.execute("DELETE FROM pod_record WHERE uid = ?", (uid,))
