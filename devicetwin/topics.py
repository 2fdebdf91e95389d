"""KubeEdge's MQTT topics and payloads for devices, both directions; the only file that knows either (TWIN-11).

``$hw/events/device/{ns}/{name}/…`` and the older ``$hw/events/device/{name}/…`` (namespace ``default``) are told apart by
counting levels, and every level is read by its position, so a device may be called ``twin`` and a namespace ``device``.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from devicetwin.merge import BAD_REQUEST, Change, DeviceTwin, Rejected, Twin, Wish
from devicetwin.model import DEFAULT_NAMESPACE, DeviceId

DEVICE_PREFIX = "$hw/events/device"
NODE_PREFIX = "$hw/events/node"
TWIN_GET, TWIN_UPDATE, TWIN_CLOUD_UPDATED = "twin/get", "twin/update", "twin/cloud_updated"
STATE_GET, STATE_UPDATE = "state/get", "state/update"
MEMBERSHIP_GET, MEMBERSHIP_DETAIL = "membership/get", "membership/detail"
DEVICE_VERBS = {
    ("twin", "get"): TWIN_GET,
    ("twin", "update"): TWIN_UPDATE,
    ("twin", "cloud_updated"): TWIN_CLOUD_UPDATED,
    ("state", "get"): STATE_GET,
    ("state", "update"): STATE_UPDATE,
}
NODE_VERBS = {("membership", "get"): MEMBERSHIP_GET, ("membership", "detail"): MEMBERSHIP_DETAIL}
# One filter per request and form: our own answers do not come back to us.
FILTERS = (
    *(f"{DEVICE_PREFIX}/{levels}/{verb}" for levels in ("+/+", "+") for verb in DEVICE_VERBS.values()),
    *(f"{NODE_PREFIX}/+/{verb}" for verb in NODE_VERBS.values()),
)
# KubeEdge forwards these to its cloud router; here nothing does, so they are counted.
ROUTER_FILTERS = ("$hw/events/upload/#", "SYS/dis/upload_records", "+/user/#")
DOCUMENT, DELTA, UPDATED, MEMBERSHIP_UPDATED = (
    "twin/update/document",
    "twin/update/delta",
    "updated",
    "membership/updated",
)
RESULT = "result"

REASON_UNMARSHAL = "Unmarshal update request body failed, please check the request"
REASON_NO_TWIN = "Update twin error, key:twin does not exist"
REASON_NO_DEVICE = "update rejected due to the device is not existed"
REASON_CLOUD_ONLY = "desired values belong to the cloud: change the Device there, or send expected with twin/update"
# msgspec lets invalid UTF-8 and bottomless nesting out as what they are.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
EARLIEST_MS, LATEST_MS = 1_000_000_000_000, 10_000_000_000_000  # 2001 to 2286: outside, it is no Unix millisecond


class Request(msgspec.Struct, frozen=True):
    """What a topic asks, of which device or node, in which form."""

    verb: str
    device: DeviceId | None = None
    node: str = ""
    one_level: bool = False

    def result_topic(self) -> str:
        if self.device is None:
            return f"{NODE_PREFIX}/{self.node}/{self.verb}/{RESULT}"
        return device_topic(self.device, f"{self.verb}/{RESULT}", one_level=self.one_level)


class ValueMetadata(msgspec.Struct, omit_defaults=True):
    timestamp: int | None = None


class TypeMetadata(msgspec.Struct, omit_defaults=True):
    type: str | None = None


class TwinValue(msgspec.Struct, omit_defaults=True):
    value: str | None = None
    metadata: ValueMetadata | None = None


class Version(msgspec.Struct):
    cloud: int
    edge: int


class MsgTwin(msgspec.Struct, omit_defaults=True):
    expected: TwinValue | None = None
    actual: TwinValue | None = None
    optional: bool | None = None
    metadata: TypeMetadata | None = None


class VersionedTwin(MsgTwin, omit_defaults=True):
    expected_version: Version | None = None
    actual_version: Version | None = None


class _Ask(msgspec.Struct):
    event_id: str | None = None
    timestamp: int | None = None


class _TwinUpdate(_Ask):
    twin: dict[str, MsgTwin | None] | None = None


class _StateUpdate(_Ask):
    state: str | None = None


class _TwinAnswer(msgspec.Struct):
    event_id: str
    timestamp: int
    twin: Mapping[str, MsgTwin | None]


class _DeltaAnswer(msgspec.Struct):
    event_id: str
    timestamp: int
    twin: Mapping[str, MsgTwin]
    delta: Mapping[str, str]


class _Document(msgspec.Struct):
    last: MsgTwin | None
    current: MsgTwin | None


class _DocumentAnswer(msgspec.Struct):
    event_id: str
    timestamp: int
    twin: Mapping[str, _Document]


class TwinUpdate(msgspec.Struct, frozen=True):
    """A decoded ``twin/update``."""

    event_id: str
    wishes: Mapping[str, Wish | None]


class StateUpdate(msgspec.Struct, frozen=True):
    """A decoded ``state/update``; ``state`` in the client's own case."""

    event_id: str
    state: str


_encode = msgspec.json.Encoder().encode
_decode_ask = msgspec.json.Decoder(_Ask).decode
_decode_update = msgspec.json.Decoder(_TwinUpdate).decode
_decode_state = msgspec.json.Decoder(_StateUpdate).decode
_decode_any = msgspec.json.Decoder().decode


@lru_cache(maxsize=8192)
def parse(topic: str) -> Request | None:
    """Return what ``topic`` asks; None for every topic that is not a request of ours (answers, other apps')."""
    parts = topic.split("/")
    if parts[:2] != ["$hw", "events"] or "" in parts:
        return None
    if parts[2:3] == ["device"] and len(parts) in (6, 7):
        verb = DEVICE_VERBS.get((parts[-2], parts[-1]))
        if verb is None:
            return None
        one_level = len(parts) == 6
        return Request(verb, DeviceId(DEFAULT_NAMESPACE if one_level else parts[3], parts[-3]), one_level=one_level)
    if parts[2:3] == ["node"] and len(parts) == 6:
        verb = NODE_VERBS.get((parts[4], parts[5]))
        return Request(verb, node=parts[3]) if verb else None
    return None


@lru_cache(maxsize=8192)
def device_topic(device: DeviceId, suffix: str, *, one_level: bool = False) -> str:
    where = device.name if one_level else f"{device.namespace}/{device.name}"
    return f"{DEVICE_PREFIX}/{where}/{suffix}"


def node_topic(node: str, suffix: str) -> str:
    return f"{NODE_PREFIX}/{node}/{suffix}"


def new_event_id() -> str:
    return str(uuid.uuid4())


def decode_ask(payload: bytes) -> str:
    """Return the event id of a request without a body of its own. Raises Rejected."""
    try:
        return _decode_ask(payload or b"{}").event_id or ""
    except UNREADABLE as error:
        raise Rejected(BAD_REQUEST, f"{REASON_UNMARSHAL}: {error}") from error


def decode_update(payload: bytes) -> TwinUpdate:
    """Read a ``twin/update``. Raises Rejected with KubeEdge's reason."""
    try:
        message = _decode_update(payload)
    except UNREADABLE as error:
        raise Rejected(BAD_REQUEST, f"{REASON_UNMARSHAL}: {error}") from error
    if message.twin is None:
        raise Rejected(BAD_REQUEST, REASON_NO_TWIN)
    sent_ms = message.timestamp or 0
    return TwinUpdate(message.event_id or "", {k: _wish(t, sent_ms) for k, t in message.twin.items()})


def decode_state(payload: bytes) -> StateUpdate:
    """Read a ``state/update``. Raises Rejected."""
    try:
        message = _decode_state(payload)
    except UNREADABLE as error:
        raise Rejected(BAD_REQUEST, f"{REASON_UNMARSHAL}: {error}") from error
    return StateUpdate(message.event_id or "", message.state or "")


def event_id_of(payload: bytes) -> str:
    """Return the event id of a request that could not be read, so that its sender still hears (TWIN-11)."""
    try:
        event_id = _decode_any(payload).get("event_id")
    except (*UNREADABLE, AttributeError):
        return ""
    return event_id if isinstance(event_id, str) else ""


def has_devices(payload: bytes) -> bool:
    """Whether a ``membership/detail`` tries to replace the list, which only the cloud may."""
    try:
        return bool(_decode_any(payload or b"{}").get("devices"))
    except (*UNREADABLE, AttributeError):
        return False


def _wish(twin: MsgTwin | None, sent_ms: int) -> Wish | None:
    if twin is None:
        return None
    actual, expected, metadata = twin.actual, twin.expected, twin.metadata
    reported, at_ms = None, 0
    if actual is not None:
        reported = actual.value
        at_ms = (actual.metadata.timestamp if actual.metadata is not None else 0) or sent_ms
        if not EARLIEST_MS <= at_ms < LATEST_MS:
            at_ms = 0
    return Wish(
        expected.value if expected is not None else None,
        reported,
        at_ms,
        twin.optional,
        (metadata.type or "") if metadata is not None else "",
    )


def _value(value: str | None, at_ms: int) -> TwinValue | None:
    return TwinValue(value, ValueMetadata(at_ms)) if value is not None else None


def view(twin: Twin) -> MsgTwin:
    """Return a twin as KubeEdge's payloads show it, without versions."""
    return MsgTwin(
        _value(twin.expected, twin.expected_at_ms),
        _value(twin.reported, twin.reported_at_ms),
        twin.optional,
        TypeMetadata(twin.type),
    )


def versioned_view(twin: Twin) -> VersionedTwin:
    """As ``view`` with KubeEdge's version pairs, which are only views of ours (TWIN-3, TWIN-4)."""
    plain = view(twin)
    return VersionedTwin(
        plain.expected,
        plain.actual,
        plain.optional,
        plain.metadata,
        Version(twin.desired_version, twin.override_version) if plain.expected else None,
        Version(0, twin.reported_version) if plain.actual else None,
    )


def _changed(change: Change) -> MsgTwin | None:
    twin = change.after
    if not twin.live:
        return None
    if change.before is None:
        return view(twin)
    if not change.expected_set and not change.reported_set and twin.reported is None:
        return None  # deleted at the edge; the cloud's half lives on (TWIN-6)
    return MsgTwin(
        _value(twin.expected, twin.expected_at_ms) if change.expected_set else None,
        _value(twin.reported, twin.reported_at_ms) if change.reported_set else None,
        twin.optional,
        TypeMetadata(twin.type),
    )


def update_result(event_id: str, now_ms: int, changes: Iterable[Change]) -> bytes:
    """``twin/update/result`` of an accepted update: what changed, None for what was deleted."""
    return _encode(_TwinAnswer(event_id, now_ms, {c.name: _changed(c) for c in changes}))


def document(event_id: str, now_ms: int, changes: Iterable[Change]) -> bytes:
    """``twin/update/document``: every changed property before and after."""
    entries = {
        c.name: _Document(
            view(c.before) if c.before is not None and c.before.live else None,
            view(c.after) if c.after.live else None,
        )
        for c in changes
    }
    return _encode(_DocumentAnswer(event_id, now_ms, entries))


def delta_message(now_ms: int, twins: Mapping[str, Twin], delta: Mapping[str, str]) -> bytes:
    """``twin/update/delta``: all twins with an expected value, and what is pending of it."""
    shown = {name: view(twin) for name, twin in twins.items() if twin.live and twin.expected}
    return _encode(_DeltaAnswer(new_event_id(), now_ms, shown, delta))


def get_result(event_id: str, now_ms: int, twins: Mapping[str, Twin]) -> bytes:
    return _encode(_TwinAnswer(event_id, now_ms, {n: view(t) for n, t in twins.items() if t.live}))


def error(event_id: str, now_ms: int, code: int, reason: str) -> bytes:
    return _encode({"event_id": event_id, "timestamp": now_ms, "code": code, "reason": reason})


def state_result(event_id: str, now_ms: int, name: str, state: str, last_online: str) -> bytes:
    """``last_online`` RFC 3339, empty when the device was never online."""
    device = {"name": name, "state": state} | ({"lastOnlineTime": last_online} if last_online else {})
    return _encode({"event_id": event_id, "timestamp": now_ms, "device": device})


def attributes(labels: Mapping[str, str]) -> dict[str, Any]:
    """Labels of the Device as KubeEdge's attributes."""
    return {k: {"value": v, "optional": True, "metadata": {"type": "string"}} for k, v in labels.items()}


def attributes_updated(now_ms: int, old: Mapping[str, str], new: Mapping[str, str]) -> bytes:
    """``D/updated``: changed attributes, None for the removed ones."""
    changed: dict[str, Any] = attributes({k: v for k, v in new.items() if old.get(k) != v})
    changed |= {k: None for k in old if k not in new}
    return _encode({"event_id": new_event_id(), "timestamp": now_ms, "attributes": changed})


def member(device: DeviceTwin, last_online: str, *, twins: str = "") -> dict[str, Any]:
    """A device in membership payloads; ``twins``: "" none, "plain", "versioned"."""
    shown: dict[str, Any] = {
        "id": str(device.spec.id),
        "name": device.spec.id.name,
        "description": device.spec.description,
        "state": device.state or "unknown",
        "last_online": last_online,
        "attributes": attributes(device.spec.labels),
    }
    if twins:
        show = versioned_view if twins == "versioned" else view
        shown["twin"] = {name: show(twin) for name, twin in device.live().items()}
    return shown


def membership_result(event_id: str, now_ms: int, devices: Sequence[Mapping[str, Any]]) -> bytes:
    """``membership/get/result`` and ``membership/detail/result``."""
    return _encode({"event_id": event_id, "timestamp": now_ms, "devices": devices})


def membership_updated(
    now_ms: int, *, added: Mapping[str, Any] | None = None, removed: DeviceId | None = None
) -> bytes:
    """``membership/updated``: one event per device."""
    return _encode(
        {
            "event_id": new_event_id(),
            "timestamp": now_ms,
            "added_devices": [added] if added is not None else None,
            "removed_devices": [{"id": str(removed), "name": removed.name}] if removed is not None else None,
        }
    )
