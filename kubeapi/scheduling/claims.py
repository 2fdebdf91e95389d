"""Volumes: a bound claim ties a pod to where its volume is; an unbound one waits for the choice of a node, or for nothing."""

from collections.abc import Callable
from typing import Any

from kubeapi.kinds import PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS
from kubeapi.scheduling.facts import Pod, Shape
from kubeapi.scheduling.filters import node_selector, node_term
from kubeapi.store import Store

Json = dict[str, Any]
SELECTED_NODE = "volume.kubernetes.io/selected-node"
CONFLICT = "node(s) had volume node affinity conflict"
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"


class Claims:
    """Reads a pod's claims."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def problem(self, pod: Pod) -> str:
        """Return what keeps the pod from every node, "" nothing."""
        for name in pod.claims:
            claim = self._store.get(PERSISTENT_VOLUME_CLAIM, pod.key[0], name)
            if claim is None:
                return f'persistentvolumeclaim "{name}" not found'
            if claim["metadata"].get("deletionTimestamp"):
                return f'persistentvolumeclaim "{name}" is being deleted'
            if not is_bound(claim) and not self.waits(claim):
                return UNBOUND
        return ""

    def waits(self, claim: Json) -> bool:
        """Whether an unbound claim's volume is made where its first pod goes."""
        name = (claim.get("spec") or {}).get("storageClassName")
        found = self._store.get(STORAGE_CLASS, "", name) if name else None
        return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"

    def unbound(self, pod: Pod) -> list[Json]:
        """Return the claims that must be given a node before the pod can be bound."""
        found = (self._store.get(PERSISTENT_VOLUME_CLAIM, pod.key[0], name) for name in pod.claims)
        return [claim for claim in found if claim is not None and not is_bound(claim)]

    def verdict(self, pod: Pod) -> Callable[[Shape], str]:
        """Return the test of nodes by the pod's volumes."""
        tests: list[Callable[[Shape], bool]] = []
        for name in pod.claims:
            claim = self._store.get(PERSISTENT_VOLUME_CLAIM, pod.key[0], name)
            if claim is not None:
                tests += self._tests(claim)
        if not tests:
            return lambda _: ""
        return lambda shape: "" if all(test(shape) for test in tests) else CONFLICT

    def _tests(self, claim: Json) -> list[Callable[[Shape], bool]]:
        spec = claim.get("spec") or {}
        if is_bound(claim):
            volume = self._store.get(PERSISTENT_VOLUME, "", spec["volumeName"])
            if volume is None:
                return [lambda _: False]
            return [node_selector(((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required"))]
        chosen = (claim["metadata"].get("annotations") or {}).get(SELECTED_NODE)
        if chosen:
            return [lambda shape: shape.name == chosen]
        found = self._store.get(STORAGE_CLASS, "", spec.get("storageClassName") or "")
        terms = [
            node_term({"matchExpressions": [{**e, "operator": "In"} for e in term.get("matchLabelExpressions") or ()]})
            for term in (found or {}).get("allowedTopologies") or ()
        ]
        return [lambda shape: any(term(shape) for term in terms)] if terms else []


def is_bound(claim: Json) -> bool:
    return bool((claim.get("spec") or {}).get("volumeName")) and (claim.get("status") or {}).get("phase") == "Bound"
