"""What MQTT clients ask, answered on the device's own topic with their event id, in the form they used (TWIN-11)."""

from collections.abc import Callable, Mapping

from devicetwin import topics
from devicetwin.delta import delta
from devicetwin.lifecycle import ALIVE, REASON_STATE, STATES, instant
from devicetwin.merge import BAD_REQUEST, NOT_FOUND, Change, Rejected, Wish, update
from devicetwin.model import DEFAULT_NAMESPACE, DeviceId
from edgecore.devices import history
from edgecore.devices.batch import Batch
from edgecore.devices.entry import Entry
from edgecore.devices.mqtt import DeviceBroker
from proto.kit.clock import Clock, wall_ms
from proto.kit.metrics import Metrics


class Requests:
    """Applies requests to the entries of this node; everything that must be written or said goes into the batch."""

    def __init__(
        self, node: str, entries: Mapping[DeviceId, Entry], broker: DeviceBroker, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._node = node
        self._entries = entries
        self._broker = broker
        self._clock = clock
        self._on_expected: Callable[[DeviceId], object] = lambda _device: None
        self._asked = metrics.counter(
            "skerry_edge_device_requests_total", "Requests of MQTT clients and mappers by result.", ["verb", "result"]
        )
        self._verbs = {
            topics.TWIN_UPDATE: self._twin_update,
            topics.TWIN_GET: self._twin_get,
            topics.TWIN_CLOUD_UPDATED: self._cloud_updated,
            topics.STATE_UPDATE: self._state_update,
            topics.STATE_GET: self._state_get,
            topics.MEMBERSHIP_GET: self._membership_get,
            topics.MEMBERSHIP_DETAIL: self._membership_detail,
        }

    def on_expected(self, told: Callable[[DeviceId], object]) -> None:
        """Call ``told`` once an app's own expected value is on disk."""
        self._on_expected = told

    def handle(self, request: topics.Request, payload: bytes, batch: Batch) -> None:
        """Carry out one request; a refusal is an answer."""
        try:
            self._verbs[request.verb](request, payload, batch)
        except Rejected as refusal:
            self._asked.inc(request.verb, str(refusal.status))
            event_id = topics.event_id_of(payload)
            answer = topics.error(event_id, wall_ms(self._clock), refusal.status, str(refusal))
            batch.answers.append((request.result_topic(), answer))
        else:
            self._asked.inc(request.verb, "ok")

    def report(self, device: DeviceId, wishes: Mapping[str, Wish | None], batch: Batch) -> None:
        """Take a mapper's report. Raises Rejected."""
        entry = self._entry(device, topics.REASON_NO_DEVICE)
        now_ms = wall_ms(self._clock)
        self._accept(entry, update(entry.twin, wishes, now_ms), now_ms, "", batch)
        self._asked.inc("report", "ok")

    def set_state(self, entry: Entry, state: str, batch: Batch, *, counted: bool = False) -> None:
        """Record what a device (or its mapper) says of itself; ``state`` in the client's own case (TWIN-14).

        ``counted``: it comes with a report that has moved the counter already.
        """
        device = entry.twin
        before, online = device.state, device.last_online_ms
        device.state = state
        if state.lower() in ALIVE:
            device.last_online_ms = wall_ms(self._clock)
        device.counter += 0 if counted else 1
        batch.undo.append(lambda: _restore_state(entry, before, online))
        batch.states[entry.uid] = entry
        batch.touched[entry.uid] = entry

    def tell(self, entry: Entry, suffix: str, payload: bytes, batch: Batch, *, both: bool = False) -> None:
        """Publish on the device's topics: the two-level form, and the one-level one where it is used (or ``both``)."""
        device = entry.id
        batch.answers.append((topics.device_topic(device, suffix), payload))
        if device.namespace == DEFAULT_NAMESPACE and (both or entry.one_level):
            batch.answers.append((topics.device_topic(device, suffix, one_level=True), payload))

    def tell_delta(self, entry: Entry, batch: Batch, *, both: bool = False) -> None:
        """Say what is pending, if anything is (TWIN-8)."""
        pending = delta(entry.twin.twins)
        if pending:
            message = topics.delta_message(wall_ms(self._clock), entry.twin.twins, pending)
            self.tell(entry, topics.DELTA, message, batch, both=both)
            entry.told_delta_at_s = self._clock.now_s()

    def tell_changes(
        self, entry: Entry, event_id: str, changes: list[Change], batch: Batch, *, both: bool = False
    ) -> None:
        """Publish ``twin/update/document`` where somebody may listen."""
        device = entry.id
        forms = (False, True) if entry.one_level or both else (False,)
        if any(self._broker.listens(topics.device_topic(device, topics.DOCUMENT, one_level=form)) for form in forms):
            self.tell(
                entry, topics.DOCUMENT, topics.document(event_id, wall_ms(self._clock), changes), batch, both=both
            )

    def _twin_update(self, request: topics.Request, payload: bytes, batch: Batch) -> None:
        message = topics.decode_update(payload)
        entry = self._device(request, topics.REASON_NO_DEVICE)
        now_ms = wall_ms(self._clock)
        changes = update(entry.twin, message.wishes, now_ms)
        result = request.result_topic()
        batch.failed_answers.append((result, message.event_id))
        if self._broker.listens(result):
            batch.answers.append((result, topics.update_result(message.event_id, now_ms, changes)))
        self._accept(entry, changes, now_ms, message.event_id, batch)

    def _accept(self, entry: Entry, changes: list[Change], now_ms: int, event_id: str, batch: Batch) -> None:
        """Everything that follows an accepted update: rows, history, status, document, delta."""
        if not changes:
            return
        device = entry.twin
        properties = device.spec.properties
        values, at_ms, visible = {}, now_ms, False
        for change in changes:
            prop = properties.get(change.name)
            if prop is not None and not prop.report_to_cloud:
                continue  # stays on the node (TWIN-16)
            visible = True
            if change.reported_set and change.after.reported is not None:
                values[change.name] = change.after.reported
                at_ms = change.after.reported_at_ms
        batch.changed(entry, changes, known=all(map(is_report, changes)))
        if values:
            batch.history.append(history.row(entry.id, entry.uid, at_ms, device.counter, values))
        if visible:
            batch.touched[entry.uid] = entry
        if any(change.expected_set for change in changes):
            batch.after.append(lambda: self._on_expected(entry.id))
        if any(change.reported_set for change in changes):
            self._heard(entry, batch)
        self.tell_changes(entry, event_id, changes, batch)
        self.tell_delta(entry, batch)

    def _heard(self, entry: Entry, batch: Batch) -> None:
        """A report is a sign of life: it ends silence, and a device that never said its state is online (TWIN-14)."""
        entry.heard_at_s = self._clock.now_s()
        entry.silent = False
        if not entry.twin.state:
            self.set_state(entry, "online", batch, counted=True)

    def _twin_get(self, request: topics.Request, payload: bytes, batch: Batch) -> None:
        event_id = topics.decode_ask(payload)
        entry = self._device(request, f"Device {request.device} not found while getting twin")
        answer = topics.get_result(event_id, wall_ms(self._clock), entry.twin.twins)
        batch.answers.append((request.result_topic(), answer))

    def _cloud_updated(self, _request: topics.Request, _payload: bytes, _batch: Batch) -> None:
        raise Rejected(BAD_REQUEST, topics.REASON_CLOUD_ONLY)

    def _state_update(self, request: topics.Request, payload: bytes, batch: Batch) -> None:
        message = topics.decode_state(payload)
        entry = self._device(request, topics.REASON_NO_DEVICE)
        if message.state.lower() not in STATES:
            raise Rejected(BAD_REQUEST, REASON_STATE)
        came_back = message.state.lower() in ALIVE and entry.twin.state.lower() not in ALIVE
        self.set_state(entry, message.state, batch)
        batch.failed_answers.append((request.result_topic(), message.event_id))
        self._answer_state(request, message.event_id, entry, batch)
        if came_back:
            self.tell_delta(entry, batch)

    def _state_get(self, request: topics.Request, payload: bytes, batch: Batch) -> None:
        event_id = topics.decode_ask(payload)
        self._answer_state(request, event_id, self._device(request, topics.REASON_NO_DEVICE), batch)

    def _answer_state(self, request: topics.Request, event_id: str, entry: Entry, batch: Batch) -> None:
        device = entry.twin
        state = device.state or "unknown"
        online = instant(device.last_online_ms) if state.lower() in ALIVE else ""
        answer = topics.state_result(event_id, wall_ms(self._clock), entry.id.name, state, online)
        batch.answers.append((request.result_topic(), answer))

    def _membership_get(self, request: topics.Request, payload: bytes, batch: Batch) -> None:
        self._list(request, payload, batch, twins="")

    def _membership_detail(self, request: topics.Request, payload: bytes, batch: Batch) -> None:
        if topics.has_devices(payload):
            raise Rejected(BAD_REQUEST, "the list of devices belongs to the cloud: create or delete the Device there")
        self._list(request, payload, batch, twins="versioned")

    def _list(self, request: topics.Request, payload: bytes, batch: Batch, *, twins: str) -> None:
        event_id = topics.decode_ask(payload)
        if request.node != self._node:
            raise Rejected(NOT_FOUND, f"node {request.node} is not this node, {self._node}")
        found = [topics.member(e.twin, instant(e.twin.last_online_ms), twins=twins) for e in self._entries.values()]
        answer = topics.membership_result(event_id, wall_ms(self._clock), found)
        batch.answers.append((request.result_topic(), answer))

    def _device(self, request: topics.Request, reason: str) -> Entry:
        if request.device is None:
            raise Rejected(NOT_FOUND, reason)
        entry = self._entry(request.device, reason)
        entry.one_level = entry.one_level or request.one_level
        return entry

    def _entry(self, device: DeviceId, reason: str) -> Entry:
        entry = self._entries.get(device)
        if entry is None:
            raise Rejected(NOT_FOUND, reason)
        return entry


def is_report(change: Change) -> bool:
    """Whether ``change`` touches nothing but the reported value of a twin that has a row."""
    before, after = change.before, change.after
    return (
        before is not None
        and before.deleted_version == 0
        and change.reported_set
        and not change.expected_set
        and before.optional == after.optional
        and before.type == after.type
        and before.declared == after.declared
    )


def _restore_state(entry: Entry, state: str, last_online_ms: int) -> None:
    entry.twin.state, entry.twin.last_online_ms = state, last_online_ms
