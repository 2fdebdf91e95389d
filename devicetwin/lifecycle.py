"""A device's state, its conditions, and the DeviceStatus that the edge writes from them (TWIN-14, TWIN-15)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from devicetwin.delta import is_pending
from devicetwin.merge import DeviceTwin, Twin
from proto.kit.clock import rfc3339

ONLINE, OFFLINE, OK, UNKNOWN, UNHEALTHY = "online", "offline", "ok", "unknown", "unhealthy"
STATES = frozenset({ONLINE, OFFLINE, OK, UNKNOWN, UNHEALTHY})
ALIVE = frozenset({ONLINE, OK})
REASON_STATE = "the state must be one of online, offline, ok, unknown, unhealthy"

SYNCED, PENDING, STALE, INVALID = "Synced", "Pending", "Stale", "Invalid"
MAX_NAMED = 5  # properties that a condition's message spells out


class Around(msgspec.Struct, frozen=True):
    """What the twin itself does not know: how its device is reached and whether it still speaks."""

    mapper_error: str = ""  # why the mapper cannot reach the device now
    write_errors: Mapping[str, str] = {}  # property -> why the last write failed
    silent_for_s: float | None = None  # set when longer than the device's own report cycle allows
    has_cycle: bool = False  # a report cycle is declared, so silence means something


class Condition(msgspec.Struct, frozen=True):
    """One condition; ``since`` is RFC 3339 and moves only when ``status`` does."""

    type: str
    status: str
    reason: str
    message: str
    since: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": self.since,
        }


def instant(at_ms: int) -> str:
    """RFC 3339 of Unix milliseconds; empty for 0."""
    return rfc3339(datetime.fromtimestamp(at_ms / 1000, UTC)) if at_ms else ""


def read_conditions(status: Mapping[str, Any]) -> dict[str, Condition]:
    """Return the conditions of a stored DeviceStatus by type, so that their times survive a restart."""
    found = {}
    for entry in status.get("conditions", ()):
        found[entry["type"]] = Condition(
            entry["type"],
            entry["status"],
            entry.get("reason", ""),
            entry.get("message", ""),
            entry.get("lastTransitionTime", ""),
        )
    return found


def conditions(device: DeviceTwin, around: Around, previous: Mapping[str, Condition], now: str) -> dict[str, Condition]:
    """Return Synced, Pending, Stale and Invalid as they are now; ``now`` RFC 3339 dates the transitions."""
    pending = [name for name, twin in device.twins.items() if is_pending(twin)]
    fresh = (_synced(device, pending), _pending(device, pending, around), _stale(device, around), _invalid(device))
    return {c.type: _dated(c, previous.get(c.type), now) for c in fresh}


def _dated(condition: Condition, before: Condition | None, now: str) -> Condition:
    kept = before is not None and before.status == condition.status and before.since
    return msgspec.structs.replace(condition, since=before.since if before is not None and kept else now)


def _synced(device: DeviceTwin, pending: list[str]) -> Condition:
    problems = device.spec.problems()
    if pending:
        return Condition(
            SYNCED, "False", "WaitingForDevice", f"{_count(pending)} not reported as desired: {_names(pending)}"
        )
    if problems:
        return Condition(SYNCED, "False", "Invalid", next(iter(problems.values())))
    if not any(twin.expected for twin in device.twins.values()):
        return Condition(SYNCED, "True", "NothingDesired", "no value is asked of this device")
    return Condition(SYNCED, "True", "AllReported", "every desired value is reported by the device")


def _pending(device: DeviceTwin, pending: list[str], around: Around) -> Condition:
    if not pending:
        return Condition(PENDING, "False", "InSync", "nothing is waiting for the device")
    reason, message = why_pending(device, pending, around)
    return Condition(PENDING, "True", reason, message)


def why_pending(device: DeviceTwin, pending: list[str], around: Around) -> tuple[str, str]:
    """Return (reason, sentence) of the first thing that keeps ``pending`` from being reported."""
    failed = [n for n in pending if n in around.write_errors]
    if around.mapper_error:
        return "MapperFailed", f"the mapper does not reach the device: {around.mapper_error}"
    if device.state == OFFLINE:
        since = f", last online {instant(device.last_online_ms)}" if device.last_online_ms else ""
        return "DeviceOffline", f"the device is offline{since}; waiting: {_names(pending)}"
    if failed:
        return "WriteFailed", f"writing {failed[0]} failed: {around.write_errors[failed[0]]}"
    if all(twin.reported_version == 0 for twin in device.twins.values()):
        return "NeverReported", f"the device has not reported yet; waiting: {_names(pending)}"
    return "WaitingForDevice", f"the device still has to report {_wanted(device.twins, pending)}"


def _stale(device: DeviceTwin, around: Around) -> Condition:
    if around.mapper_error:
        return Condition(STALE, "True", "MapperFailed", f"values are the last known ones: {around.mapper_error}")
    if device.state == OFFLINE:
        return Condition(STALE, "True", "DeviceOffline", "the device is offline: values are the last known ones")
    if all(twin.reported is None for twin in device.twins.values()):
        return Condition(STALE, "Unknown", "NeverReported", "the device has not reported yet")
    if around.silent_for_s is not None:
        missed = "has missed three of its report cycles" if around.has_cycle else "has been silent for too long"
        return Condition(STALE, "True", "Silent", f"the device {missed}: values are the last known ones")
    if not around.has_cycle:
        return Condition(STALE, "False", "Reporting", "no reportCycle is set: the node's own limit of silence counts")
    return Condition(STALE, "False", "Reporting", "the device reports within its cycle")


def _invalid(device: DeviceTwin) -> Condition:
    problems = device.spec.problems()
    if not problems:
        return Condition(INVALID, "False", "Accepted", "the device model allows everything that is asked")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Condition(INVALID, "True", "Refused", next(iter(problems.values())) + more)


def device_status(device: DeviceTwin, now_conditions: Mapping[str, Condition]) -> dict[str, Any]:
    """Return ``DeviceStatus.status``: twins that may leave the edge, state, conditions (TWIN-16)."""
    twins = []
    properties = device.spec.properties
    for name, twin in device.twins.items():
        prop = properties.get(name)
        if twin.deleted_version or (prop is not None and not prop.report_to_cloud):
            continue
        shown = _twin(name, twin)
        if len(shown) > 1:
            twins.append(shown)
    status: dict[str, Any] = {
        "twins": twins,
        "state": device.state or UNKNOWN,
        "conditions": [c.to_json() for c in now_conditions.values()],
        "extensions": {"version": device.counter, "observedGeneration": device.generation},
    }
    if device.last_online_ms:
        status["lastOnlineTime"] = instant(device.last_online_ms)
    return status


def _twin(name: str, twin: Twin) -> dict[str, Any]:
    shown: dict[str, Any] = {"propertyName": name}
    if twin.reported is not None:
        shown["reported"] = {
            "value": twin.reported,
            "metadata": {
                "timestamp": str(twin.reported_at_ms),
                "type": twin.type,
                "version": str(twin.reported_version),
            },
        }
    expected = twin.expected
    if expected is not None:
        shown["observedDesired"] = {
            "value": expected,
            "metadata": {
                "timestamp": str(twin.expected_at_ms),
                "type": twin.type,
                "version": str(twin.expected_version),
                "source": "edge" if twin.override is not None else "cloud",
            },
        }
    return shown


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _count(names: list[str]) -> str:
    return "1 property is" if len(names) == 1 else f"{len(names)} properties are"


def _wanted(twins: Mapping[str, Twin], names: list[str]) -> str:
    parts = [f"{n}={twins[n].expected} (reports {twins[n].reported or 'nothing'})" for n in names[:MAX_NAMED]]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(parts) + more
