"""Twins at rest in the edge's database: one row per device (uid) and one per property, so a report writes what it changed."""

import sqlite3
from collections.abc import Iterable

import msgspec

from devicetwin.merge import DeviceTwin, Twin
from proto.kit.database import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS device_state (
  uid TEXT PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, protocol TEXT NOT NULL,
  generation INTEGER NOT NULL, counter INTEGER NOT NULL,
  state TEXT NOT NULL, last_online_ms INTEGER NOT NULL,
  mapper_error TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS device_twin (
  uid TEXT NOT NULL, property TEXT NOT NULL,
  type TEXT NOT NULL, optional INTEGER NOT NULL, declared INTEGER NOT NULL,
  desired TEXT, desired_version INTEGER NOT NULL, desired_at_ms INTEGER NOT NULL,
  override TEXT, override_version INTEGER NOT NULL, override_at_ms INTEGER NOT NULL,
  reported TEXT, reported_version INTEGER NOT NULL, reported_at_ms INTEGER NOT NULL,
  deleted_version INTEGER NOT NULL,
  PRIMARY KEY (uid, property)
) WITHOUT ROWID;
"""
PUT_STATE = "INSERT OR REPLACE INTO device_state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
PUT_TWIN = "INSERT OR REPLACE INTO device_twin VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
# The hot path: a report of a known property changes three columns.
PUT_REPORTED = (
    "UPDATE device_twin SET reported = ?, reported_version = ?, reported_at_ms = ? WHERE uid = ? AND property = ?"
)

# One row without a uid: the highest counter of a device that has left. A device that comes back to this node under the
# same uid counts on from there, so the cloud never takes its news for something older (TWIN-2).
FLOOR = ""
RAISE_FLOOR = (
    "INSERT INTO device_state VALUES ('', '', '', '', 0, ?, '', 0, '')"
    " ON CONFLICT (uid) DO UPDATE SET counter = max(counter, excluded.counter)"
)

StateRow = tuple[str, str, str, str, int, int, str, int, str]
TwinRow = tuple[object, ...]


class Saved(msgspec.Struct):
    """One device as the last run left it."""

    uid: str
    namespace: str = ""
    name: str = ""
    protocol: str = ""
    generation: int = 0
    counter: int = 0
    state: str = ""
    last_online_ms: int = 0
    mapper_error: str = ""
    twins: dict[str, Twin] = {}

    def restore(self, device: DeviceTwin) -> None:
        """Put what was saved into ``device``."""
        device.generation = self.generation
        device.counter = self.counter
        device.state = self.state
        device.last_online_ms = self.last_online_ms
        device.twins = dict(self.twins)


def state_row(device: DeviceTwin, mapper_error: str) -> StateRow:
    spec = device.spec
    return (
        spec.uid,
        spec.id.namespace,
        spec.id.name,
        spec.protocol,
        device.generation,
        device.counter,
        device.state,
        device.last_online_ms,
        mapper_error,
    )


def twin_row(uid: str, name: str, twin: Twin) -> TwinRow:
    return (uid, name, *msgspec.structs.astuple(twin))


def write(tx: Tx, states: Iterable[StateRow], twins: Iterable[TwinRow], reported: Iterable[TwinRow]) -> None:
    """Write changed rows (writer thread)."""
    tx.executemany(PUT_STATE, states)
    tx.executemany(PUT_TWIN, twins)
    tx.executemany(PUT_REPORTED, reported)


def forget(tx: Tx, uid: str, counter: int) -> None:
    """Drop everything of one Device object: its successor under the same name inherits nothing (TWIN-1)."""
    tx.execute(RAISE_FLOOR, (counter,))
    tx.execute("DELETE FROM device_twin WHERE uid = ?", (uid,))
    tx.execute("DELETE FROM device_state WHERE uid = ?", (uid,))


def load(conn: sqlite3.Connection) -> dict[str, Saved]:
    """Return uid -> device for everything saved. The counter is the highest version that any row carries (TWIN-2)."""
    found: dict[str, Saved] = {}
    for row in conn.execute("SELECT * FROM device_state"):
        found[row[0]] = Saved(*row)
    for uid, name, kind, optional, declared, *rest in conn.execute("SELECT * FROM device_twin"):
        saved = found.setdefault(uid, Saved(uid))
        twin = Twin(kind, bool(optional), bool(declared), *rest)
        saved.twins[name] = twin
        saved.counter = max(saved.counter, twin.override_version, twin.reported_version, twin.deleted_version)
    return found
