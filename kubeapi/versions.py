"""Reading an object in another version than the one it rests in. CRDs convert by name only (strategy None)."""

from typing import Any

from kubeapi import events
from kubeapi.resources import Resource
from kubeapi.stored import Event, Stored, encode


def read(res: Resource, obj: dict[str, Any]) -> dict[str, Any]:
    """Return ``obj`` as ``res`` serves it; the same dict when it rests in that version."""
    if res.view_of == events.STORAGE:
        return events.to_view(obj)
    if not res.custom or obj.get("apiVersion") == res.api_version:
        return obj
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
    """Return the watch event in ``res``'s version; the same one when nothing differs."""
    stored = read_stored(res, event.stored)
    if stored is event.stored:
        return event
    previous = None if event.previous_stored is None else read_stored(res, event.previous_stored)
    return Event(event.type, stored, previous)


def read_stored(res: Resource, stored: Stored) -> Stored:
    """Return the object at rest re-encoded in ``res``'s version; the same when it rests in that version.

    A custom object may rest in a version that was the storage version once, so its own bytes are asked.
    """
    if not res.view_of and (not res.custom or b'"apiVersion":"%s"' % res.api_version.encode() in stored.body):
        return stored
    return stored.replaced(encode(read(res, stored.object)))
