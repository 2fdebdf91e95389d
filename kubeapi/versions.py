"""Reading an object in another version than the one it rests in. CRDs convert by name only (strategy None)."""

from typing import Any

from kubeapi import events
from kubeapi.resources import Resource
from kubeapi.stored import Event, Stored, encode


def read(res: Resource, obj: dict[str, Any]) -> dict[str, Any]:
    """Return ``obj`` as ``res`` serves it; the same dict when it rests in that version."""
    if not res.converts:
        return obj
    if res.view_of == events.STORAGE:
        return events.to_view(obj)
    return {**obj, "apiVersion": res.api_version, "kind": res.kind}


def write(res: Resource, obj: dict[str, Any]) -> dict[str, Any]:
    """Return ``obj``, given in ``res``'s version, as it rests."""
    if not res.converts:
        return obj
    if res.view_of == events.STORAGE:
        return events.from_view(obj)
    version = f"{res.group}/{res.storage_version}" if res.group else res.storage_version
    return {**obj, "apiVersion": version}


def read_event(res: Resource, event: Event) -> Event:
    """Return the watch event in ``res``'s version."""
    return Event(event.type, read_stored(res, event.stored), event.previous_stored)


def read_stored(res: Resource, stored: Stored) -> Stored:
    """Return the object at rest re-encoded in ``res``'s version; the same when it rests in that version."""
    if not res.converts:
        return stored
    obj = read(res, stored.object)
    return stored.replaced(encode(obj))
