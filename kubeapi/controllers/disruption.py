"""PodDisruptionBudgets: how many pods may go now. Reads Pod and its controllers; writes the budgets' status."""

from datetime import datetime
from typing import Any

from kubeapi.conditions import with_condition
from kubeapi.controllers import parts
from kubeapi.controllers.index import Indexes, Place, controller_of
from kubeapi.controllers.parts import share
from kubeapi.controllers.worker import Worker
from kubeapi.durations import parse_time
from kubeapi.kinds import DEPLOYMENT, POD, POD_DISRUPTION_BUDGET, REPLICA_SET, REPLICATION_CONTROLLER, STATEFUL_SET
from kubeapi.label_selectors import label_test
from kubeapi.objects import Objects
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
DISRUPTED_S = 120.0  # an eviction that has not become a deletion by then does not count any more
SCALED = {"ReplicaSet": REPLICA_SET, "ReplicationController": REPLICATION_CONTROLLER, "StatefulSet": STATEFUL_SET}


class Disruption:
    """Keeps the status of every budget; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes) -> None:
        self._objects, self._store = objects, objects.store
        self._pods = indexes.pods
        self._spaces: dict[str, set[str]] = {}
        self.worker: Worker[Place] = Worker("disruption", self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(POD_DISRUPTION_BUDGET, None):
            self._spaces.setdefault(item.namespace, set()).add(item.name)
            self.worker.add((item.namespace, item.name))
        self._store.listen(POD_DISRUPTION_BUDGET, self._budget_changed)
        self._store.listen(POD, self._pod_changed)
        for res in (DEPLOYMENT, *SCALED.values()):
            self._store.listen(res, self._scale_changed)

    def _budget_changed(self, event: Event) -> None:
        names = self._spaces.setdefault(event.stored.namespace, set())
        (names.discard if event.type == DELETED else names.add)(event.stored.name)
        self.worker.add((event.stored.namespace, event.stored.name))

    def _pod_changed(self, event: Event) -> None:
        namespace = event.stored.namespace
        for name in self._spaces.get(namespace, ()):
            budget = self._store.get(POD_DISRUPTION_BUDGET, namespace, name)
            test = label_test(((budget or {}).get("spec") or {}).get("selector"))
            if any(test(p["metadata"].get("labels") or {}) for p in (event.previous, event.object) if p is not None):
                self.worker.add((namespace, name))

    def _scale_changed(self, event: Event) -> None:
        old = event.previous
        if old is None or (old.get("spec") or {}).get("replicas") != (event.object.get("spec") or {}).get("replicas"):
            for name in self._spaces.get(event.stored.namespace, ()):
                self.worker.add((event.stored.namespace, name))

    async def _make_right(self, place: Place) -> None:
        budget = self._store.get(POD_DISRUPTION_BUDGET, *place)
        if budget is None or parts.is_deleting(budget):
            return
        spec, now = budget.get("spec") or {}, self._objects.clock.wall()
        pods = [p for p in self._pods.selected(place[0], spec.get("selector")) if _counts(p)]
        expected, desired = self._desired(budget, pods)
        status = budget.get("status") or {}
        disrupted = _still_disrupted(status.get("disruptedPods") or {}, pods, now)
        healthy = sum(
            1 for p in pods if parts.is_ready(p) and not parts.is_deleting(p) and p["metadata"]["name"] not in disrupted
        )
        allowed = max(0, healthy - desired) if expected else 0
        told = ("True", "SufficientPods", "") if allowed else ("False", "InsufficientPods", "")
        new: Json = {
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "disruptionsAllowed": allowed,
            "expectedPods": expected,
            "observedGeneration": budget["metadata"].get("generation", 0),
            "conditions": with_condition(status.get("conditions") or (), "DisruptionAllowed", *told, now),
        }
        if disrupted:
            new["disruptedPods"] = disrupted
            self.worker.add_after(place, DISRUPTED_S)
        if await self._unchanged(budget):
            await parts.write_status(self._objects, POD_DISRUPTION_BUDGET, budget, new)

    async def _unchanged(self, budget: Json) -> bool:
        """Whether the budget is still what was counted: an eviction may have taken from it meanwhile."""
        metadata = budget["metadata"]
        held = self._store.stored(POD_DISRUPTION_BUDGET, metadata["namespace"], metadata["name"])
        return held is not None and held.object["metadata"]["resourceVersion"] == metadata["resourceVersion"]

    def _desired(self, budget: Json, pods: list[Json]) -> tuple[int, int]:
        """Return (pods expected, pods that must be healthy)."""
        spec = budget.get("spec") or {}
        most, least = spec.get("maxUnavailable"), spec.get("minAvailable")
        if most is not None:
            expected = self._scale(pods)
            return expected, max(0, expected - share(most, expected, up=True))
        if isinstance(least, str):
            expected = self._scale(pods)
            return expected, share(least, expected, up=True)
        return len(pods), int(least or 0)

    def _scale(self, pods: list[Json]) -> int:
        """Return how many pods their controllers want; a pod without one counts itself."""
        wanted: dict[str, int] = {}
        for pod in pods:
            owner = controller_of(pod)
            res = SCALED.get(str(owner.get("kind"))) if owner is not None else None
            found = (
                self._store.get(res, pod["metadata"]["namespace"], owner["name"]) if res is not None and owner else None
            )
            if found is None or owner is None:
                wanted[pod["metadata"]["uid"]] = 1
                continue
            above = controller_of(found)
            if above is not None and above.get("kind") == "Deployment":
                found = self._store.get(DEPLOYMENT, pod["metadata"]["namespace"], above["name"]) or found
            wanted[found["metadata"]["uid"]] = (found.get("spec") or {}).get("replicas", 1)
        return sum(wanted.values())


def _counts(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") not in parts.FINISHED


def _still_disrupted(held: Json, pods: list[Json], now: datetime) -> Json:
    """Return the evictions that have not become deletions yet."""
    alive = {p["metadata"]["name"] for p in pods if not parts.is_deleting(p)}
    out = {}
    for name, at in held.items():
        since = parse_time(at)
        if name in alive and since is not None and (now - since).total_seconds() < DISRUPTED_S:
            out[name] = at
    return out
