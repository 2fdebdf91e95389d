"""Server-side apply: a manager says what it wants; it owns that, and what it no longer says goes if nobody else owns it."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from kubeapi import fieldsv1
from kubeapi.errors import MANAGER_CONFLICT, Cause, bad_request, conflict
from kubeapi.fieldsv1 import Tree
from kubeapi.ownership import Entry, entries_of, owned_part, with_entries
from kubeapi.resources import Resource
from kubeapi.typed import Type, type_of
from kubeapi.writing import subresource_fields
from proto.kit.clock import rfc3339

Json = dict[str, Any]
BEFORE = "before-first-apply"  # owns what was there when nobody kept account


def apply_patch(
    res: Resource, old: Json | None, config: Json, *, manager: str, force: bool, subresource: str, now: datetime
) -> Json:
    """Return ``old`` with ``config`` applied and managedFields brought up to date. Raises 400, 409 with causes."""
    if config["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil in an apply configuration")
    kind = type_of(res)
    wanted = _without_nulls(_scope(res, owned_part(config), subresource))
    _check_unique(kind, wanted, "")
    fields = fieldsv1.of_value(kind, wanted)
    live = owned_part(old) if old is not None else {}
    entries = _entries(res, old, kind, live)
    me = Entry(manager, "Apply", res.api_version, subresource, rfc3339(now), fields)
    mine = next((e for e in entries if e.who[:2] == me.who[:2] and e.subresource == subresource), None)
    others = [e for e in entries if e is not mine]

    merged = merge(kind, live, wanted)
    changed, _ = fieldsv1.compare(kind, live, merged)
    others = _settle_conflicts(res, config, others, changed, force=force)
    if mine is not None:
        dropped = fieldsv1.subtract(mine.fields, fields)
        kept: Tree = fields
        for entry in others:
            kept = fieldsv1.merge_sets(kept, entry.fields)
        merged = remove(kind, merged, dropped, kept)
    _, removed = fieldsv1.compare(kind, live, merged)
    if removed:
        others = [replace(e, fields=fieldsv1.subtract(e.fields, removed)) for e in others]
    out = _assemble(res, old, config, merged)
    if mine is not None and mine.fields == fields and merged == live:
        me = mine  # nothing changed: not even the time
    return with_entries(out, [*others, me])


def _scope(res: Resource, part: Json, subresource: str) -> Json:
    """Return what a write through ``subresource`` may say."""
    if subresource:
        allowed = subresource_fields(subresource)
        return {k: v for k, v in part.items() if k in allowed}
    return {k: v for k, v in part.items() if k != "status" or "status" not in res.subresources}


def _entries(res: Resource, old: Json | None, kind: Type, live: Json) -> list[Entry]:
    if old is None:
        return []
    entries = entries_of(old)
    if entries or not live:
        return entries
    time = old["metadata"].get("creationTimestamp", "")
    return [Entry(BEFORE, "Update", res.api_version, "", time, fieldsv1.of_value(kind, live))]


def _settle_conflicts(res: Resource, config: Json, others: list[Entry], changed: Tree, *, force: bool) -> list[Entry]:
    """Return the other owners, without what ``force`` takes from them. Raises 409 when it may not."""
    causes: list[Cause] = []
    out: list[Entry] = []
    for entry in others:
        contested = fieldsv1.intersect(entry.fields, changed) if changed else {}
        if not contested:
            out.append(entry)
            continue
        through = f' with subresource "{entry.subresource}"' if entry.subresource else ""
        using = f" using {entry.api_version}" if entry.operation == "Update" else ""
        at = f" at {entry.time}" if entry.operation == "Update" and entry.time else ""
        text = f'conflict with "{entry.manager}"{through}{using}{at}'
        causes += [Cause(MANAGER_CONFLICT, fieldsv1.describe(path), text) for path in fieldsv1.leaves(contested)]
        out.append(replace(entry, fields=fieldsv1.subtract(entry.fields, contested)))
    if causes and not force:
        plural = "s" if len(causes) > 1 else ""
        listed = ", ".join(f"{c.message}: {c.field}" for c in causes)
        text = f"Apply failed with {len(causes)} conflict{plural}: {listed}"
        raise conflict(res, config["metadata"]["name"], text, causes)
    return out


def merge(kind: Type | None, live: Any, wanted: Any) -> Any:
    """Return ``live`` with everything that ``wanted`` says; neither is changed."""
    if isinstance(wanted, dict) and isinstance(live, dict) and fieldsv1.is_split(kind, wanted):
        out = dict(live)
        for name, value in wanted.items():
            child = None if kind is None else kind.child(name)
            out[name] = merge(child, live[name], value) if name in live else value
        return out
    if isinstance(wanted, list) and isinstance(live, list) and kind is not None and fieldsv1.is_split(kind, wanted):
        items = fieldsv1.items_by_name(kind, live)
        for name, item in fieldsv1.items_by_name(kind, wanted).items():
            items[name] = merge(kind.item, items[name], item) if name in items else item
        return list(items.values())
    return live if _equal(live, wanted) else wanted


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def remove(kind: Type | None, value: Any, dropped: Tree, kept: Tree) -> Any:
    """Return ``value`` without the fields in ``dropped`` that are not in ``kept``; emptied containers go too."""
    if not dropped or not isinstance(value, dict | list):
        return value
    parts = fieldsv1.children(kind, value)
    gone: set[str] = set()
    replaced: dict[str, Any] = {}
    for key, tree in dropped.items():
        if key not in parts:
            continue
        child_kind, child = parts[key]
        if fieldsv1.is_member(tree) and key not in kept:
            gone.add(key)
            continue
        inner = {k: v for k, v in tree.items() if k != fieldsv1.SELF}
        left = remove(child_kind, child, inner, kept.get(key, {}))
        if left is child:
            continue
        if not left and key not in kept:
            gone.add(key)
        else:
            replaced[key] = left
    if not gone and not replaced:
        return value
    if isinstance(value, dict):
        return {k: replaced.get(f"f:{k}", v) for k, v in value.items() if f"f:{k}" not in gone}
    return [replaced.get(key, item) for key, (_, item) in parts.items() if key not in gone]


def _assemble(res: Resource, old: Json | None, config: Json, merged: Json) -> Json:
    """Return a whole object from its owned part; the names and the system's metadata come from ``old`` or ``config``."""
    metadata = dict(merged.get("metadata") or {})
    source = old or config
    for key, value in source["metadata"].items():
        if key not in metadata and key not in ("labels", "annotations", "finalizers", "ownerReferences"):
            metadata[key] = value
    for key in ("resourceVersion", "uid"):  # a configuration may carry preconditions
        if config["metadata"].get(key):
            metadata[key] = config["metadata"][key]
    head: Json = {"apiVersion": res.api_version, "kind": res.kind, "metadata": metadata}
    return {**head, **{k: v for k, v in merged.items() if k != "metadata"}}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _check_unique(kind: Type | None, value: Any, path: str) -> None:
    """Raise 400 when a keyed list names an item twice or an item has no key."""
    if isinstance(value, list) and kind is not None and fieldsv1.is_split(kind, value):
        for item in value:
            if kind.list_type == "map" and kind.item_key(item) is None:
                raise bad_request(f"{path}: each item must be an object with {', '.join(kind.list_keys)}")
        if len(fieldsv1.items_by_name(kind, value)) != len(value):
            raise bad_request(f"{path}: duplicate entries for key {', '.join(kind.list_keys) or 'value'}")
    if isinstance(value, dict | list):
        for key, (child_kind, child) in fieldsv1.children(kind, value).items() if _split(kind, value) else ():
            _check_unique(child_kind, child, f"{path}{fieldsv1.describe((key,))}")


def _split(kind: Type | None, value: Any) -> bool:
    return fieldsv1.is_split(kind, value)
