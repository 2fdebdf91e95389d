"""Binding: a pod is put on a node, once."""

from typing import Any

from kubeapi.admission import Attempt, admit
from kubeapi.conditions import with_condition
from kubeapi.errors import conflict, not_found
from kubeapi.kinds import POD
from kubeapi.objects import Objects, WriteOptions
from proto.kit.database import Tx

Json = dict[str, Any]


def bind_in(
    objects: Objects,
    tx: Tx,
    namespace: str,
    name: str,
    node: str,
    *,
    uid: str = "",
    user: Any = None,
    dry_run: bool = False,
) -> Json:
    """Put the pod on ``node``; ``uid`` "" is any. Raises 404, 409, and what admission refuses."""
    found = objects.store.peek(POD, namespace, name)
    if found is None:
        raise not_found(POD, name)
    old = found.object
    metadata, spec, status = old["metadata"], old.get("spec") or {}, old.get("status") or {}
    if uid and metadata["uid"] != uid:
        raise conflict(
            POD, name, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {metadata['uid']}"
        )
    if metadata.get("deletionTimestamp"):
        raise conflict(POD, name, f"pod {name} is being deleted, cannot be assigned to a host")
    if spec.get("nodeName"):
        raise conflict(POD, name, f'pod {name} is already assigned to node "{spec["nodeName"]}"')
    if spec.get("schedulingGates"):
        raise conflict(POD, name, f"pod {name} has non-empty .spec.schedulingGates")
    conditions = with_condition(status.get("conditions") or (), "PodScheduled", "True", "", "", objects.clock.wall())
    new_status = {k: v for k, v in status.items() if k != "nominatedNodeName"}
    new = {**old, "spec": {**spec, "nodeName": node}, "status": {**new_status, "conditions": conditions}}
    attempt = Attempt("UPDATE", POD, namespace, name, "binding", new, old, user, dry_run)
    admitted = admit(objects.admission, attempt)
    assert admitted is not None
    return objects.settle(tx, POD, old, admitted, WriteOptions(dry_run=dry_run, user=user))
