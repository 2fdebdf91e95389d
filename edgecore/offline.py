"""What a stopped daemon left on disk, read without writing: for the commands."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import msgspec

from edgecore.data_dir import DataDir
from kubeapi.resources import Resource
from proto.kit.database import connect
from proto.kit.errors import SkerryError
from proto.writes import Write, decode_write

T = TypeVar("T")
JOURNAL = "SELECT body, outcome, reason, message, conflict FROM pending_write ORDER BY seq"
NEWEST = """
SELECT body FROM kube_log WHERE revision IN
  (SELECT max(revision) FROM kube_log WHERE resource = ? GROUP BY namespace, name)
  AND deleted = 0 ORDER BY namespace, name
"""


class Journalled(NamedTuple):
    """One write at the node-local API. ``outcome`` "" waits for the cloud."""

    write: Write
    outcome: str
    reason: str
    message: str
    conflict: str  # NAMESPACE/NAME of its WriteConflict


def journal(directory: DataDir) -> list[Journalled]:
    """Every write that waits or was not applied, oldest first."""
    rows = read(directory, lambda conn: conn.execute(JOURNAL).fetchall())
    return [Journalled(decode_write(body), *rest) for body, *rest in rows or []]


def read(directory: DataDir, fn: Callable[[sqlite3.Connection], T]) -> T | None:
    """Run ``fn`` on a read-only connection; None when there is no database, or none that can be read."""
    if not directory.database.exists():
        return None
    try:
        with closing(connect(directory.database, read_only=True)) as conn:
            return fn(conn)
    except (SkerryError, sqlite3.Error):
        return None


def objects(directory: DataDir, resource: Resource) -> list[dict[str, Any]]:
    """The newest committed objects of ``resource`` in (namespace, name) order."""
    rows = read(directory, lambda conn: conn.execute(NEWEST, (resource.storage,)).fetchall())
    return [msgspec.json.decode(body) for (body,) in rows or []]


def link_summary(directory: DataDir) -> dict[str, Any] | None:
    """What waits for the cloud and the last epoch; None when unknown."""

    def summary(conn: sqlite3.Connection) -> dict[str, Any]:
        counts = {
            "pending_states": "SELECT count(*) FROM link_state",
            "pending_messages": "SELECT count(*) FROM link_message",
            "pending_bytes": "SELECT coalesce(max(bytes), 0) FROM link_lane",
            "epoch": "SELECT coalesce(max(epoch), 0) FROM link_self",
        }
        return {name: conn.execute(sql).fetchone()[0] for name, sql in counts.items()}

    return read(directory, summary)


def writes_summary(directory: DataDir) -> dict[str, int]:
    """How many writes at the node-local API wait for the cloud, and how many it did not apply."""
    sql = "SELECT count(*) FILTER (WHERE outcome = ''), count(*) FILTER (WHERE outcome != '') FROM pending_write"
    found = read(directory, lambda conn: conn.execute(sql).fetchone())
    return dict(zip(("pending", "conflicts"), found or (0, 0), strict=True))
