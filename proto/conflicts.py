"""The WriteConflict: a write at a node that was not applied, with both versions (pure; made by the cloud and by the node)."""

from typing import Any

from proto import labels, writes
from proto.writes import Write, WriteResult

GROUP, VERSION, PLURAL, KIND = "edge.skerry.io", "v1alpha1", "writeconflicts", "WriteConflict"
REASONS = {writes.CONFLICT: "WriteConflict", writes.REFUSED: "WriteRefused"}  # of the Events
HIDDEN = "(secret)"
SECRETS = "core/secrets/"  # a node may call one something else

Json = dict[str, Any]


def make(node: str, name: str, namespace: str, write: Write, result: WriteResult) -> Json:
    """Return the WriteConflict. Secrets show which keys differ, never a value."""
    space, _, target_name = write.key.rpartition("/")
    space = space.rpartition("/")[2]
    target = {
        "apiVersion": write.api_version,
        "kind": write.kind,
        "namespace": "" if space == "-" else space,
        "name": target_name,
        "subresource": write.subresource,
    }
    spec: Json = {
        "node": node,
        "seq": write.seq,
        "user": write.user,
        "verb": write.verb,
        "at": write.at,
        "target": {field: value for field, value in target.items() if value},
        "outcome": result.outcome,
        "reason": result.reason,
        "message": result.message,
    }
    for field, value in (("mine", write.mine), ("base", write.base), ("theirs", result.object)):
        if value:
            spec[field] = hide("Secret" if write.key.startswith(SECRETS) else write.kind, value)
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace, "labels": {labels.NODE: node}},
        "spec": spec,
    }


def hide(kind: str, obj: Json) -> Json:
    """Return ``obj`` without the values of a Secret and without what the API server keeps for itself."""
    out = dict(obj)
    metadata = out.get("metadata")
    if isinstance(metadata, dict):
        out["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
    if kind == "Secret":
        for field in ("data", "stringData"):
            if isinstance(out.get(field), dict):
                out[field] = dict.fromkeys(out[field], HIDDEN)
        annotations = out.get("metadata", {}).get("annotations")
        if annotations:  # kubectl keeps the whole Secret in one
            out["metadata"]["annotations"] = dict.fromkeys(annotations, HIDDEN)
    return out


def sentence(write: Write, result: WriteResult) -> str:
    """Return what an Event says."""
    verb = {writes.CREATE: "creation", writes.PATCH: "change", writes.DELETE: "deletion"}.get(write.verb, write.verb)
    why = result.message or result.reason
    return f"the {verb} by {write.user} at {write.at} was not applied: {why}; both versions: {result.conflict}"
