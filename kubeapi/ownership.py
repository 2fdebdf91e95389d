"""managedFields: who owns which field, kept through every kind of write.

An entry is one (manager, operation, subresource, apiVersion). A plain write takes the fields that it changed away from
everybody else; an apply (``kubeapi.patch.apply``) owns exactly what its configuration says.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kubeapi import fieldsv1
from kubeapi.errors import bad_request
from kubeapi.fieldsv1 import Tree
from kubeapi.resources import Resource
from kubeapi.typed import type_of
from proto.kit.clock import rfc3339

Json = dict[str, Any]
# nobody owns these: they name the object or are the system's
UNOWNED_METADATA = (
    "name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "selfLink", "managedFields",
    "deletionTimestamp", "deletionGracePeriodSeconds", "generateName",
)  # fmt: skip
MAX_UPDATE_ENTRIES = 10  # then the oldest are merged into one, as Kubernetes does
OLD_MANAGER = "ancient-changes"


@dataclass(frozen=True, slots=True)
class Entry:
    """One owner and its fields."""

    manager: str
    operation: str  # Apply, Update
    api_version: str
    subresource: str
    time: str
    fields: Tree

    @property
    def who(self) -> tuple[str, str, str, str]:
        return (self.manager, self.operation, self.api_version, self.subresource)

    def body(self) -> Json:
        out: Json = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields,
        }
        if self.subresource:
            out["subresource"] = self.subresource
        return out


def entries_of(obj: Json) -> list[Entry]:
    """Read an object's managedFields. Raises 400 when they are not of the right shape."""
    out = []
    for raw in obj["metadata"].get("managedFields") or ():
        fields = raw.get("fieldsV1", {}) if isinstance(raw, dict) else None
        if not isinstance(fields, dict) or raw.get("operation") not in ("Apply", "Update"):
            raise bad_request("metadata.managedFields: an entry needs manager, operation (Apply, Update) and fieldsV1")
        manager, operation, version, subresource, time = (
            str(raw.get(k) or "") for k in ("manager", "operation", "apiVersion", "subresource", "time")
        )
        out.append(Entry(manager, operation, version, subresource, time, fields))
    return out


def with_entries(obj: Json, entries: Iterable[Entry]) -> Json:
    """Return ``obj`` with these managedFields; entries without fields are left out."""
    kept = sorted((e for e in entries if e.fields), key=lambda e: (e.operation, e.time, e.manager, e.subresource))
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    if kept:
        metadata["managedFields"] = [e.body() for e in kept]
    return {**obj, "metadata": metadata}


def owned_part(obj: Json) -> Json:
    """Return what can be owned: the object without its names and the system's metadata."""
    out = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")}
    metadata = {k: v for k, v in obj["metadata"].items() if k not in UNOWNED_METADATA}
    if metadata:
        out["metadata"] = metadata
    return out


def track_update(res: Resource, old: Json, new: Json, manager: str, subresource: str, now: datetime) -> Json:
    """Return ``new`` with managedFields that say what this write changed. ``old`` {} is a create."""
    if old and _cleared(new):
        return with_entries(new, [])
    before: Json = old or {"metadata": {}}
    changed, removed = fieldsv1.compare(type_of(res), owned_part(before), owned_part(new))
    for tree in (changed, removed):  # metadata itself is always there
        if "f:metadata" in tree:
            tree["f:metadata"] = {k: v for k, v in tree["f:metadata"].items() if k != fieldsv1.SELF}
    sent, held = new["metadata"].get("managedFields"), before["metadata"].get("managedFields")
    if not changed and not removed and (not sent or sent == held):
        return _carry(old, new)
    # what the client sends back replaces what is held: that is how clients hand fields over
    entries = entries_of(new if sent and old else before)
    if not changed and not removed:
        return with_entries(new, entries)
    me = Entry(manager, "Update", res.api_version, subresource, rfc3339(now), {})
    mine = next((e for e in entries if e.who == me.who), me)
    others = [_less(e, changed, removed) for e in entries if e.who != me.who]
    fields = fieldsv1.merge_sets(fieldsv1.subtract(mine.fields, removed), changed)
    return with_entries(new, _capped([*others, replace(me, fields=fields)]))


def _less(entry: Entry, changed: Tree, removed: Tree) -> Entry:
    fields = entry.fields
    for taken in (changed, removed):
        if taken:
            fields = fieldsv1.subtract(fields, taken)
    return entry if fields == entry.fields else replace(entry, fields=fields)


def _cleared(new: Json) -> bool:
    """Whether the write asks to forget all ownership: ``managedFields: [{}]``."""
    return new["metadata"].get("managedFields") in ([{}], [])


def with_owners(obj: Json, other: Json) -> Json:
    """Return ``obj`` with the managedFields of ``other``."""
    return _carry(other, obj)


def _carry(old: Json, new: Json) -> Json:
    held = old["metadata"].get("managedFields") if old else None
    if new["metadata"].get("managedFields") is held:
        return new
    metadata = {k: v for k, v in new["metadata"].items() if k != "managedFields"}
    if held:
        metadata["managedFields"] = held
    return {**new, "metadata": metadata}


def _capped(entries: list[Entry]) -> list[Entry]:
    updates = sorted((e for e in entries if e.operation == "Update" and e.fields), key=lambda e: e.time)
    surplus = len(updates) - MAX_UPDATE_ENTRIES
    if surplus <= 0:
        return entries
    old = updates[: surplus + 1]
    merged = old[-1].fields
    for entry in old[:-1]:
        merged = fieldsv1.merge_sets(merged, entry.fields)
    gone = {id(e) for e in old}
    kept = [e for e in entries if id(e) not in gone]
    return [*kept, replace(old[-1], manager=OLD_MANAGER, fields=merged)]
