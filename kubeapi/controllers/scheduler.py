"""The scheduler: puts pods on nodes. Reads Pod, Node, claims, volumes, budgets; writes a pod's node and its PodScheduled condition.

Pods are taken by priority, then by age. A decision counts at once; the pods of one round share commits.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from kubeapi.binding import bind_in
from kubeapi.conditions import with_condition
from kubeapi.controllers import parts
from kubeapi.controllers.index import Indexes
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.worker import Worker
from kubeapi.errors import ApiError
from kubeapi.kinds import (
    NAMESPACE,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    STORAGE_CLASS,
)
from kubeapi.label_selectors import label_test
from kubeapi.objects import Objects
from kubeapi.scheduling.claims import SELECTED_NODE, Claims
from kubeapi.scheduling.facts import FINISHED, Key, Pod, read_pod
from kubeapi.scheduling.neighbours import Neighbours
from kubeapi.scheduling.nodes import Nodes
from kubeapi.scheduling.placing import Placing, Unplaced
from kubeapi.scheduling.preemption import Plan, plan
from kubeapi.stored import DELETED, Event

Json = dict[str, Any]
NAME = "default-scheduler"
ROUND = "round"
BACKOFF_S, LONGEST_S = 1.0, 10.0  # a pod that found no node is tried again no sooner, and only when something changed
MOST_PER_ROUND = 500  # then what was decided is stored, and others may have the loop
FLUSH_S = 300.0  # what changed unseen is found after this time


@dataclass(slots=True)
class Waiting:
    """A pod that found no node. ``until_s`` is when it may be tried again."""

    attempts: int
    until_s: float


class Scheduler:
    """Places the pods that ask for ``default-scheduler``; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes) -> None:
        self._objects, self._store = objects, objects.store
        self._recorder = Recorder(objects, NAME)
        self._nodes = Nodes(self._store, self._stir)
        self._claims = Claims(self._store)
        self._neighbours = Neighbours(self._store, self._nodes, indexes.pods.selected)
        self._placing = Placing(self._nodes, self._neighbours, self._claims)
        self._active: dict[Key, None] = {}
        self._waiting: dict[Key, Waiting] = {}
        self._nominations: dict[Key, str] = {}
        self._stirred = False
        self.worker: Worker[str] = Worker("scheduler", self._round, objects.clock)

    def start(self) -> None:
        self._nodes.start()
        for item in self._store.items(POD, None):
            self._look(item.object)
        self._store.listen(POD, self._pod_changed)
        for res in (PERSISTENT_VOLUME_CLAIM, PERSISTENT_VOLUME, STORAGE_CLASS, NAMESPACE):
            self._store.listen(res, lambda _: self._stir())
        self.worker.add(ROUND)

    def _pod_changed(self, event: Event) -> None:
        key = (event.stored.namespace, event.stored.name)
        if event.type == DELETED:
            self._drop(key)
        elif not _is_ours(event.object):
            if key in self._active or key in self._waiting or key in self._nominations:
                self._drop(key)
        elif event.previous is None or _asks(event.previous) != _asks(event.object) or key not in self._waiting:
            self._waiting.pop(key, None)
            self._look(event.object)
        if (
            self._waiting
            and event.previous is not None
            and event.previous["metadata"].get("labels") != event.object["metadata"].get("labels")
        ):
            self._stir()  # rules about other pods may come out otherwise

    def _look(self, pod: Json) -> None:
        if not _is_ours(pod):
            return
        key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        self._active[key] = None
        self._nominate(read_pod(pod), (pod.get("status") or {}).get("nominatedNodeName") or "")
        self.worker.add(ROUND)

    def _drop(self, key: Key) -> None:
        self._active.pop(key, None)
        self._waiting.pop(key, None)
        self._unnominate(key)

    def _stir(self) -> None:
        """Something changed that may open a node for those that wait."""
        if self._waiting:
            self._stirred = True
            soonest = min(w.until_s for w in self._waiting.values()) - self._objects.clock.now_s()
            self.worker.add_after(ROUND, max(0.0, soonest))

    # one round

    async def _round(self, _key: str) -> None:
        now = self._objects.clock.now_s()
        due = [key for key, w in self._waiting.items() if now >= w.until_s + (0.0 if self._stirred else FLUSH_S)]
        if self._waiting:
            later = [w.until_s for key, w in self._waiting.items() if now < w.until_s]
            self.worker.add_after(ROUND, (min(later) - now) if self._stirred and later else FLUSH_S)
            self._stirred = self._stirred and bool(later)
        self._active.update(dict.fromkeys(due))
        chosen = self._ordered()[:MOST_PER_ROUND]
        bound: list[tuple[Json, Pod]] = []
        for obj, pod in chosen:
            del self._active[pod.key]
            try:
                if await self._decide(obj, pod):
                    bound.append((obj, pod))
            except ApiError:  # the pod changed or went: its own event brings it back
                self._nodes.forget(pod)
        await self._bind(bound)
        if self._active:
            self.worker.add(ROUND)

    def _ordered(self) -> list[tuple[Json, Pod]]:
        found = []
        for key in list(self._active):
            obj = self._store.get(POD, *key)
            if obj is None or not _is_ours(obj) or key in self._nodes.assumed:
                self._active.pop(key, None)
                continue
            found.append((obj, read_pod(obj)))
        return sorted(found, key=lambda pair: (-pair[1].priority, pair[1].since, pair[1].key))

    async def _decide(self, obj: Json, pod: Pod) -> bool:
        """Choose a node; returns whether the pod is to be bound to it now."""
        if pod.spec.get("schedulingGates"):
            text = "Scheduling is blocked due to non-empty scheduling gates"
            await self._say(obj, "SchedulingGated", text)
            return False
        outcome = self._placing.place(pod)
        if isinstance(outcome, Unplaced):
            await self._refuse(obj, pod, outcome)
            return False
        name = outcome.shape.name
        unbound = self._claims.unbound(pod)
        if unbound:  # their volumes are made on this node first; being bound brings the pod back
            for claim in unbound:
                await parts.change(self._objects, PERSISTENT_VOLUME_CLAIM, claim, lambda held: _selecting(held, name))
            self._waiting[pod.key] = Waiting(0, self._objects.clock.now_s())
            return False
        self._unnominate(pod.key)
        self._nodes.assume(pod, name)
        return True

    async def _bind(self, bound: list[tuple[Json, Pod]]) -> None:
        async with asyncio.TaskGroup() as group:
            for obj, pod in bound:
                group.create_task(self._bind_one(obj, pod))

    async def _bind_one(self, obj: Json, pod: Pod) -> None:
        namespace, name = pod.key
        node = pod.node
        try:
            await self._store.db.tx(lambda tx: bind_in(self._objects, tx, namespace, name, node, uid=pod.uid))
        except ApiError as error:
            self._nodes.forget(pod)
            self._recorder.warning(POD, obj, "FailedScheduling", f"binding rejected: {error.message}")
            self._wait(pod.key)
        except BaseException:
            self._nodes.forget(pod)
            raise
        else:
            self._waiting.pop(pod.key, None)
            self._recorder.normal(POD, obj, "Scheduled", f"Successfully assigned {namespace}/{name} to {node}")

    def _wait(self, key: Key) -> None:
        held = self._waiting.get(key)
        attempts = held.attempts + 1 if held is not None else 0
        delay_s = min(LONGEST_S, BACKOFF_S * 2.0 ** min(attempts, 10))
        self._waiting[key] = Waiting(attempts, self._objects.clock.now_s() + delay_s)
        self.worker.add_after(ROUND, FLUSH_S)

    async def _refuse(self, obj: Json, pod: Pod, failed: Unplaced) -> None:
        made, told = (None, "")
        if not failed.problem and not self._makes_room(pod):
            made, told = plan(self._placing, pod, failed, self._guarded)
        sentence = failed.sentence(told)
        self._wait(pod.key)
        self._recorder.warning(POD, obj, "FailedScheduling", sentence)
        nominated = made.node if made is not None else self._nominations.get(pod.key, "")
        await self._say(obj, "Unschedulable", sentence, nominated)
        if made is not None:
            await self._preempt(obj, pod, made)

    async def _say(self, obj: Json, reason: str, message: str, nominated: str = "") -> None:
        now = self._objects.clock.wall()

        def make(held: Json) -> Json:
            status = held.get("status") or {}
            conditions = with_condition(status.get("conditions") or (), "PodScheduled", "False", reason, message, now)
            out = {**status, "conditions": conditions}
            if nominated:
                out["nominatedNodeName"] = nominated
            return {**held, "status": out}

        await parts.change(self._objects, POD, obj, make)

    # preemption

    async def _preempt(self, obj: Json, pod: Pod, made: Plan) -> None:
        self._nominate(pod, made.node)
        now = self._objects.clock.wall()
        for victim in made.victims:
            held = self._store.get(POD, *victim.key)
            if held is None or held["metadata"]["uid"] != victim.uid or parts.is_deleting(held):
                continue
            text = f"{NAME}: preempting to accommodate a higher priority pod"

            def mark(found: Json, text: str = text) -> Json:
                status = found.get("status") or {}
                told = ("DisruptionTarget", "True", "PreemptionByScheduler", text)
                return {
                    **found,
                    "status": {**status, "conditions": with_condition(status.get("conditions") or (), *told, now)},
                }

            await parts.change(self._objects, POD, held, mark)
            await parts.delete_all(self._objects, POD, [held])
            name = obj["metadata"]["uid"]
            self._recorder.normal(POD, held, "Preempted", f"Preempted by pod {name} on node {made.node}")

    def _makes_room(self, pod: Pod) -> bool:
        """Whether pods are already on their way out for this one."""
        node = self._nodes.by_name.get(self._nominations.get(pod.key, ""))
        return node is not None and any(p.deleting and p.priority < pod.priority for p in node.pods.values())

    def _guarded(self, victims: list[Pod]) -> set[str]:
        """Return the uids of those whose deletion a disruption budget does not allow."""
        left: dict[Key, int] = {}
        out = set()
        for pod in victims:
            for item in self._store.items(POD_DISRUPTION_BUDGET, pod.key[0]):
                budget = item.object
                if label_test((budget.get("spec") or {}).get("selector"))(pod.labels):
                    key = (item.namespace, item.name)
                    allowed = left.setdefault(key, (budget.get("status") or {}).get("disruptionsAllowed", 0))
                    left[key] -= 1
                    if allowed <= 0:
                        out.add(pod.uid)
        return out

    def _nominate(self, pod: Pod, node: str) -> None:
        self._unnominate(pod.key)
        if node:
            self._nominations[pod.key] = node
            self._placing.nominated.setdefault(node, {})[pod.key] = pod

    def _unnominate(self, key: Key) -> None:
        node = self._nominations.pop(key, None)
        if node is not None:
            held = self._placing.nominated[node]
            held.pop(key, None)
            if not held:
                del self._placing.nominated[node]


def _is_ours(pod: Json) -> bool:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    return (
        not spec.get("nodeName")
        and spec.get("schedulerName", NAME) == NAME
        and status.get("phase") not in FINISHED
        and not pod["metadata"].get("deletionTimestamp")
    )


def _asks(pod: Json) -> Any:
    """Return what of a pod decides where it may go: a change of it makes the pod worth another try at once."""
    return (pod["metadata"]["uid"], pod["metadata"].get("labels"), pod.get("spec"))


def _selecting(claim: Json, node: str) -> Json:
    annotations = {**(claim["metadata"].get("annotations") or {}), SELECTED_NODE: node}
    return {**claim, "metadata": {**claim["metadata"], "annotations": annotations}}
