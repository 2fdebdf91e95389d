"""Jobs: pods until enough have succeeded. Reads and writes Job and Pod.

A pod carries a finalizer until it is counted; counting it and letting it go is one transaction, so none is counted twice
and none is missed, whoever deletes it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from kubeapi.conditions import condition, is_true, with_condition
from kubeapi.controllers import job_ends, job_indexes, parts
from kubeapi.controllers.index import Indexes, Place, controller_of
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.worker import Worker
from kubeapi.durations import parse_time
from kubeapi.errors import ApiError
from kubeapi.kinds import JOB, POD
from kubeapi.objects import DeleteOptions, Objects, WriteOptions
from kubeapi.stored import DELETED, Event
from proto.kit.clock import rfc3339
from proto.kit.database import Tx

Json = dict[str, Any]
MANAGER = "job-controller"
TRACKING = job_ends.TRACKING
OURS = ("", "kubernetes.io/job-controller")


class Jobs:
    """Runs every Job; ``start`` after the indexes."""

    def __init__(
        self, objects: Objects, indexes: Indexes, ours: Callable[[Json], bool] = lambda _: True, *, keeps: bool = False
    ) -> None:
        """``ours``: whether we run this Job, and whether a pod was made by us; at an edge node most are the cloud's.

        ``keeps``: ended Jobs are for somebody else to delete.
        """
        self._objects, self._store, self._ours, self._keeps = objects, objects.store, ours, keeps
        self._pods = indexes.pods
        self._recorder = Recorder(objects, MANAGER)
        self.worker: Worker[Place] = Worker("jobs", self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(JOB, None):
            self.worker.add((item.namespace, item.name))
        for item in self._store.items(POD, None):
            if TRACKING.encode() in item.body and self._ours(item.object):
                self._release_orphan(item.object)
        self._store.listen(JOB, self._changed)
        self._store.listen(POD, self._pod_changed)

    def _changed(self, event: Event) -> None:
        if event.type != DELETED:
            self.worker.add((event.stored.namespace, event.stored.name))
            return
        for pod in filter(self._ours, self._pods.get(("owner", event.object["metadata"]["uid"]))):
            # nobody counts them any more
            self._objects.store.db.submit(partial(self._let_go, pod=pod)).add_done_callback(_noted)

    def _release_orphan(self, pod: Json) -> None:
        """Let a pod go whose job went while nobody looked."""
        owner = controller_of(pod)
        job = self._store.get(JOB, pod["metadata"]["namespace"], str(owner.get("name"))) if owner is not None else None
        if job is None or owner is None or job["metadata"]["uid"] != owner.get("uid"):
            self._objects.store.db.submit(partial(self._let_go, pod=pod)).add_done_callback(_noted)

    def _pod_changed(self, event: Event) -> None:
        owner = controller_of(event.object)
        if owner is not None and owner.get("kind") == "Job":
            self.worker.add((event.stored.namespace, str(owner.get("name"))))

    async def _make_right(self, place: Place) -> None:
        job = self._store.get(JOB, *place)
        if job is None or str(job["spec"].get("managedBy") or "") not in OURS or not self._ours(job):
            return
        pods = await parts.claim(self._objects, self._pods, POD, JOB, job, job["spec"]["selector"])
        if _ended(job) or parts.is_deleting(job):
            await self._clean_up(place, job, pods)
            return
        job = await self._count(job, pods)
        pods = self._pods.get(("owner", job["metadata"]["uid"]))
        active = [p for p in pods if parts.is_active(p)]
        verdict = self._verdict(job, active)
        if verdict is not None:
            await self._end(job, active, *verdict)
            return
        problem = await self._manage(place, job, pods, active)
        await self._say(job)
        self._remind(place, job)
        if problem:
            raise ApiError(503, "ServiceUnavailable", problem)

    # counting

    async def _count(self, job: Json, pods: list[Json]) -> Json:
        """Count the pods that ended and let them go; returns the job with its new numbers."""
        ended = [p for p in pods if job_ends.is_tracked(p) and _is_over(p) and not job_ends.carries_on(job, p, pods)]
        if not ended:
            return job

        def write(tx: Tx) -> Json:
            found = self._store.peek(JOB, job["metadata"]["namespace"], job["metadata"]["name"])
            if found is None or found.object["metadata"]["uid"] != job["metadata"]["uid"]:
                return job
            status = dict(found.object.get("status") or {})
            for pod in ended:
                why = job_ends.count(job, status, pod) if self._let_go(tx, pod) else ""
                if why and condition(status, "FailureTarget") is None:
                    told = ("FailureTarget", "True", "PodFailurePolicy", why)
                    status["conditions"] = with_condition(
                        status.get("conditions") or (), *told, self._objects.clock.wall()
                    )
            return self._objects.settle(tx, JOB, found.object, {**found.object, "status": status}, WriteOptions())

        return await self._store.db.tx(write)

    def _let_go(self, tx: Tx, pod: Json) -> bool:
        """Take our finalizer off; returns whether it was still there."""
        metadata = pod["metadata"]
        found = self._store.peek(POD, metadata["namespace"], metadata["name"])
        if found is None or found.object["metadata"]["uid"] != metadata["uid"] or not job_ends.is_tracked(found.object):
            return False
        held = {k: v for k, v in found.object["metadata"].items() if k != "finalizers"}
        kept = [f for f in found.object["metadata"]["finalizers"] if f != TRACKING]
        new = {**found.object, "metadata": {**held, **({"finalizers": kept} if kept else {})}}
        self._objects.settle(tx, POD, found.object, new, WriteOptions())
        return True

    # deciding

    def _verdict(self, job: Json, active: list[Json]) -> tuple[str, str, str] | None:
        """Return (condition, reason, message) when the job is over."""
        spec, status = job["spec"], job.get("status") or {}
        deadline = spec.get("activeDeadlineSeconds")
        started = parse_time(status.get("startTime"))
        failed = status.get("failed", 0)
        if spec["template"]["spec"].get("restartPolicy") == "OnFailure":
            failed += sum(
                c.get("restartCount", 0) for p in active for c in (p.get("status") or {}).get("containerStatuses") or ()
            )
        doomed = condition(status, "FailureTarget")
        if doomed is not None:
            return "Failed", str(doomed.get("reason")), str(doomed.get("message"))
        if failed > spec.get("backoffLimit", 6):
            return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        running = deadline is not None and started is not None and not spec.get("suspend")
        if running and started and (self._objects.clock.wall() - started).total_seconds() >= deadline:
            return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
        if job_indexes.is_indexed(job) and (found := job_ends.verdict(job)) is not None:
            return found
        succeeded, wanted = status.get("succeeded", 0), spec.get("completions")
        if succeeded >= wanted if wanted is not None else (succeeded > 0 and not active):
            return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
        return None

    async def _end(self, job: Json, active: list[Json], kind: str, reason: str, message: str) -> None:
        await self._stop(active)
        now = self._objects.clock.wall()

        def make(held: Json) -> Json:
            status = {
                k: v for k, v in (held.get("status") or {}).items() if k not in ("active", "ready", "terminating")
            }
            conditions = status.get("conditions") or []
            first = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
            for each in (first, kind):
                conditions = with_condition(conditions, each, "True", reason, message, now)
            if kind == "Complete":
                status["completionTime"] = rfc3339(now)
            return {**held, "status": {**status, "conditions": conditions}}

        ended = await parts.change(self._objects, JOB, job, make)
        if kind == "Complete":
            self._recorder.normal(JOB, ended, "Completed", "Job completed")
        else:
            self._recorder.warning(JOB, ended, reason, message)

    async def _stop(self, pods: list[Json]) -> None:
        """Delete pods that are not to be counted any more."""

        def write(tx: Tx) -> None:
            for pod in pods:
                metadata = pod["metadata"]
                self._let_go(tx, pod)
                if self._store.peek(POD, metadata["namespace"], metadata["name"]) is not None:
                    self._objects.delete_in(tx, POD, metadata["namespace"], metadata["name"], DeleteOptions())

        if pods:
            await self._store.db.tx(write)

    async def _manage(self, place: Place, job: Json, pods: list[Json], active: list[Json]) -> str:
        """Create or stop pods; returns what hindered it."""
        spec, status = job["spec"], job.get("status") or {}
        wanted = 0 if spec.get("suspend") else self._wanted(spec, status, active)
        if len(active) > wanted:
            await self._stop(
                sorted(active, key=lambda p: (parts.is_ready(p), p["metadata"]["name"]))[: len(active) - wanted]
            )
        terminating = [
            p for p in pods if parts.is_deleting(p) and (p.get("status") or {}).get("phase") not in parts.FINISHED
        ]
        waiting = len(terminating) if spec.get("podReplacementPolicy") == "Failed" else 0
        missing = wanted - len(active) - waiting
        if missing <= 0:
            return ""
        bodies, wait_s = self._next(job, pods, missing)
        if wait_s > 0:
            self.worker.add_after(place, wait_s)
        for body in bodies:
            body["metadata"]["finalizers"] = [*(body["metadata"].get("finalizers") or ()), TRACKING]
        made = await parts.create_all(self._objects, POD, place[0], bodies, MANAGER)
        for body, outcome in zip(bodies, made, strict=False):
            if isinstance(outcome, ApiError):
                why = parts.unnamed(outcome, body)
                self._recorder.warning(JOB, job, "FailedCreate", f"Error creating: {why}")
                return why
            self._recorder.normal(JOB, job, "SuccessfulCreate", f"Created pod: {outcome['metadata']['name']}")
        return ""

    def _next(self, job: Json, pods: list[Json], missing: int) -> tuple[list[Json], float]:
        """Return the pods to be made now, and in how many seconds others may be."""
        now = self._objects.clock.wall()
        if not job_ends.by_index(job):
            wait_s = job_ends.backoff_s(pods, now)
            return ([], wait_s) if wait_s > 0 else (job_indexes.bodies(job, pods, missing), 0.0)
        last = job_ends.newest(job, pods)
        waits = job_ends.waits(job, last, now)
        notes = {number: job_ends.notes(job, pod) for number, pod in last.items()}
        return job_indexes.bodies(job, pods, missing, waits, notes), min(waits.values(), default=0.0)

    def _wanted(self, spec: Json, status: Json, active: list[Json]) -> int:
        succeeded, at_once = status.get("succeeded", 0), int(spec.get("parallelism", 1))
        if spec.get("completions") is None:
            return len(active) if succeeded else at_once
        left = int(spec["completions"]) - int(succeeded) - len(job_indexes.failed(status))
        return max(0, min(at_once, left))

    async def _say(self, job: Json) -> None:
        now = self._objects.clock.wall()
        active = [p for p in self._pods.get(("owner", job["metadata"]["uid"])) if parts.is_active(p)]
        suspended = bool(job["spec"].get("suspend"))

        def make(held: Json) -> Json:
            status = {k: v for k, v in (held.get("status") or {}).items() if k not in ("active", "ready")}
            conditions = status.get("conditions") or []
            if suspended:
                status.pop("startTime", None)
                conditions = with_condition(conditions, "Suspended", "True", "JobSuspended", "Job suspended", now)
            else:
                status.setdefault("startTime", rfc3339(now))
                if condition(status, "Suspended") is not None:
                    conditions = with_condition(conditions, "Suspended", "False", "JobResumed", "Job resumed", now)
            if active:
                status["active"] = len(active)
            status["ready"] = sum(1 for p in active if parts.is_ready(p))
            return {**held, "status": {**status, **({"conditions": conditions} if conditions else {})}}

        await parts.change(self._objects, JOB, job, make)

    def _remind(self, place: Place, job: Json) -> None:
        deadline = job["spec"].get("activeDeadlineSeconds")
        held = self._store.get(JOB, *place) or job
        started = parse_time((held.get("status") or {}).get("startTime"))
        if deadline is not None and started is not None:
            self.worker.add_after(place, deadline - (self._objects.clock.wall() - started).total_seconds())

    async def _clean_up(self, place: Place, job: Json, pods: list[Json]) -> None:
        """After the end: nothing is held back, and the job itself goes when its time is over."""
        tracked = [p for p in pods if job_ends.is_tracked(p)]
        if tracked:
            await self._store.db.tx(lambda tx: [self._let_go(tx, p) for p in tracked])
        lasting = job["spec"].get("ttlSecondsAfterFinished")
        if lasting is None or parts.is_deleting(job) or self._keeps:
            return
        at = parse_time(_job_ended_at(job))
        left = lasting - (self._objects.clock.wall() - at).total_seconds() if at is not None else 0.0
        if left > 0:
            self.worker.add_after(place, left)
        else:
            await parts.delete_all(self._objects, JOB, [job])


def _noted(written: Any) -> None:
    if not written.cancelled():
        written.exception()  # the database is closing: the next start finds the pods again


def _is_over(pod: Json) -> bool:
    """Whether nothing of the pod runs any more: it ended, it never had a node, or its node has let it go."""
    if (pod.get("status") or {}).get("phase") in parts.FINISHED:
        return True
    gone = not pod["spec"].get("nodeName") or not pod["metadata"].get("deletionGracePeriodSeconds")
    return parts.is_deleting(pod) and gone


def _ended(job: Json) -> bool:
    return any(is_true(job.get("status") or {}, kind) for kind in ("Complete", "Failed"))


def _job_ended_at(job: Json) -> str:
    found = [condition(job.get("status") or {}, kind) for kind in ("Complete", "Failed")]
    return next((str(c.get("lastTransitionTime")) for c in found if c is not None), "")
