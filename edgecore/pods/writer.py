"""Writes pod statuses: all that changed meanwhile in one transaction, into the store and the outbox together (POD-12).

The only writer of ``status`` of Pods in this node's store. A status is put into the newest version of its object.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgecore.pods import records, specs
from edgecore.pods.events import KIND as EVENT_KIND
from edgecore.pods.events import PodEvents
from edgecore.pods.records import Record
from edgecore.pods.specs import Json
from edgecore.pods.timers import either
from edgecore.told import kept
from kubeapi.kinds import POD
from kubeapi.store import Store
from proto import labels
from proto.kit import canonical
from proto.kit.clock import Clock
from proto.kit.database import Database, Tx
from proto.kit.errors import Retryable, Terminal
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.outbox import Outbox
from proto.names import ObjectKey

log = Logger("pods")
GONE = "pod-gone"  # kind of the message: everything of a deleted pod is off this node
RETRY_S = 1.0
GATHER_S = (
    0.5  # what is said on the way to a start is old before anyone has read it; ends and readiness are told at once
)


def status_key(namespace: str, name: str) -> str:
    """The link's key of a pod's status."""
    return str(ObjectKey("", "pods", namespace, name))


def body(uid: str, version: int, status: Json) -> bytes:
    """What travels to the cloud."""
    return canonical.encode({"uid": uid, "version": version, "status": status})


@dataclass(slots=True)
class _Batch:
    statuses: dict[str, tuple[str, str, Json, float]] = field(
        default_factory=dict
    )  # uid -> namespace, name, status, ran
    gone: dict[str, tuple[str, str]] = field(default_factory=dict)  # uid -> namespace, name: say so to the cloud
    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)  # uid -> ...: its object is gone, too
    messages: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.statuses or self.gone or self.dropped or self.messages)


class Writer:
    """Collects on the loop, writes in the writer thread; a failed write is tried again with what is newest then."""

    def __init__(
        self,
        db: Database,
        store: Store,
        outbox: Outbox,
        events: PodEvents,
        *,
        clock: Clock,
        metrics: Metrics,
        boot: str,
        mirrors: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._db, self._store, self._outbox, self._events = db, store, outbox, events
        self._clock, self._boot, self._mirrors = clock, boot, mirrors
        self.records: dict[str, Record] = db.read(records.load)
        self._next, self._under_way = _Batch(), _Batch()
        self._unhurried: dict[
            str, tuple[str, str, Json, float]
        ] = {}  # statuses that may be replaced before they are written
        self.gather_s = GATHER_S
        self._gather_by_s: float | None = None  # when they, and events, are written at the latest
        self._signal = asyncio.Event()
        self._failed = metrics.counter(
            "skerry_edge_pod_commits_failed_total", "Pod status transactions that did not commit."
        )
        self.trouble = ""  # why nothing can be written now
        self.show_event: Callable[[Tx, bytes], None] = lambda _tx, _body: None  # to people at this node
        events.wake = self._gather

    def status(self, uid: str, namespace: str, name: str) -> Json:
        """The newest status of a pod, written or on its way."""
        for waiting in (self._next.statuses, self._unhurried, self._under_way.statuses):
            if uid in waiting:
                return waiting[uid][2]
        stored = self._store.get(POD, namespace, name)
        if stored is None or stored["metadata"].get("uid", "") != uid:
            return {}
        return stored.get("status") or {}

    def put(self, uid: str, namespace: str, name: str, status: Json, elapsed_s: float) -> None:
        """Write ``status`` soon; nothing happens when it is what stands there."""
        before = self.status(uid, namespace, name)
        if before == status:
            return
        entry = (namespace, name, status, elapsed_s)
        if uid in self._next.statuses or _gist(before) != _gist(status):
            self._unhurried.pop(uid, None)
            self._next.statuses[uid] = entry
            self._signal.set()
        else:
            self._unhurried[uid] = entry
            self._gather()

    def gone(self, uid: str, namespace: str, name: str) -> None:
        """Tell the cloud that nothing of a deleted pod is left here."""
        if (last := self._unhurried.pop(uid, None)) is not None:
            self._next.statuses[uid] = last  # what was said last goes before
        self._next.gone[uid] = (namespace, name)
        self._signal.set()

    def drop(self, uid: str, namespace: str, name: str) -> None:
        """Forget a pod that has no object any more."""
        self._next.statuses.pop(uid, None)
        self._unhurried.pop(uid, None)
        self._next.dropped[uid] = (namespace, name)
        self._signal.set()

    def message(self, kind: str, content: bytes) -> None:
        """Append one message of the room to the outbox."""
        self._next.messages.append((kind, content))
        self._signal.set()

    def mirrors_changed(self) -> None:
        """The cloud has a new uid for a pod that began here (static, or made at this node): its status is told under it."""
        for uid, record in self.records.items():
            if status := self.status(uid, record.namespace, record.name):
                stored = self._store.get(POD, record.namespace, record.name)
                if stored is not None and _began_here(stored) and uid not in self._next.statuses:
                    elapsed_s = record.elapsed(self._boot, self._clock.now_s())
                    self._unhurried.pop(uid, None)
                    self._next.statuses[uid] = (record.namespace, record.name, status, elapsed_s)
                    self._signal.set()

    def _told_as(self, pod: Json) -> str:
        """The uid under which the cloud knows the pod; "" while it does not know it."""
        if not specs.is_static(pod):
            return labels.cloud_uid(pod["metadata"])
        return self._mirrors().get(status_key(*specs.name_of(pod)), "")

    def bodies(self) -> dict[str, bytes]:
        """Key -> body of every status that this node has written, for the link's repair at hello."""
        out = {}
        for stored in self._store.items(POD, None):
            pod = stored.object
            record = self.records.get(pod["metadata"].get("uid", ""))
            if record is not None and record.version and pod.get("status") and (uid := self._told_as(pod)):
                out[status_key(stored.namespace, stored.name)] = body(uid, record.version, pod["status"])
        return out

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            while (left_s := self._left_s()) > 0:
                self._signal.clear()
                if left_s == float("inf"):
                    await self._signal.wait()
                else:
                    await either(self._signal, self._clock, left_s)
            await self._write()

    def _gather(self) -> None:
        """Something is to be written that is in no hurry."""
        if self._gather_by_s is None:
            self._gather_by_s = self._clock.now_s() + self.gather_s
            self._signal.set()

    def _left_s(self) -> float:
        """How long nothing needs to be written."""
        if not self._next.empty:
            return 0.0
        return float("inf") if self._gather_by_s is None else self._gather_by_s - self._clock.now_s()

    async def _write(self) -> None:
        if self._gather_by_s is not None and self._gather_by_s <= self._clock.now_s():
            self._gather_by_s = None
            self._next.messages += [(EVENT_KIND, event) for event in self._events.due()]
            self._next.statuses, self._unhurried = self._unhurried | self._next.statuses, {}
        batch, self._next, self._under_way = self._next, _Batch(), self._next
        if batch.empty:
            return
        try:
            await self._db.tx(self._transaction(batch))
        except Retryable as error:
            self._put_back(batch, str(error))
            await self._clock.sleep(RETRY_S)
            return
        except Terminal as error:  # larger than the link can carry: said and counted, and the daemon lives
            self._failed.inc()
            log.warning("pod statuses dropped", pods=len(batch.statuses), reason=error)
        finally:
            self._under_way = _Batch()
        if self.trouble:
            log.info("pod statuses are kept again")
        self.trouble = ""

    def _put_back(self, batch: _Batch, reason: str) -> None:
        self._failed.inc()
        if not self.trouble:
            log.warning("pod statuses cannot be kept", reason=reason)
        self.trouble = reason
        newer = self._next
        statuses = batch.statuses | newer.statuses
        statuses |= {uid: self._unhurried.pop(uid) for uid in statuses.keys() & self._unhurried.keys()}
        self._next = _Batch(
            statuses,
            batch.gone | newer.gone,
            batch.dropped | newer.dropped,
            batch.messages + newer.messages,
        )
        self._signal.set()

    def _transaction(self, batch: _Batch) -> Callable[[Tx], None]:
        now_s = self._clock.now_s()
        versions = {uid: self.records[uid].version if uid in self.records else 0 for uid in batch.statuses}

        def write(tx: Tx) -> None:
            for uid, (namespace, name, status, elapsed_s) in batch.statuses.items():
                record = Record(uid, namespace, name, versions[uid] + 1, self._boot, now_s, elapsed_s)
                self._put(tx, record, status)
            for uid, (namespace, name) in batch.gone.items():
                self._gone(tx, uid, namespace, name)
            for uid, (namespace, name) in batch.dropped.items():
                self._drop(tx, uid, namespace, name)
            for kind, content in batch.messages:
                self._outbox.put_message(tx, kind, content)
                if kind == EVENT_KIND:
                    self.show_event(tx, content)

        return write

    def _gone(self, tx: Tx, uid: str, namespace: str, name: str) -> None:
        """Say so to the cloud if it knows the pod; what was deleted at this node is not waited for."""
        stored = self._store.peek(POD, namespace, name)
        metadata = stored.object["metadata"] if stored is not None else {}
        if metadata.get("uid") == uid:
            if not {labels.PENDING, labels.CONTINUED}.isdisjoint(metadata.get("annotations") or {}):
                self._store.remove(tx, POD, namespace, name)
            uid = labels.cloud_uid(metadata)
        if uid:
            content = canonical.encode({"namespace": namespace, "name": name, "uid": uid})
            self._outbox.put_message(tx, GONE, content)

    def _put(self, tx: Tx, record: Record, status: Json) -> None:
        stored = self._store.peek(POD, record.namespace, record.name)
        if stored is None or stored.object["metadata"].get("uid", "") != record.uid:
            return  # gone meanwhile, or made again: that one gets its own status
        status = kept(stored.object, status)
        self._store.put(tx, POD, {**stored.object, "status": status})
        if told_as := self._told_as(stored.object):
            key = status_key(record.namespace, record.name)
            self._outbox.put_state(tx, key, body(told_as, record.version, status))
        records.save(
            tx,
            (
                record.uid,
                record.namespace,
                record.name,
                record.version,
                record.boot,
                record.at_s,
                record.elapsed_s,
            ),
        )
        tx.after_commit(lambda: self.records.__setitem__(record.uid, record))

    def _drop(self, tx: Tx, uid: str, namespace: str, name: str) -> None:
        records.forget(tx, uid)
        stored = self._store.peek(POD, namespace, name)
        if stored is None:  # no successor of the same name whose status waits
            self._outbox.forget_state(tx, status_key(namespace, name))

        def forget() -> None:
            self.records.pop(uid, None)

        tx.after_commit(forget)


def _gist(status: Json) -> tuple[object, ...]:
    """What others act on."""
    ready = [c.get("status") for c in status.get("conditions") or () if c.get("type") == "Ready"]
    return (status.get("phase", "Pending"), ready == ["True"])


def _began_here(pod: Json) -> bool:
    return specs.is_static(pod) or labels.CLOUD_UID in (pod["metadata"].get("annotations") or {})
