"""The edge's half of replication: what the cloud says becomes objects of the edge's own store.

Writes the spec of everything that the cloud sends, in the link's transaction; a status that was written here stays. ``held``
is kept beside the objects, so that a hello costs no hashing: it says what the cloud sent, whatever the store shows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edgecore.definitions import Definitions
from edgecore.kinds import CRD, DEVICE_STATUS, NODE, POD
from edgecore.told import joined
from kubeapi.resources import Registry, Resource
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.database import Database, Tx
from proto.kit.errors import MalformedMessage
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.labels import MIRROR
from proto.link.replica import MessageRow, StateChange
from proto.names import ObjectKey, parse_key
from proto.told import FIELD

SCHEMA = """
CREATE TABLE IF NOT EXISTS sync_held (
  key TEXT PRIMARY KEY, digest BLOB NOT NULL, uid TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sync_early (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sync_mirrors (key TEXT PRIMARY KEY, uid TEXT NOT NULL) WITHOUT ROWID;
"""
OWN = {(DEVICE_STATUS.group, DEVICE_STATUS.plural), ("", "events"), ("coordination.k8s.io", "leases")}  # written here
log = Logger("sync")
MessageHandler = Callable[[Tx, MessageRow], None]


class OfflineWrites(Protocol):
    """What was written at this node and waits for the cloud (edgecore.localapi). Called in the link's transaction."""

    def park(self, tx: Tx, key: str, body: bytes | None) -> bool:
        """Whether what the cloud says of ``key`` (None: gone) is kept aside; ``Replica.show`` will be told of it later."""
        ...

    def localize(self, tx: Tx, key: str, obj: dict[str, Any]) -> None:
        """Change ``obj`` of the cloud to what this node calls it, before it is stored."""
        ...


class Replica:
    """PORT EdgeReplica over the store. ``statuses_of`` is asked for every status that this edge owns.

    ``messages`` says who applies which kind of message, in the link's transaction.
    """

    def __init__(  # noqa: PLR0913  composition
        self,
        node: str,
        db: Database,
        store: Store,
        registry: Registry,
        *,
        statuses_of: Callable[[], Mapping[str, bytes]],
        node_status: Callable[[], dict[str, Any] | None],
        metrics: Metrics,
        messages: Mapping[str, MessageHandler] | None = None,
        offline: OfflineWrites | None = None,
    ) -> None:
        self._node = node
        self._store = store
        self._registry = registry
        self._definitions = Definitions(store, registry)
        self._statuses_of = statuses_of
        self._node_status = node_status
        self._messages, self._offline = messages or {}, offline
        rows = db.read(lambda conn: conn.execute("SELECT key, digest FROM sync_held").fetchall())
        self._held: dict[str, bytes] = dict(rows)
        self._mirrors: dict[str, str] = dict(db.read(_read_mirrors))
        self.mirrors_changed: Callable[[], None] = lambda: None  # told on the loop, after the commit
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

    def mirrors(self) -> Mapping[str, str]:
        """Return key -> uid of each mirror pod in the cloud. The static pod itself is not the cloud's to change."""
        return self._mirrors

    def apply(self, tx: Tx, changes: Sequence[StateChange]) -> None:
        """Store or delete each change; one that is no object of ours is counted, and the others go on."""
        for change in changes:
            try:
                self._apply_one(tx, change)
            except MalformedMessage as error:
                tx.after_commit(lambda error=error, key=change.key: self._refuse("malformed", key, error))  # type: ignore[misc]

    def apply_messages(self, tx: Tx, rows: Sequence[MessageRow]) -> None:
        """Hand each message to who applies its kind; an unknown or malformed one is counted and said."""
        for row in rows:
            what = f"{row.kind}/{row.seq}"
            handler = self._messages.get(row.kind)
            if handler is None:
                tx.after_commit(lambda what=what: self._refuse("unknown message", what, None))  # type: ignore[misc]
                continue
            try:
                handler(tx, row)
            except MalformedMessage as error:
                tx.after_commit(lambda what=what, error=error: self._refuse("malformed", what, error))  # type: ignore[misc]

    def statuses(self) -> Mapping[str, bytes]:
        return self._statuses_of()

    def show(self, tx: Tx, key: str, body: bytes | None) -> None:
        """Make the store show what the cloud says of ``key``; None: that it is gone. Raises MalformedMessage."""
        self._show(tx, parse_key(key), None if body is None else _parse(body, parse_key(key)))

    def _apply_one(self, tx: Tx, change: StateChange) -> None:
        key = parse_key(change.key)
        self._check(key)
        if change.body is None:
            if not self._is_parked(tx, change):
                self._show(tx, key, None)
            tx.execute("DELETE FROM sync_held WHERE key = ?", (change.key,))
            tx.after_commit(lambda: self._forget(change.key, key.plural))
            return
        obj = _parse(change.body, key)
        digest, uid = canonical.digest(obj), obj["metadata"].get("uid", "")
        if not self._is_parked(tx, change):
            self._show(tx, key, obj)
        tx.execute(
            "INSERT INTO sync_held (key, digest, uid) VALUES (?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, uid = excluded.uid",
            (change.key, digest, uid),
        )
        tx.after_commit(lambda: self._keep(change.key, digest, key.plural))

    def _is_parked(self, tx: Tx, change: StateChange) -> bool:
        return self._offline is not None and self._offline.park(tx, change.key, change.body)

    def _show(self, tx: Tx, key: ObjectKey, obj: dict[str, Any] | None) -> None:
        """Make the store say ``obj`` of ``key``: what was written here about the same object stays."""
        resource = self._registry.by_storage(f"{key.group or 'core'}/{key.plural}")
        if resource is None:
            self._put_aside(tx, key, obj)
            return
        told = obj.pop(FIELD, None) or {} if obj is not None and resource.storage == POD.storage else {}
        if self._is_mirror(tx, resource, key, obj):
            return
        if obj is not None and self._offline is not None:
            self._offline.localize(tx, str(key), obj)
        if obj is None:
            self._store.remove(tx, resource, key.namespace, key.name)
        else:
            self._store.put(tx, resource, self._joined(tx, resource, key, obj, told))
        if resource.storage == CRD.storage:
            self._define(tx, key, obj)

    def _joined(
        self, tx: Tx, resource: Resource, key: ObjectKey, obj: dict[str, Any], told: dict[str, Any]
    ) -> dict[str, Any]:
        """Return ``obj`` with the status that this edge owns; of a pod, with what the cloud has ``told`` about it."""
        if resource.storage == NODE.storage:
            status = self._node_status()
            return obj if status is None else {**obj, "status": status}
        before = self._store.peek(resource, key.namespace, key.name)
        found = before.object if before is not None else None
        if found is not None and found["metadata"].get("uid", "") != obj["metadata"].get("uid", ""):
            # Made again under the same name: watchers see the end of the old one.
            self._store.remove(tx, resource, key.namespace, key.name)
            found = None
        status = (found or {}).get("status")
        if resource.storage == POD.storage:
            status = joined(obj, told, status)
        return {**obj, "status": status} if status is not None else obj

    def _is_mirror(self, tx: Tx, resource: Resource, key: ObjectKey, obj: dict[str, Any] | None) -> bool:
        """Remember the uid of a mirror pod, and whether ``obj`` (or what is gone now) is one: the static pod stays as it is."""
        if resource.storage != POD.storage:
            return False
        text = str(key)
        if obj is None:
            gone = tx.execute("DELETE FROM sync_mirrors WHERE key = ?", (text,)).rowcount > 0
            if gone:
                tx.after_commit(lambda: self._mirrored(text, ""))
            return gone
        if MIRROR not in (obj["metadata"].get("annotations") or {}):
            return False
        uid = str(obj["metadata"].get("uid", ""))
        tx.execute("INSERT OR REPLACE INTO sync_mirrors (key, uid) VALUES (?, ?)", (text, uid))
        tx.after_commit(lambda: self._mirrored(text, uid))
        return True

    def _mirrored(self, key: str, uid: str) -> None:
        if uid:
            self._mirrors[key] = uid
        else:
            self._mirrors.pop(key, None)
        self.mirrors_changed()

    def _define(self, tx: Tx, key: ObjectKey, crd: dict[str, Any] | None) -> None:
        """Serve the kind of a definition, and bring in the objects that came before it."""
        if crd is None:
            self._definitions.remove(tx, key.name)
            return
        for storage in self._definitions.put(tx, crd):
            rows = tx.execute(
                "SELECT key, body FROM sync_early WHERE key >= ? AND key < ?", (f"{storage}/", f"{storage}0")
            ).fetchall()  # "0" follows "/"
            for text, body in rows:
                tx.execute("DELETE FROM sync_early WHERE key = ?", (text,))
                self.show(tx, text, body)

    def _put_aside(self, tx: Tx, key: ObjectKey, obj: dict[str, Any] | None) -> None:
        """Keep an object whose definition has not come yet: the state lane has no order."""
        if obj is None:
            tx.execute("DELETE FROM sync_early WHERE key = ?", (str(key),))
        else:
            row = (str(key), canonical.encode(obj))
            tx.execute("INSERT OR REPLACE INTO sync_early (key, body) VALUES (?, ?)", row)

    def _keep(self, key: str, digest: bytes, plural: str) -> None:
        self._held[key] = digest
        self._applied.inc(plural)

    def _forget(self, key: str, plural: str) -> None:
        self._held.pop(key, None)
        self._applied.inc(plural)

    def _refuse(self, reason: str, what: str, error: Exception | None) -> None:
        self._refused.inc(reason)
        log.warning("refused from the cloud", reason=reason, what=what, error=str(error or ""))

    def _check(self, key: ObjectKey) -> None:
        other_node = (key.group, key.plural) == ("", "nodes") and key.name != self._node
        if other_node or (key.group, key.plural) in OWN:
            raise MalformedMessage(f"{key} is not for this node")


def _read_mirrors(conn: Any) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = conn.execute("SELECT key, uid FROM sync_mirrors").fetchall()
    return rows


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
