"""Deletion: preconditions, finalizers, propagation and the grace that a running pod gets."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kubeapi import versions, writing
from kubeapi.admission import Attempt, admit
from kubeapi.errors import bad_request, forbidden, not_found
from kubeapi.options import DeleteOptions
from kubeapi.recording import Change
from kubeapi.resources import Resource
from proto.kit.clock import rfc3339
from proto.kit.database import Tx

if TYPE_CHECKING:
    from kubeapi.objects import Objects

Json = dict[str, Any]
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
PROPAGATION = {"": None, "Background": None, "Foreground": FOREGROUND, "Orphan": ORPHAN}
PERMANENT_NAMESPACES = ("default", "kube-system", "kube-public")


def may_go(res: Resource, obj: Json) -> bool:
    """Whether nothing holds a marked object any more."""
    metadata = obj["metadata"]
    if metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds"):
        return False
    return res.kind != "Namespace" or res.custom or not (obj.get("spec") or {}).get("finalizers")


def grace_s(res: Resource, obj: Json, asked: int | None) -> int:
    """Return how long the object stays after its deletion was asked for: only a pod on a node does."""
    if res.kind != "Pod" or res.custom:
        return 0
    spec, phase = obj.get("spec") or {}, (obj.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    wanted = spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked
    held = obj["metadata"].get("deletionGracePeriodSeconds")
    return min(wanted, held) if held is not None else int(wanted)


def delete(objects: "Objects", tx: Tx, res: Resource, namespace: str, name: str, opts: DeleteOptions) -> Json:
    """Delete or mark one object; returns the API's answer. Raises 404, 409."""
    found = objects.store.peek(res, namespace, name)
    if found is None:
        raise not_found(res, name)
    old = versions.read(res, found.object)
    if opts.propagation not in PROPAGATION:
        allowed = ", ".join(k for k in PROPAGATION if k)
        raise bad_request(f'invalid propagationPolicy "{opts.propagation}": must be one of {allowed}')
    writing.check_preconditions(res, old["metadata"], uid=opts.uid, revision=opts.resource_version)
    if res.kind == "Namespace" and name in PERMANENT_NAMESPACES and not res.custom:
        raise forbidden(res, name, "this namespace may not be deleted")
    if objects.admission:
        admit(objects.admission, Attempt("DELETE", res, namespace, name, "", None, old, opts.user, opts.dry_run))
    new = _marked(objects, res, old, opts)
    if may_go(res, new):
        last = new
        if not opts.dry_run:
            objects.note(tx, Change(res, old, new, opts, gone=True))
            removed = objects.store.remove(tx, res, namespace, name)
            assert removed is not None
            last = versions.read(res, removed)
        return last if res.returns_object_on_delete else success(res, old)
    return versions.read(res, objects.settle(tx, res, old, new, opts))


def _marked(objects: "Objects", res: Resource, old: Json, opts: DeleteOptions) -> Json:
    metadata = dict(old["metadata"])
    finalizers = [f for f in metadata.get("finalizers") or () if f not in (FOREGROUND, ORPHAN)]
    asked = PROPAGATION[opts.propagation]
    if not opts.propagation:  # what an earlier request asked for stays
        finalizers = list(metadata.get("finalizers") or ())
    if asked is not None:
        finalizers.append(asked)
    metadata.pop("finalizers", None)
    if finalizers:
        metadata["finalizers"] = finalizers
    grace = grace_s(res, old, opts.grace_period_s)
    now = objects.clock.wall()
    if "deletionTimestamp" not in metadata or grace < metadata.get("deletionGracePeriodSeconds", 0):
        metadata["deletionTimestamp"] = rfc3339(now + timedelta(seconds=grace))
    metadata["deletionGracePeriodSeconds"] = grace
    new = dict(old, metadata=metadata)
    if res.kind == "Namespace" and not res.custom:
        new["status"] = dict(old.get("status") or {}, phase="Terminating")
    return new


def success(res: Resource, obj: Json) -> Json:
    """Return the Status of a finished deletion."""
    details = {"name": obj["metadata"]["name"], "group": res.group, "kind": res.plural, "uid": obj["metadata"]["uid"]}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {k: v for k, v in details.items() if v},
    }
