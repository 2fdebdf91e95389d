"""From an accepted change of an object to the write that the cloud is asked to repeat (pure)."""

from typing import Any

from edgecore.kinds import DEVICES_GROUP
from kubeapi.access import User
from kubeapi.options import DeleteOptions
from kubeapi.patch.threeway import diff
from kubeapi.recording import Change
from proto import labels, writes
from proto.names import ObjectKey
from proto.writes import Write

Json = dict[str, Any]
SYSTEM = (
    "resourceVersion",
    "managedFields",
    "uid",
    "creationTimestamp",
    "generation",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
OURS = (
    labels.PENDING,
    labels.CLOUD_UID,
    labels.CONTINUED,
    labels.ANSWERS,
    labels.ANSWERED_BY,
)  # annotations that never leave the node

GENERATED = (
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
)  # labels of a Job's pods


def key_of(storage: str, metadata: Json) -> str:
    """Return the link's key of an object at rest in ``storage`` ("group/plural")."""
    return f"{storage}/{metadata.get('namespace') or '-'}/{metadata['name']}"


def is_of(key: ObjectKey, storage: str) -> bool:
    return storage == f"{key.group or 'core'}/{key.plural}"


def without_ours(obj: Json) -> Json:
    """Return ``obj`` without the annotations that mean something at this node alone."""
    annotations = obj["metadata"].get("annotations")
    if not annotations or not any(name in annotations for name in OURS):
        return obj
    metadata = dict(obj["metadata"])
    kept = {name: value for name, value in annotations.items() if name not in OURS}
    metadata.pop("annotations")
    if kept:
        metadata["annotations"] = kept
    return {**obj, "metadata": metadata}


def cloudly(obj: Json, *, status: bool) -> Json:
    """Return ``obj`` as the state lane would bring it: the cloud's uid, no revision, ``status`` only when it travels."""
    uid = labels.cloud_uid(obj["metadata"]) or obj["metadata"].get("uid", "")
    out = without_ours(obj)
    metadata = {k: v for k, v in out["metadata"].items() if k not in ("resourceVersion", "managedFields", "selfLink")}
    if uid:
        metadata["uid"] = uid
    return {**{k: v for k, v in out.items() if status or k != "status"}, "metadata": metadata}


def marked(change: Change, seq: int, *, aliased: bool) -> Json:
    """Return the object with the sign that its write ``seq`` is not confirmed; ``aliased``: it will keep its uid."""
    obj = change.after
    metadata = dict(obj["metadata"])
    before = ((change.before or {}).get("metadata") or {}).get("annotations") or {}
    kept = {labels.CLOUD_UID: before[labels.CLOUD_UID]} if labels.CLOUD_UID in before else {}
    if change.before is None and aliased:
        kept = {labels.CLOUD_UID: ""}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **kept, labels.PENDING: str(seq)}
    if change.before is not None and change.res.group == DEVICES_GROUP:
        # Twins take no older generation: counted on here, it could pass the cloud's, which may refuse the write.
        metadata["generation"] = change.before["metadata"].get("generation", 0)
    return {**obj, "metadata": metadata}


def write_of(change: Change, at: str) -> Write | None:
    """Return the write that ``change`` is, ``seq`` and ``journal`` still open; None when nothing changed that the cloud has a say in."""
    res, user = change.res, change.opts.user
    held = change.before or change.after
    out = Write(
        0,
        "",
        key_of(res.storage, held["metadata"]),
        res.api_version,
        res.kind,
        "",
        user.name if isinstance(user, User) else "",
        at,
        labels.cloud_uid(held["metadata"]) or held["metadata"].get("uid", ""),
    )
    if change.before is None:
        out.verb, out.mine = writes.CREATE, _ungenerated(_own(change.after))
    elif isinstance(change.opts, DeleteOptions):
        out.verb = writes.DELETE
        out.base = {k: v for k, v in change.before.items() if k not in ("metadata", "status")}
        out.grace_period_s, out.propagation = change.opts.grace_period_s, change.opts.propagation
    else:
        before, after = _own(change.before), _own(change.after)
        out.verb, out.mine, out.base = writes.PATCH, diff(before, after), diff(after, before)
        out.subresource = _subresource(change, out.mine)
        if not out.mine:
            return None
    return out


def _own(obj: Json) -> Json:
    out = without_ours(obj)
    return {**out, "metadata": {k: v for k, v in out["metadata"].items() if k not in SYSTEM}}


def _ungenerated(obj: Json) -> Json:
    """Return ``obj`` without what an API server makes out of its uid: the selector of a Job."""
    spec = obj.get("spec") or {}
    if obj.get("kind") != "Job" or spec.get("manualSelector"):
        return obj
    template = spec.get("template") or {}
    metadata = template.get("metadata") or {}
    kept = {k: v for k, v in (metadata.get("labels") or {}).items() if k not in GENERATED}
    template = {**template, "metadata": {**metadata, "labels": kept}}
    return {**obj, "spec": {**{k: v for k, v in spec.items() if k != "selector"}, "template": template}}


def _subresource(change: Change, mine: Json) -> str:
    """Return the path by which an API server takes this change; objects themselves take the rest."""
    if set(mine) == {"status"} and "status" in change.res.subresources:
        return "status"
    if change.res.kind == "Pod" and set(mine) == {"spec"} and set(mine["spec"]) == {"ephemeralContainers"}:
        return "ephemeralcontainers"
    return ""
