"""What is made at a node belongs to it: a label says so, and what runs is bound to it (LOCAL-6). A Hook of kubeapi."""

from collections.abc import Callable
from typing import Any

from kubeapi.admission import Attempt
from kubeapi.errors import forbidden
from kubeapi.kinds import JOB, POD, SERVICE_ACCOUNT
from kubeapi.pod_admission import PodAdmission
from kubeapi.store import Store
from proto import labels, templates
from proto.kit.backoff import Rng
from proto.writes import CLOUD_ONLY

Json = dict[str, Any]
ONE_WRITER = frozenset({"Pod", "Node", "DeviceStatus"})  # whose status edgecore itself writes


def belongs_to(node: str, store: Store, rng: Rng) -> Callable[[Attempt], Json | None]:
    """Return the hook for ``node``."""
    accounts = PodAdmission(store, rng)

    def admit(attempt: Attempt) -> Json | None:
        if attempt.res.group in CLOUD_ONLY or attempt.res.kind in ("Node", "Namespace"):
            raise forbidden(attempt.res, attempt.name, "this kind is written in the cloud only")
        if attempt.subresource == "status" and attempt.res.kind in ONE_WRITER:
            raise forbidden(attempt.res, attempt.name, "edgecore alone writes this status")
        if attempt.obj is None or attempt.subresource:
            return None
        if attempt.old is not None and not _is_ours(attempt.old, node):
            return None
        obj = pinned(attempt, _labelled(attempt.obj, node), node)
        if attempt.res == JOB and attempt.old is None:
            obj = annotated(obj, {labels.CONTINUED: attempt.name})
        if attempt.res != POD or attempt.old is not None:
            return obj
        # As the cloud would complete it: what it added to a running pod would restart its containers.
        spec = dict(obj["spec"])
        if store.peek(SERVICE_ACCOUNT, attempt.namespace, spec["serviceAccountName"]) is not None:
            accounts.account(attempt, spec)
        else:
            spec.setdefault("automountServiceAccountToken", False)
        return {**obj, "spec": spec}

    return admit


def pinned(attempt: Attempt, obj: Json, node: str) -> Json:
    """Return ``obj`` bound to ``node``. Raises 403 for what names another node."""
    found = templates.pod_spec(obj)
    if found is None:
        return obj
    path, spec = found
    elsewhere = templates.elsewhere(obj, node)
    if elsewhere:
        raise forbidden(
            attempt.res, attempt.name, f"what is made at node {node} runs at node {node}, not at {elsewhere}"
        )
    return templates.with_pod_spec(obj, path, templates.bound(obj, spec, node))


def annotated(obj: Json, annotations: dict[str, str]) -> Json:
    """Return ``obj`` with these annotations, too."""
    metadata = obj["metadata"]
    return {**obj, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), **annotations}}}


def _is_ours(obj: Json, node: str) -> bool:
    return (obj["metadata"].get("labels") or {}).get(labels.NODE) == node


def _labelled(obj: Json, node: str) -> Json:
    if _is_ours(obj, node):
        return obj
    metadata = dict(obj["metadata"])
    metadata["labels"] = {**(metadata.get("labels") or {}), labels.NODE: node}
    return {**obj, "metadata": metadata}
