"""The edge's half of replication: what the cloud says becomes objects of the edge's own store.

Writes the spec of Device, DeviceModel and the own Node in the store, in the link's transaction. ``held`` is kept beside
them, so that a hello costs no hashing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kubeapi.resources import Registry, Resource
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.database import Database, Tx
from proto.kit.errors import MalformedMessage
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow, StateChange
from proto.names import ObjectKey, parse_key

SCHEMA = """
CREATE TABLE IF NOT EXISTS sync_held (
  key TEXT PRIMARY KEY, digest BLOB NOT NULL, uid TEXT NOT NULL
) WITHOUT ROWID;
"""
DEVICES = "devices.kubeedge.io"
DOWNWARD = {(DEVICES, "devices"), (DEVICES, "devicemodels"), ("", "nodes")}

log = Logger("sync")


class Replica:
    """PORT EdgeReplica over the store. ``statuses_of`` is asked for every status that this edge owns."""

    def __init__(
        self,
        node: str,
        db: Database,
        store: Store,
        registry: Registry,
        *,
        statuses_of: Callable[[], Mapping[str, bytes]],
        node_status: Callable[[], dict[str, Any] | None],
        metrics: Metrics,
    ) -> None:
        self._node = node
        self._store = store
        self._registry = registry
        self._statuses_of = statuses_of
        self._node_status = node_status
        rows = db.read(lambda conn: conn.execute("SELECT key, digest FROM sync_held").fetchall())
        self._held: dict[str, bytes] = dict(rows)
        self._applied = metrics.counter(
            "skerry_edge_sync_applied_total", "Objects from the cloud stored or deleted.", ["kind"]
        )
        self._refused = metrics.counter(
            "skerry_edge_sync_refused_total",
            "Objects or messages from the cloud that could not be applied.",
            ["reason"],
        )
        metrics.gauge(
            "skerry_edge_sync_held_objects", "Objects of the cloud held here.", source=lambda: len(self._held)
        )

    def held(self) -> Mapping[str, bytes]:
        return self._held

    def knows_node(self) -> bool:
        """Whether the cloud has sent this node's own Node."""
        return str(ObjectKey("", "nodes", "", self._node)) in self._held

    def apply(self, tx: Tx, changes: Sequence[StateChange]) -> None:
        """Store or delete each change; one that is no object of ours is counted, and the others go on."""
        for change in changes:
            try:
                self._apply_one(tx, change)
            except MalformedMessage as error:
                tx.after_commit(lambda error=error, key=change.key: self._refuse("malformed", key, error))  # type: ignore[misc]

    def apply_messages(self, tx: Tx, rows: Sequence[MessageRow]) -> None:
        """No message kind is defined downwards yet: each is counted and said, never silently dropped."""
        for row in rows:
            tx.after_commit(lambda row=row: self._refuse("unknown message", f"{row.kind}/{row.seq}", None))  # type: ignore[misc]

    def statuses(self) -> Mapping[str, bytes]:
        return self._statuses_of()

    def _apply_one(self, tx: Tx, change: StateChange) -> None:
        key = parse_key(change.key)
        resource = self._resource(key)
        row = tx.execute("SELECT uid FROM sync_held WHERE key = ?", (change.key,)).fetchone()
        if change.body is None:
            self._remove(tx, change.key, key, resource)
            return
        obj = _parse(change.body, key)
        uid = obj["metadata"].get("uid", "")
        if row is not None and row[0] != uid:  # made again under the same name: watchers see the end of the old one
            self._store.remove(tx, resource, key.namespace, key.name)
        if key.plural == "nodes" and (status := self._node_status()) is not None:
            obj["status"] = status
        digest = canonical.digest(obj)
        self._store.put(tx, resource, obj)
        tx.execute(
            "INSERT INTO sync_held (key, digest, uid) VALUES (?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, uid = excluded.uid",
            (change.key, digest, uid),
        )
        tx.after_commit(lambda: self._keep(change.key, digest, key.plural))

    def _remove(self, tx: Tx, text: str, key: ObjectKey, resource: Resource) -> None:
        self._store.remove(tx, resource, key.namespace, key.name)
        tx.execute("DELETE FROM sync_held WHERE key = ?", (text,))
        tx.after_commit(lambda: self._forget(text, key.plural))

    def _keep(self, key: str, digest: bytes, plural: str) -> None:
        self._held[key] = digest
        self._applied.inc(plural)

    def _forget(self, key: str, plural: str) -> None:
        self._held.pop(key, None)
        self._applied.inc(plural)

    def _refuse(self, reason: str, what: str, error: Exception | None) -> None:
        self._refused.inc(reason)
        log.warning("refused from the cloud", reason=reason, what=what, error=str(error or ""))

    def _resource(self, key: ObjectKey) -> Resource:
        if (key.group, key.plural) not in DOWNWARD or (key.plural == "nodes" and key.name != self._node):
            raise MalformedMessage(f"{key} is not for this node")
        resource = self._registry.by_storage(f"{key.group or 'core'}/{key.plural}")
        if resource is None:
            raise MalformedMessage(f"{key}: kind is not known here")
        return resource


def _parse(body: bytes, key: ObjectKey) -> dict[str, Any]:
    try:
        obj: dict[str, Any] = canonical.decode(body)
    except canonical.UNREADABLE as error:
        raise MalformedMessage(f"{key}: {error}") from error
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    if not isinstance(metadata, dict):
        raise MalformedMessage(f"{key}: no object with metadata")
    if metadata.get("name") != key.name or (metadata.get("namespace") or "") != key.namespace:
        raise MalformedMessage(f"{key}: the object inside has another name")
    return obj
