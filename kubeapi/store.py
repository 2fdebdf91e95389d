"""Resources at rest: committed state in memory, durable in one SQLite log, watchable from any recent revision.

Writes happen in the caller's transaction (``put``, ``remove``: writer thread); readers on the loop see only what is
committed. One revision counter orders everything; it never goes back, not even across a restart or a restore.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

from kubeapi import versions, watchlog
from kubeapi.errors import gone
from kubeapi.resources import Registry, Resource
from kubeapi.stored import ADDED, BOOKMARK, DELETED, MODIFIED, Decoded, Event, Stored, encode, with_revision
from kubeapi.watch import Watcher
from kubeapi.watchlog import SCHEMA, Limits
from proto.kit.clock import Clock
from proto.kit.database import Database, Tx
from proto.kit.log import Logger
from proto.kit.metrics import Metrics

__all__ = ["SCHEMA", "Event", "Limits", "Store", "Stored"]

log = Logger("store")
MEMORY_EVENTS = 2_000  # history of each memory-only kind
BOOKMARK_EVERY = 500  # revisions between bookmarks to a quiet watch: well inside the smallest history

Key = tuple[str, str, str]  # storage, namespace, name
Listener = Callable[[Event], None]
Events = list[Event]


class Store:
    """All objects of one API. Open it with ``Store.open`` on an opened Database."""

    def __init__(self, db: Database, registry: Registry, clock: Clock, limits: Limits, decoded_objects: int) -> None:
        self.db = db
        self.registry = registry
        self.clock = clock
        self.revision = 0  # newest committed and visible
        self.slow_watchers = 0  # dropped with 410
        self._next = 1  # writer thread only
        self._ceiling = 0
        self._decoded = Decoded(decoded_objects)
        self._objects: dict[str, dict[str, dict[str, Stored]]] = {}
        self._pending: dict[
            Key, tuple[int, Stored | None]
        ] = {}  # written, not yet visible: (revision, None if deleted)
        self._history = watchlog.History(limits)
        self._memory: dict[str, deque[Event]] = {}
        self._watchers: dict[str, set[Watcher]] = {}
        self._bookmarked: set[Watcher] = set()
        self._last_bookmark = 0
        self._opened_at = 0  # memory-only kinds have no history before this
        self._listeners: dict[str, list[Listener]] = {}
        self._observers: list[Callable[[Resource, Event], None]] = []

    @classmethod
    async def open(
        cls,
        db: Database,
        registry: Registry,
        clock: Clock,
        *,
        limits: Limits | None = None,
        decoded_objects: int = 4096,
    ) -> Self:
        """Load the committed state. ``decoded_objects`` bounds memory: the edge passes a small number."""
        store = cls(db, registry, clock, limits or Limits(), decoded_objects)

        def prepare(tx: Tx) -> None:
            for statement in filter(None, map(str.strip, SCHEMA.split(";"))):
                tx.execute(statement)

        await db.tx(prepare)
        db.read(store._load)
        return store

    def _load(self, conn: Any) -> None:
        history = self._history
        history.compacted = watchlog.meta(conn, "compacted")
        newest = 1
        for revision, previous, deleted, storage, namespace, name, body in watchlog.rows(conn):
            names = self._objects.setdefault(storage, {}).setdefault(namespace, {})
            old = names.get(name)
            if old is not None and old.revision == previous:
                history.note(revision, previous, len(old.body))
            if deleted:
                names.pop(name, None)
                history.note(revision, revision, len(body))
            else:
                names[name] = Stored(namespace, name, revision, body, self._decoded)
            newest = revision
        self._ceiling = watchlog.meta(conn, "ceiling")
        self.revision = self._last_bookmark = max(newest, self._ceiling)
        self._next = self.revision + 1
        self._opened_at = self.revision

    def register(self, metrics: Metrics) -> None:
        """Show the store's sizes in ``metrics``."""
        prefix = "skerry_store_"
        metrics.gauge(
            f"{prefix}revision", "Newest committed revision of the object store", source=lambda: self.revision
        )
        metrics.gauge(f"{prefix}objects", "Objects in the store", source=lambda: sum(map(self._size, self._objects)))
        metrics.gauge(f"{prefix}history_rows", "Superseded rows kept for watches", source=lambda: len(self._history))
        metrics.gauge(
            f"{prefix}history_bytes",
            "Bytes of the superseded rows kept for watches",
            source=lambda: self._history.bytes,
        )
        metrics.gauge(
            f"{prefix}slow_watchers", "Watches ended because they were too slow", source=lambda: self.slow_watchers
        )

    def _size(self, storage: str) -> int:
        return sum(map(len, self._objects.get(storage, {}).values()))

    # reading: on the loop, committed state

    def stored(self, res: Resource, namespace: str, name: str) -> Stored | None:
        """Return the object at rest (bytes and revision), or None."""
        return self._objects.get(res.storage, {}).get(namespace if res.namespaced else "", {}).get(name)

    def get(self, res: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """Return the committed object in ``res``'s version, or None. Must not be changed."""
        found = self.stored(res, namespace, name)
        return None if found is None else versions.read(res, found.object)

    def items(self, res: Resource, namespace: str | None) -> Iterator[Stored]:
        """Yield objects at rest in (namespace, name) order. None is every namespace."""
        spaces = self._objects.get(res.storage, {})
        for space in sorted(spaces) if namespace is None else (namespace,):
            names = spaces.get(space)
            for name in sorted(names or ()):
                found = names.get(name) if names else None
                if found is not None:  # an admission hook reads in the writer thread, while the loop publishes
                    yield found

    def list(self, res: Resource, namespace: str | None) -> list[dict[str, Any]]:
        """Return committed objects in (namespace, name) order. Must not be changed."""
        return [versions.read(res, found.object) for found in self.items(res, namespace)]

    def count(self, res: Resource) -> int:
        return self._size(res.storage)

    def namespaces_in_use(self, res: Resource) -> tuple[str, ...]:
        return tuple(space for space, names in self._objects.get(res.storage, {}).items() if names)

    def remembers(self, revision: int) -> bool:
        """Whether a watch may still start at ``revision``."""
        return self._history.compacted <= revision <= self.revision

    # writing: inside a transaction, in the writer thread

    def peek(self, res: Resource, namespace: str, name: str) -> Stored | None:
        """Return the object as this transaction must see it, later than committed. Writer thread only."""
        key = (res.storage, namespace if res.namespaced else "", name)
        pending = self._pending.get(key)
        if pending is not None:
            return pending[1]
        return self.stored(res, namespace, name)

    def peek_all(self, res: Resource) -> Iterator[Stored]:
        """Yield the objects of every namespace as this transaction must see them. Writer thread only."""
        later = [(key, change[1]) for key, change in tuple(self._pending.items()) if key[0] == res.storage]
        found = {
            (item.namespace, item.name): item for item in self.items(res, None)
        }  # after the pending: none is missed
        for (_, namespace, name), item in later:
            if item is None:
                found.pop((namespace, name), None)
            else:
                found[namespace, name] = item
        yield from found.values()

    def put(self, tx: Tx, res: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        """Store ``obj`` as it is, with a new resourceVersion; returns what was stored. Trusted: nothing is checked.

        ``obj`` is in the version at rest and must not be changed afterwards.
        """
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "") if res.namespaced else ""
        revision = self._allocate(tx)
        stamped = with_revision(obj, revision)
        new = Stored(namespace, metadata["name"], revision, encode(stamped), self._decoded, stamped)
        self._write(tx, res, new, deleted=False)
        return stamped

    def remove(self, tx: Tx, res: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """Delete the object whatever its finalizers say; returns its last state, None when there was none."""
        old = self.peek(res, namespace, name)
        if old is None:
            return None
        revision = self._allocate(tx)
        stamped = with_revision(old.object, revision)
        self._write(tx, res, Stored(old.namespace, name, revision, encode(stamped), self._decoded), deleted=True)
        return stamped

    def _allocate(self, tx: Tx) -> int:
        revision = self._next
        self._next += 1
        if revision >= self._ceiling:
            ceiling = revision + watchlog.CEILING_STEP
            watchlog.set_meta(tx, "ceiling", ceiling)
            tx.after_commit(lambda: setattr(self, "_ceiling", ceiling))
        return revision

    def _write(self, tx: Tx, res: Resource, new: Stored, *, deleted: bool) -> None:
        key = (res.storage, new.namespace, new.name)
        old = self.peek(res, new.namespace, new.name)
        if res.durable:
            previous = old.revision if old else 0
            watchlog.append(tx, (new.revision, previous, int(deleted), *key, new.body))
        before = self._pending.get(key)
        current = None if deleted else new
        self._pending[key] = (new.revision, current)

        def undo() -> None:
            if before is None:
                self._pending.pop(key, None)
            else:
                self._pending[key] = before

        tx.on_rollback(undo)
        tx.after_commit(lambda: self._publish(res, key, current, Event(_change(old, deleted=deleted), new, old)))

    # becoming visible: on the loop, in commit order

    def _publish(self, res: Resource, key: Key, current: Stored | None, event: Event) -> None:
        storage, namespace, name = key
        names = self._objects.setdefault(storage, {}).setdefault(namespace, {})
        if current is None:
            names.pop(name, None)
        else:
            names[name] = current
        pending = self._pending.get(key)
        if pending is not None and pending[0] == event.revision:  # nothing newer waits behind it
            del self._pending[key]
        self.revision = event.revision
        self._remember(res, event)
        for watcher in tuple(self._watchers.get(storage, ())):
            watcher.push(event)
        for listener in self._listeners.get(storage, ()):
            listener(event)
        for everything in self._observers:
            everything(res, event)
        if event.revision - self._last_bookmark >= BOOKMARK_EVERY:
            self._last_bookmark = event.revision
            for watcher in tuple(self._bookmarked):
                watcher.push(self._bookmark(watcher.res, event.revision))

    def _remember(self, res: Resource, event: Event) -> None:
        if not res.durable:
            self._memory.setdefault(res.storage, deque(maxlen=MEMORY_EVENTS)).append(event)
            return
        if event.previous_stored is not None:
            self._history.note(event.revision, event.previous_stored.revision, len(event.previous_stored.body))
        if event.type == DELETED:
            self._history.note(event.revision, event.revision, len(event.stored.body))
        due = self._history.due()
        if due:
            horizon = self._history.compacted
            self.db.submit(lambda tx: watchlog.delete(tx, due, horizon)).add_done_callback(_log_failure)

    # watching

    def listen(self, res: Resource, listener: Listener) -> None:
        """Call ``listener`` on the loop at each committed change of ``res``, before any watcher's reader runs."""
        self._listeners.setdefault(res.storage, []).append(listener)

    def observe(self, observer: Callable[[Resource, Event], None]) -> None:
        """Call ``observer`` on the loop at each committed change of anything; ``res`` is the version it was written in."""
        self._observers.append(observer)

    def watch(
        self,
        res: Resource,
        namespace: str | None,
        since: int | None,
        bookmarks: bool = False,
        *,
        initial_end: bool = False,
    ) -> Watcher:
        """Return every change after revision ``since``, in order. Raises 410 when it is compacted or unknown.

        ``since`` None or 0 begins with an ADDED event per existing object; ``initial_end`` marks their end.
        """
        first = not since
        start = since or self.revision
        replayed = [] if first else self._replay(res, start)
        watcher = Watcher(
            res,
            namespace,
            start,
            current=lambda: self.revision,
            bookmark=self._bookmark,
            on_close=self._forget,
            convert=versions.read_event if res.converts or res.custom else None,
        )
        if first:
            for found in self.items(res, namespace):
                watcher.push(Event(ADDED, found), bounded=False)
            if initial_end:
                watcher.push(self._bookmark(res, start, initial_end=True), bounded=False)
        for event in replayed:
            watcher.push(event, bounded=False)
        self._watchers.setdefault(res.storage, set()).add(watcher)
        if bookmarks:
            self._bookmarked.add(watcher)
        return watcher

    def _replay(self, res: Resource, since: int) -> Events:
        if since > self.revision:
            raise gone(f"resourceVersion {since} is newer than any of this server ({self.revision}); list again")
        if since == self.revision:
            return []
        if not res.durable:
            return self._replay_memory(res, since)
        if since < self._history.compacted:
            raise gone(f"too old resource version: {since} ({self._history.compacted}); list again")
        rows = self.db.read(lambda conn: watchlog.since(conn, res.storage, since, self.revision))
        out: list[Event] = []
        for revision, previous, deleted, _, namespace, name, body, old_body in rows:
            new = Stored(namespace, name, revision, body, self._decoded)
            old = Stored(namespace, name, previous, old_body, self._decoded) if previous and old_body else None
            out.append(Event(_change(old, deleted=bool(deleted)), new, old))
        return out

    def _replay_memory(self, res: Resource, since: int) -> Events:
        held = self._memory.get(res.storage, ())
        oldest = held[0].revision if held else self.revision + 1
        full = len(held) == MEMORY_EVENTS
        if (full and since < oldest - 1) or since < self._opened_at:
            raise gone(f"too old resource version: {since}; list again")
        return [event for event in held if event.revision > since]

    def _bookmark(self, res: Resource, revision: int, *, initial_end: bool = False) -> Event:
        metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj = {"kind": res.kind, "apiVersion": res.api_version, "metadata": metadata}
        return Event(BOOKMARK, Stored("", "", revision, encode(obj), self._decoded))

    def _forget(self, watcher: Watcher, slow: bool) -> None:
        self._watchers.get(watcher.res.storage, set()).discard(watcher)
        self._bookmarked.discard(watcher)
        if slow:
            self.slow_watchers += 1
            log.warning("watcher dropped: too slow", resource=watcher.res.plural, dropped=self.slow_watchers)


def _change(old: Stored | None, *, deleted: bool) -> str:
    if deleted:
        return DELETED
    return ADDED if old is None else MODIFIED


def _log_failure(future: Any) -> None:
    if not future.cancelled() and future.exception() is not None:
        log.warning("compaction failed; the rows stay until the next start", error=str(future.exception()))
