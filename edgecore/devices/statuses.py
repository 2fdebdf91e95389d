"""Which DeviceStatus is written when: at once while the room is quiet, coalesced per device while it is busy.

Reads twins; the only writer of DeviceStatus on this node.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from devicetwin.lifecycle import conditions, device_status, read_conditions
from devicetwin.model import API_VERSION, DeviceId
from edgecore.devices.batch import Batch, status_key
from edgecore.devices.entry import Entry
from kubeapi.resources import Resource
from kubeapi.store import Store
from proto.kit import canonical
from proto.kit.clock import Clock, rfc3339

# Every further DeviceStatus costs a write here, a message on the link and a write in the cloud. While this many are on
# their way, the newest of each device is enough, and history keeps every report: a longer queue would only age them.
ON_THEIR_WAY = 80
OLDEST_S = 0.4  # a changed status waits no longer than this, even while the cloud is away


class Statuses:
    """The changed statuses that wait, oldest first. ``on_their_way`` counts those that the cloud has yet to acknowledge."""

    def __init__(self, store: Store, resource: Resource, clock: Clock, on_their_way: Callable[[], int]) -> None:
        self._store = store
        self._resource = resource
        self._clock = clock
        self._waiting: dict[str, tuple[Entry, float]] = {}  # uid -> entry, since (monotonic)
        self._on_their_way = on_their_way

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def forget(self, uid: str) -> None:
        self._waiting.pop(uid, None)

    def take(self, batch: Batch) -> None:
        """Move due statuses into ``batch``; the others of ``batch.touched`` wait."""
        now_s = self._clock.now_s()
        for uid, entry in batch.touched.items():
            if uid not in self._waiting:
                self._waiting[uid] = (entry, now_s)
        if not self._waiting:
            return
        room = ON_THEIR_WAY - self._on_their_way()
        now = rfc3339(self._clock.wall())
        for uid in list(self._waiting):
            entry, since_s = self._waiting[uid]
            if room <= 0 and now_s - since_s < OLDEST_S:
                break
            room -= 1
            del self._waiting[uid]
            self._write(batch, entry, now_s, now)

    def put_back(self, batch: Batch, entries: Mapping[DeviceId, Entry]) -> None:
        """The commit failed: what it would have written waits again, of the devices that are still ``entries``."""
        now_s = self._clock.now_s()
        for entry in batch.flushed:
            self._waiting.setdefault(entry.uid, (entry, now_s))
        self._waiting = {u: w for u, w in self._waiting.items() if entries.get(w[0].id) is w[0]}

    def _write(self, batch: Batch, entry: Entry, now_s: float, now: str) -> None:
        device = entry.twin
        found = conditions(device, entry.around(now_s), entry.conditions, now)
        if device.counter == entry.written:  # only conditions moved: the cloud must still see a newer version
            device.counter += 1
            batch.states[entry.uid] = entry
        before, written = entry.conditions, entry.written
        entry.conditions, entry.written = found, device.counter
        batch.undo.append(lambda: _restore(entry, before, written))
        status = device_status(device, found)
        batch.statuses.append((status_key(entry.id), self._object(entry, status), body(entry.uid, status)))
        batch.flushed.append(entry)

    def _object(self, entry: Entry, status: dict[str, Any]) -> dict[str, Any]:
        device = entry.id
        owner = {"apiVersion": API_VERSION, "kind": "Device", "name": device.name, "uid": entry.uid}
        return {
            "apiVersion": API_VERSION,
            "kind": "DeviceStatus",
            "metadata": {"name": device.name, "namespace": device.namespace, "ownerReferences": [owner]},
            "status": status,
        }

    def recall(self, entry: Entry) -> None:
        """Take up conditions and version of the stored DeviceStatus, if there is one of this uid."""
        stored = self._store.get(self._resource, entry.id.namespace, entry.id.name)
        if stored is None or _owner(stored) != entry.uid:
            return
        status = stored.get("status", {})
        entry.conditions = read_conditions(status)
        entry.written = int(status.get("extensions", {}).get("version", -1))
        entry.twin.counter = max(entry.twin.counter, entry.written)

    def is_current(self, entry: Entry) -> bool:
        """Whether the stored DeviceStatus still says what is so (a crash may have come before it was written)."""
        found = conditions(entry.twin, entry.around(self._clock.now_s()), entry.conditions, "")
        return entry.written == entry.twin.counter and found == entry.conditions

    def bodies(self) -> Iterator[tuple[str, bytes]]:
        """Yield (key, body) of every stored DeviceStatus, as they were put into the outbox."""
        for stored in self._store.items(self._resource, None):
            obj = stored.object
            key = status_key(DeviceId(stored.namespace, stored.name))
            yield key, body(_owner(obj), obj.get("status", {}))


def body(uid: str, status: Mapping[str, Any]) -> bytes:
    """What travels to the cloud: canonical JSON of uid, version and status."""
    return canonical.encode({"uid": uid, "version": status["extensions"]["version"], "status": status})


def _restore(entry: Entry, before: Any, written: int) -> None:
    entry.conditions, entry.written = before, written


def _owner(obj: Mapping[str, Any]) -> str:
    owners = obj.get("metadata", {}).get("ownerReferences") or [{}]
    return str(owners[0].get("uid", ""))
