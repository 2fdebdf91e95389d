"""Eviction: a deletion that asks the PodDisruptionBudgets first. Reads and writes Pod and PodDisruptionBudget in one transaction."""

from collections.abc import Iterator
from typing import Any

from kubeapi.conditions import is_true, with_condition
from kubeapi.errors import ApiError, not_found
from kubeapi.kinds import POD, POD_DISRUPTION_BUDGET
from kubeapi.label_selectors import label_test
from kubeapi.objects import DeleteOptions, Objects, WriteOptions
from proto.kit.clock import rfc3339
from proto.kit.database import Tx

Json = dict[str, Any]
NO_NEED_TO_ASK = ("Failed", "Pending", "Succeeded")
PROCESSING_S = 10


def evict_in(objects: Objects, tx: Tx, namespace: str, name: str, opts: DeleteOptions) -> None:
    """Delete the pod unless a budget forbids it. Raises 404, 409, 429 (later, perhaps), 500 (two budgets)."""
    found = objects.store.peek(POD, namespace, name)
    if found is None:
        raise not_found(POD, name)
    pod = found.object
    if not _unasked(pod):
        budgets = list(budgets_of(objects, pod))
        if len(budgets) > 1:
            text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise ApiError(500, "InternalError", text)
        if budgets and not _unhealthy_may_go(pod, budgets[0]):
            _take(objects, tx, budgets[0], pod, opts)
    if not opts.dry_run:
        _mark(objects, tx, pod)
    objects.delete_in(tx, POD, namespace, name, opts)


def budgets_of(objects: Objects, pod: Json) -> Iterator[Json]:
    """Yield the budgets that select the pod, as this transaction sees them."""
    metadata = pod["metadata"]
    for item in objects.store.peek_all(POD_DISRUPTION_BUDGET):
        selector = (item.object.get("spec") or {}).get("selector")
        if item.namespace == metadata["namespace"] and label_test(selector)(metadata.get("labels") or {}):
            yield item.object


def _unasked(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in NO_NEED_TO_ASK or bool(pod["metadata"].get("deletionTimestamp"))


def _unhealthy_may_go(pod: Json, budget: Json) -> bool:
    """Whether a pod that serves nobody may go without being counted."""
    if is_true(pod.get("status") or {}, "Ready"):
        return False
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status") or {}
    return bool(status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) > 0)


def _take(objects: Objects, tx: Tx, budget: Json, pod: Json, opts: DeleteOptions) -> None:
    """Take one disruption out of the budget. Raises 429."""
    metadata, status = budget["metadata"], budget.get("status") or {}
    name, needed, healthy = metadata["name"], status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
    refused = "Cannot evict pod as it would violate the pod's disruption budget."
    if status.get("observedGeneration", 0) < metadata.get("generation", 0):
        raise _too_many(refused, f"The disruption budget {name} is still being processed by the server.", PROCESSING_S)
    if status.get("disruptionsAllowed", 0) <= 0:
        raise _too_many(
            refused, f"The disruption budget {name} needs {needed} healthy pods and has {healthy} currently", 0
        )
    if opts.dry_run:
        return
    disrupted = {**(status.get("disruptedPods") or {}), pod["metadata"]["name"]: rfc3339(objects.clock.wall())}
    taken = {**status, "disruptionsAllowed": status["disruptionsAllowed"] - 1, "disruptedPods": disrupted}
    objects.settle(tx, POD_DISRUPTION_BUDGET, budget, {**budget, "status": taken}, WriteOptions())


def _too_many(message: str, why: str, after_s: int) -> ApiError:
    details: Json = {"causes": [{"reason": "DisruptionBudget", "message": why}]}
    if after_s:
        details["retryAfterSeconds"] = after_s
    return ApiError(429, "TooManyRequests", message, details)


def _mark(objects: Objects, tx: Tx, pod: Json) -> None:
    status = pod.get("status") or {}
    conditions = with_condition(
        status.get("conditions") or (),
        "DisruptionTarget",
        "True",
        "EvictionByEvictionAPI",
        "Eviction API: evicting",
        objects.clock.wall(),
    )
    new = {**pod, "status": {**status, "conditions": conditions}}
    objects.settle(tx, POD, pod, new, WriteOptions())
