"""Why a twin is as it is: the Device, its DeviceStatus and the link, said in sentences (pure)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from edgecore.status import sync_state


def table(devices: list[dict[str, Any]], statuses: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """One row per device: what ``edgecore device list`` shows."""
    by_name = {name_of(status): status for status in statuses}
    return [_row(device, by_name.get(name_of(device)), now) for device in devices]


def name_of(obj: Mapping[str, Any]) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def explain(
    device: dict[str, Any], status: dict[str, Any] | None, link: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Everything that a person needs to know about one twin; ``why`` are sentences, the most important first."""
    found = (status or {}).get("status", {})
    return {
        "version": 1,
        **_row(device, status, now),
        "generation": device["metadata"].get("generation", 0),
        "observedGeneration": found.get("extensions", {}).get("observedGeneration", 0),
        "why": _why(device, status, link),
        "properties": [_property(twin) for twin in _twins(device, found)],
        "conditions": found.get("conditions", []),
    }


def _row(device: dict[str, Any], status: dict[str, Any] | None, now: datetime) -> dict[str, Any]:
    found = (status or {}).get("status", {})
    spec = device.get("spec", {})
    namespace, name = name_of(device)
    newest = max((_reported_ms(twin) for twin in found.get("twins", [])), default=0)
    return {
        "namespace": namespace,
        "name": name,
        "model": (spec.get("deviceModelRef") or {}).get("name", ""),
        "protocol": (spec.get("protocol") or {}).get("protocolName", ""),
        "state": found.get("state", "unknown"),
        "sync": sync_state(status) if status else "Pending",
        "age_s": max(0, round(now.timestamp() - newest / 1000)) if newest else None,
    }


def _why(device: dict[str, Any], status: dict[str, Any] | None, link: Mapping[str, Any]) -> list[str]:
    if status is None:
        return ["edgecore has not looked at this device yet: is the daemon running? edgecore status says"]
    found = status.get("status", {})
    out = []
    conditions = {item["type"]: item for item in found.get("conditions", [])}
    for kind in ("Invalid", "Stale", "Pending"):
        item = conditions.get(kind)
        if item is not None and item["status"] == "True":
            out.append(f"{kind} since {item['lastTransitionTime']}: {item['message']}")
    seen = found.get("extensions", {}).get("observedGeneration", 0)
    wanted = device["metadata"].get("generation", 0)
    if seen < wanted:
        out.append(f"generation {wanted} of the Device is here, the twin still works on {seen}")
    if not out and "Synced" in conditions:
        out.append(f"Synced: {conditions['Synced']['message']}")
    return [*out, *_about_link(link)]


def _about_link(link: Mapping[str, Any]) -> list[str]:
    if link.get("fenced"):
        return ["the cloud refuses this node (fenced): nothing is exchanged until it joins again"]
    if not link.get("connected"):
        since = f" since {link['since']}" if link.get("since") else ""
        waiting = f"{link.get('pending_states', 0)} statuses and {link.get('pending_messages', 0)} messages wait"
        return [f"the cloud is not connected{since}: newer desired values may exist there; {waiting} here"]
    if link.get("pending_states") or link.get("pending_messages"):
        return [
            f"{link['pending_states']} statuses and {link['pending_messages']} messages are on their way to the cloud"
        ]
    return []


def _twins(device: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    """The reported twins, and properties of the Device that no report has named yet."""
    twins = {twin["propertyName"]: twin for twin in found.get("twins", [])}
    for item in device.get("spec", {}).get("properties", []) or []:
        twin = twins.setdefault(item["name"], {"propertyName": item["name"]})
        desired = (item.get("desired") or {}).get("value")
        if desired is not None and "observedDesired" not in twin:
            twins[item["name"]] = {**twin, "observedDesired": {"value": desired}}
    return [twins[name] for name in sorted(twins)]


def _property(twin: dict[str, Any]) -> dict[str, Any]:
    desired, reported = twin.get("observedDesired") or {}, twin.get("reported") or {}
    metadata = desired.get("metadata") or {}
    return {
        "name": twin["propertyName"],
        "desired": desired.get("value"),
        "desired_version": metadata.get("version", ""),
        "desired_by": metadata.get("source", ""),
        "reported": reported.get("value"),
        "reported_version": (reported.get("metadata") or {}).get("version", ""),
        "reported_at_ms": _reported_ms(twin),
    }


def _reported_ms(twin: dict[str, Any]) -> int:
    text = ((twin.get("reported") or {}).get("metadata") or {}).get("timestamp", "0")
    return int(text) if str(text).isdigit() else 0
