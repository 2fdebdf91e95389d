"""ReplicaSets and ReplicationControllers: as many pods as asked for. Reads and writes them and Pod."""

from typing import Any

from kubeapi.conditions import condition, with_condition, without_condition
from kubeapi.controllers import parts
from kubeapi.controllers.index import Indexes, Place, controller_of
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import POD, REPLICA_SET
from kubeapi.label_selectors import label_test
from kubeapi.objects import Objects
from kubeapi.resources import Resource
from kubeapi.stored import Event

Json = dict[str, Any]
BURST = 500  # pods made or deleted in one turn
COST = "controller.kubernetes.io/pod-deletion-cost"
PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


class ReplicaSets:
    """Keeps the pods of every object of one kind; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes, res: Resource = REPLICA_SET) -> None:
        self._objects, self._store, self._res = objects, objects.store, res
        self._pods = indexes.pods
        self._manager = f"{res.singular}-controller"
        self._recorder = Recorder(objects, self._manager)
        self._spaces: dict[str, set[str]] = {}  # namespace -> names: who may select an orphan
        self.worker: Worker[Place] = Worker(res.plural, self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(self._res, None):
            self._spaces.setdefault(item.namespace, set()).add(item.name)
            self.worker.add((item.namespace, item.name))
        self._store.listen(self._res, self._changed)
        self._store.listen(POD, self._pod_changed)

    def _changed(self, event: Event) -> None:
        place = (event.stored.namespace, event.stored.name)
        names = self._spaces.setdefault(place[0], set())
        (names.discard if event.type == "DELETED" else names.add)(place[1])
        if not parts.only_status(event):
            self.worker.add(place)

    def _pod_changed(self, event: Event) -> None:
        for pod in filter(None, (event.previous, event.object)):
            owner = controller_of(pod)
            namespace = pod["metadata"].get("namespace", "")
            if owner is None:
                self._offer(namespace, pod)
            elif owner.get("kind") == self._res.kind:
                self.worker.add((namespace, str(owner.get("name"))))

    def _offer(self, namespace: str, pod: Json) -> None:
        """Wake those that may adopt a pod without controller."""
        labels = pod["metadata"].get("labels") or {}
        for name in self._spaces.get(namespace, ()) if labels else ():
            owner = self._store.get(self._res, namespace, name)
            if owner is not None and label_test(self._selector(owner))(labels):
                self.worker.add((namespace, name))

    def _selector(self, owner: Json) -> Json:
        selector = (owner.get("spec") or {}).get("selector") or {}
        return selector if self._res.group else {"matchLabels": selector}

    async def _make_right(self, place: Place) -> None:
        owner = self._store.get(self._res, *place)
        if owner is None:
            return
        pods = await parts.claim(self._objects, self._pods, POD, self._res, owner, self._selector(owner))
        active = [pod for pod in pods if parts.is_active(pod)]
        problem = ""
        if not parts.is_deleting(owner):
            problem = await self._manage(owner, active)
            active = [pod for pod in self._pods.get(("owner", owner["metadata"]["uid"])) if parts.is_active(pod)]
        now = self._objects.clock.wall()
        least_s = owner["spec"].get("minReadySeconds") or 0
        waits = [parts.available_in_s(pod, least_s, now) for pod in active]
        status = self._status(owner, active, waits, problem)
        await parts.write_status(self._objects, self._res, owner, status)
        soonest = min((wait for wait in waits if wait), default=None)
        if soonest is not None:
            self.worker.add_after(place, soonest)
        if problem:
            raise ApiError(503, "ServiceUnavailable", problem)  # tried again, with back-off

    async def _manage(self, owner: Json, active: list[Json]) -> str:
        """Create or delete; returns what hindered it, "" nothing."""
        missing = owner["spec"].get("replicas", 1) - len(active)
        if missing > 0:
            return await self._create(owner, min(missing, BURST))
        if missing < 0:
            victims = _ranked(active)[: min(-missing, BURST)]
            for pod in await parts.delete_all(self._objects, POD, victims):
                self._recorder.normal(self._res, owner, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
        return ""

    async def _create(self, owner: Json, count: int) -> str:
        namespace = owner["metadata"]["namespace"]
        body = parts.pod_of(self._res, owner, owner["spec"].get("template") or {})
        made = await parts.create_all(self._objects, POD, namespace, [body] * count, self._manager)
        for outcome in made:
            if isinstance(outcome, ApiError):
                if outcome.reason == "Forbidden" and "being terminated" in outcome.message:
                    return ""  # the namespace goes, and the owner with it
                why = parts.unnamed(outcome, body)
                self._recorder.warning(self._res, owner, "FailedCreate", f"Error creating: {why}")
                return why
            name = outcome["metadata"]["name"]
            self._recorder.normal(self._res, owner, "SuccessfulCreate", f"Created pod: {name}")
        return ""

    def _status(self, owner: Json, active: list[Json], waits: list[float | None], problem: str) -> Json:
        held = owner.get("status") or {}
        labels = ((owner["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
        full = sum(1 for p in active if all((p["metadata"].get("labels") or {}).get(k) == v for k, v in labels.items()))
        status: Json = {
            "replicas": len(active),
            "fullyLabeledReplicas": full,
            "readyReplicas": sum(1 for wait in waits if wait is not None),
            "availableReplicas": sum(1 for wait in waits if wait == 0),
        }
        status = {"replicas": len(active), **{k: v for k, v in status.items() if v}}
        status["observedGeneration"] = owner["metadata"].get("generation", 0)
        conditions = held.get("conditions") or []
        if problem:
            now = self._objects.clock.wall()
            conditions = with_condition(conditions, "ReplicaFailure", "True", "FailedCreate", problem, now)
        elif condition(held, "ReplicaFailure") is not None:
            conditions = without_condition(conditions, "ReplicaFailure")
        return {**status, **({"conditions": conditions} if conditions else {})}


def _ranked(active: list[Json]) -> list[Json]:
    """Return the pods, those that are missed least first."""
    beside: dict[str, int] = {}
    for pod in active:
        node = pod["spec"].get("nodeName") or ""
        beside[node] = beside.get(node, 0) + 1
    return sorted(active, key=lambda pod: _worth(pod, beside[pod["spec"].get("nodeName") or ""]))


def _worth(pod: Json, beside: int) -> tuple[Any, ...]:
    status, metadata = pod.get("status") or {}, pod["metadata"]
    try:
        cost = int((metadata.get("annotations") or {}).get(COST, "0"))
    except ValueError:
        cost = 0
    restarts = max((c.get("restartCount", 0) for c in status.get("containerStatuses") or ()), default=0)
    ready = condition(status, "Ready") or {}
    since = ready.get("lastTransitionTime") or ""
    return (
        bool(pod["spec"].get("nodeName")),
        PHASES.get(str(status.get("phase")), 0),
        ready.get("status") == "True",
        cost,
        -beside,
        _newest_first(since),
        -restarts,
        _newest_first(metadata.get("creationTimestamp") or ""),
        metadata["name"],
    )


def _newest_first(time: str) -> tuple[int, ...]:
    return tuple(-ord(c) for c in time)
