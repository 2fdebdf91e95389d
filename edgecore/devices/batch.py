"""What one transaction writes, and what may be said once it is on disk (TWIN-10)."""

import asyncio
from collections.abc import Callable
from typing import Any

from devicetwin.merge import Change
from devicetwin.model import GROUP, DeviceId
from edgecore.devices import history, twins
from edgecore.devices.entry import Entry
from kubeapi.resources import Resource
from kubeapi.store import Store
from proto.kit.database import Tx
from proto.link.outbox import Outbox
from proto.names import ObjectKey


def status_key(device: DeviceId) -> str:
    """Return the link's key of a device's DeviceStatus."""
    return str(ObjectKey(GROUP, "devicestatuses", device.namespace, device.name))


class Batch:
    """Collected on the loop, written in the writer thread, then either ``answers`` go out or ``undo`` runs."""

    def __init__(self) -> None:
        self.states: dict[str, Entry] = {}  # uid -> whose device_state row changed
        self.twins: dict[tuple[str, str], Change] = {}  # (uid, property) -> newest change
        self.reported_only: dict[tuple[str, str], bool] = {}
        self.gone: list[tuple[str, int, DeviceId | None]] = []  # uid, counter, whose DeviceStatus goes with it
        self.history: list[bytes] = []
        self.statuses: list[tuple[str, dict[str, Any], bytes]] = []  # outbox key, DeviceStatus object, outbox body
        self.touched: dict[str, Entry] = {}  # whose DeviceStatus is to be written, now or soon
        self.flushed: list[Entry] = []  # whose DeviceStatus is in ``statuses``
        self.answers: list[tuple[str, bytes]] = []
        self.failed_answers: list[tuple[str, str]] = []  # result topic, event id
        self.waiting: list[asyncio.Future[None]] = []
        self.undo: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []
        self.retry: list[Callable[[Batch], None]] = []  # operations to run again when the commit fails

    @property
    def empty(self) -> bool:
        return not (self.states or self.twins or self.gone or self.history or self.statuses)

    def changed(self, entry: Entry, changes: list[Change], *, known: bool) -> None:
        """Note changed twins; ``known``: every one only re-reports a property that already has a row."""
        uid = entry.uid
        for change in changes:
            key = (uid, change.name)
            self.twins[key] = change
            self.reported_only[key] = known and self.reported_only.get(key, True)
        self.undo.append(lambda: entry.twin.undo(changes))

    def writer(self, store: Store, outbox: Outbox, status: Resource) -> Callable[[Tx], None]:
        """Freeze what is to be written into a transaction function (the loop goes on changing the live objects)."""
        states = [twins.state_row(e.twin, e.mapper_error) for e in self.states.values()]
        rows = [twins.twin_row(u, n, c.after) for (u, n), c in self.twins.items() if not self.reported_only[u, n]]
        reported = [
            (c.after.reported, c.after.reported_version, c.after.reported_at_ms, u, n)
            for (u, n), c in self.twins.items()
            if self.reported_only[u, n]
        ]
        gone, statuses, messages = self.gone, self.statuses, self.history

        def write(tx: Tx) -> None:
            for uid, counter, device in gone:
                twins.forget(tx, uid, counter)
                if device is not None:
                    store.remove(tx, status, device.namespace, device.name)
                    outbox.forget_state(tx, status_key(device))
            if states or rows or reported:
                twins.write(tx, states, rows, reported)
            for body in messages:
                outbox.put_message(tx, history.KIND, body)
            for key, obj, body in statuses:
                store.put(tx, status, obj)
                outbox.put_state(tx, key, body)

        return write
