"""Makes the twins follow the Device and DeviceModel objects of the store. Level-triggered: it looks at what is there now."""

from collections.abc import Callable
from typing import Any

from devicetwin import topics
from devicetwin.merge import DeviceTwin, apply_spec
from devicetwin.model import DeviceId, DeviceSpec, model_key, read_device
from edgecore.devices.batch import Batch
from edgecore.devices.entry import Entry
from edgecore.devices.requests import Requests
from edgecore.devices.statuses import Statuses
from edgecore.devices.twins import FLOOR, Saved
from edgecore.kinds import DEVICE, DEVICE_MODEL
from kubeapi.store import Store
from proto.kit.clock import Clock, wall_ms
from proto.kit.log import Logger

log = Logger("devices")
Changed = Callable[[DeviceId], object]


class Specs:
    """Reads Device and DeviceModel. ``saved`` is what the last run left, by uid; each device takes its own once."""

    def __init__(
        self,
        node: str,
        store: Store,
        *,
        entries: dict[DeviceId, Entry],
        requests: Requests,
        statuses: Statuses,
        saved: dict[str, Saved],
        clock: Clock,
        stale_after_s: float,
    ) -> None:
        self._node = node
        self._store = store
        self._entries = entries
        self._requests = requests
        self._statuses = statuses
        floor = saved.pop(FLOOR, None)
        self._floor = floor.counter if floor is not None else 0
        self._saved = saved
        self._clock = clock
        self._stale_after_s = stale_after_s
        self._users: dict[tuple[str, str], set[DeviceId]] = {}  # model -> devices that name it

    def users(self, model: tuple[str, str]) -> set[DeviceId]:
        """Return the devices that name this model."""
        return set(self._users.get(model, ()))

    def reconcile(self, device: DeviceId, batch: Batch, changed: Changed) -> None:
        """Take one device to what the store says now; safe to repeat at any point."""
        obj = self._store.get(DEVICE, device.namespace, device.name)
        entry = self._entries.get(device)
        if obj is not None and obj.get("spec", {}).get("nodeName", self._node) not in ("", self._node):
            obj = None
        if entry is not None and (obj is None or obj["metadata"].get("uid", "") != entry.uid):
            self._remove(entry, batch, changed)
            entry = None
        if obj is None:
            return
        named = model_key(obj)
        if named is not None:
            self._users.setdefault(named, set()).add(device)
        spec = read_device(obj, self._store.get(DEVICE_MODEL, *named) if named else None)
        if entry is None:
            entry, is_new = self._add(spec, batch)
            said = len(batch.answers)
            self._apply(entry, spec, batch)
            if is_new:  # told before its delta, with what is desired of it
                batch.answers.insert(said, self._announcement(entry))
            if not self._statuses.is_current(entry):
                batch.touched[entry.uid] = entry
        else:
            self._apply(entry, spec, batch)
        batch.after.append(lambda: changed(device))

    def forget_strangers(self, batch: Batch) -> None:
        """Drop what the last run saved of Device objects that are not here any more; call once, after the first pass."""
        for uid, saved in self._saved.items():
            log.info("device gone while edgecore was down", device=f"{saved.namespace}/{saved.name}")
            device = DeviceId(saved.namespace, saved.name)
            batch.gone.append((uid, saved.counter, device if device not in self._entries else None))
            self._floor = max(self._floor, saved.counter)
        self._saved.clear()

    def _add(self, spec: DeviceSpec, batch: Batch) -> tuple[Entry, bool]:
        """Return the entry, and whether nobody here knew the device before."""
        entry = Entry(DeviceTwin(spec), self._clock.now_s())
        saved = self._saved.pop(spec.uid, None)
        entry.twin.counter = self._floor
        if saved is not None:
            saved.restore(entry.twin)
            entry.mapper_error = saved.mapper_error
        self._entries[spec.id] = entry
        batch.undo.append(lambda: self._entries.pop(spec.id, None))
        self._statuses.recall(entry)
        if saved is not None:
            batch.undo.append(lambda: self._saved.__setitem__(saved.uid, saved))
        else:
            batch.states[entry.uid] = entry
            log.info("device added", device=spec.id, protocol=spec.protocol or "mqtt", model=spec.model)
        return entry, saved is None

    def _announcement(self, entry: Entry) -> tuple[str, bytes]:
        member = topics.member(entry.twin, "", twins="plain")
        topic = topics.node_topic(self._node, topics.MEMBERSHIP_UPDATED)
        return topic, topics.membership_updated(wall_ms(self._clock), added=member)

    def _apply(self, entry: Entry, spec: DeviceSpec, batch: Batch) -> None:
        device = entry.twin
        before, labels = (device.spec, device.generation), dict(device.spec.labels)
        changes = apply_spec(device, spec, wall_ms(self._clock))
        batch.undo.append(lambda: _restore_spec(device, *before))
        entry.set_silence(self._stale_after_s)
        if changes:
            batch.changed(entry, changes, known=False)
            self._requests.tell_changes(entry, topics.new_event_id(), changes, batch, both=True)
            self._requests.tell_delta(entry, batch, both=True)
        if changes or before[1] != device.generation or before[0] != spec:
            batch.states[entry.uid] = entry
            batch.touched[entry.uid] = entry
        if labels != spec.labels:
            message = topics.attributes_updated(wall_ms(self._clock), labels, spec.labels)
            self._requests.tell(entry, topics.UPDATED, message, batch, both=True)

    def _remove(self, entry: Entry, batch: Batch, changed: Changed) -> None:
        device = entry.id
        del self._entries[device]
        batch.undo.append(lambda: self._entries.__setitem__(device, entry))
        for users in self._users.values():
            users.discard(device)
        self._statuses.forget(entry.uid)
        batch.states.pop(entry.uid, None)
        batch.touched.pop(entry.uid, None)
        for key in [key for key in batch.twins if key[0] == entry.uid]:
            del batch.twins[key]
        batch.gone.append((entry.uid, entry.twin.counter, device))
        self._floor = max(self._floor, entry.twin.counter)
        topic = topics.node_topic(self._node, topics.MEMBERSHIP_UPDATED)
        batch.answers.append((topic, topics.membership_updated(wall_ms(self._clock), removed=device)))
        batch.after.append(lambda: changed(device))
        log.info("device removed", device=device)


def _restore_spec(device: DeviceTwin, spec: Any, generation: int) -> None:
    device.spec, device.generation = spec, generation
