"""Writes that the cloud did not apply, as people see them: a WriteConflict with both versions and an Event.

The cloud makes the WriteConflict, and the state lane brings it; the node makes the same one at once, so that it is here
whatever becomes of the connection. Deleting it drops the write for good.
"""

from edgecore.kinds import WRITE_CONFLICT
from edgecore.localapi import events
from kubeapi.kinds import EVENT
from kubeapi.options import DeleteOptions
from kubeapi.recording import Change
from kubeapi.store import Store
from proto import conflicts
from proto.kit.clock import Clock, rfc3339
from proto.kit.database import Tx
from proto.kit.log import Logger
from proto.names import parse_key
from proto.writes import Write, WriteResult

log = Logger("offline-writes")
KEPT = 1_000  # refused writes that wait for a person; the oldest go first, and stay in the cloud


class Refusals:
    """Keeps and forgets them, inside the caller's transaction."""

    def __init__(self, node: str, store: Store, clock: Clock) -> None:
        self._node, self._store, self._clock = node, store, clock

    def keep(self, tx: Tx, write: Write, result: WriteResult) -> None:
        """Show a write that was not applied; the row in the journal holds it whole."""
        namespace, _, name = result.conflict.partition("/")
        if name and self._store.peek(WRITE_CONFLICT, namespace, name) is None:
            body = conflicts.make(self._node, name, namespace, write, result)
            body["metadata"]["uid"] = f"{self._node}-{write.seq}"
            body["metadata"]["creationTimestamp"] = rfc3339(self._clock.wall())
            self._store.put(tx, WRITE_CONFLICT, body)
        self._say(tx, write, result)
        forgotten = tx.execute(
            "DELETE FROM pending_write WHERE seq IN (SELECT seq FROM pending_write WHERE outcome != ''"
            " ORDER BY seq DESC LIMIT -1 OFFSET ?)",
            (KEPT,),
        ).rowcount
        if forgotten:
            log.warning("the oldest conflicts are forgotten here; the cloud keeps them", conflicts=forgotten)

    def forget(self, tx: Tx, change: Change) -> None:
        """A person deletes a WriteConflict: its write is dropped from the journal, too."""
        if change.res.storage != WRITE_CONFLICT.storage or not isinstance(change.opts, DeleteOptions):
            return
        metadata = change.after["metadata"]
        self.drop(tx, f"{metadata.get('namespace', '')}/{metadata['name']}")

    def drop(self, tx: Tx, conflict: str) -> None:
        """Forget the write whose WriteConflict is NAMESPACE/NAME."""
        tx.execute("DELETE FROM pending_write WHERE outcome != '' AND conflict = ?", (conflict,))

    def _say(self, tx: Tx, write: Write, result: WriteResult) -> None:
        key = parse_key(write.key)
        now = rfc3339(self._clock.wall())
        involved = {"apiVersion": write.api_version, "kind": write.kind, "name": key.name, "uid": write.uid}
        if key.namespace:
            involved["namespace"] = key.namespace
        said = {
            "type": "Warning",
            "reason": conflicts.REASONS[result.outcome],
            "message": conflicts.sentence(write, result)[:1024],
        }
        name = f"{key.name[:200]}.write-{write.seq:x}"
        self._store.put(tx, EVENT, events.make(self._node, involved, said, name=name, now=now))
