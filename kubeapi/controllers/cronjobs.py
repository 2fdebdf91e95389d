"""CronJobs: a Job at each time of a schedule. Reads and writes CronJob and Job."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kubeapi.conditions import is_true
from kubeapi.controllers import parts
from kubeapi.controllers.index import Indexes, Place, controller_of
from kubeapi.controllers.recorder import Recorder
from kubeapi.controllers.worker import Worker
from kubeapi.durations import parse_time
from kubeapi.errors import ApiError
from kubeapi.kinds import CRON_JOB, JOB
from kubeapi.objects import Objects, WriteOptions
from kubeapi.schedules import MAX_MISSED, BadSchedule, missed, next_run
from kubeapi.stored import DELETED, Event
from proto.kit.clock import rfc3339

Json = dict[str, Any]
MANAGER = "cronjob-controller"
SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
WRONG_CLOCK = timedelta(days=1)  # a last run so far ahead is dated by a clock that was wrong
LATEST_CHECK_S = 600.0  # the clock may be set while we wait: look again at least so often


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of the work is ours: all of it, but at an edge node."""

    fires: Callable[[Json], bool] = lambda _: True  # whether we run this CronJob now
    counts: Callable[[Json], bool] = lambda _: True  # whether a Job's status, as we see it, is to be believed
    since: Callable[[], datetime | None] = lambda: None  # what was due earlier is somebody else's
    history: int = 0  # ended jobs of each outcome that are kept, whatever the CronJob says


class CronJobs:
    """Fires CronJobs; ``start`` after the indexes."""

    def __init__(self, objects: Objects, indexes: Indexes, share: Share | None = None) -> None:
        self._objects, self._store = objects, objects.store
        self._share = share or Share()
        self._jobs = indexes.jobs
        self._recorder = Recorder(objects, MANAGER)
        self.worker: Worker[Place] = Worker("cronjobs", self._make_right, objects.clock)

    def start(self) -> None:
        for item in self._store.items(CRON_JOB, None):
            self.worker.add((item.namespace, item.name))
        self._store.listen(CRON_JOB, self._changed)
        self._store.listen(JOB, self._job_changed)

    def _changed(self, event: Event) -> None:
        if event.type != DELETED and not parts.only_status(event):
            self.worker.add((event.stored.namespace, event.stored.name))

    def _job_changed(self, event: Event) -> None:
        owner = controller_of(event.object)
        if owner is not None and owner.get("kind") == "CronJob":
            self.worker.add((event.stored.namespace, str(owner.get("name"))))

    async def _make_right(self, place: Place) -> None:
        cron = self._store.get(CRON_JOB, *place)
        if cron is None or parts.is_deleting(cron) or not self._share.fires(cron):
            return
        await self._forget_old(cron)
        cron = await self._note_active(cron)
        if not cron["spec"].get("suspend"):
            cron = await self._mend_time(cron)
            try:
                await self._fire(cron)
                self._remind(place, cron)
            except BadSchedule as error:
                self._recorder.warning(CRON_JOB, cron, "UnparseableSchedule", f"unparseable schedule: {error}")

    def _all(self, cron: Json) -> list[Json]:
        return [j for j in self._jobs.get(("owner", cron["metadata"]["uid"])) if self._share.counts(j)]

    async def _note_active(self, cron: Json) -> Json:
        jobs = sorted(self._all(cron), key=lambda j: j["metadata"].get("creationTimestamp") or "")
        running = [j for j in jobs if _outcome(j) == "" and not parts.is_deleting(j)]
        ends = [(j.get("status") or {}).get("completionTime") for j in jobs if _outcome(j) == "Complete"]
        active = [_reference(job) for job in running]

        def make(held: Json) -> Json:
            status = {k: v for k, v in (held.get("status") or {}).items() if k != "active"}
            newest = max(filter(None, [*ends, status.get("lastSuccessfulTime")]), default=None)
            if active:
                status["active"] = active
            if newest:
                status["lastSuccessfulTime"] = newest
            return {**held, "status": status} if status or held.get("status") else held

        return await parts.change(self._objects, CRON_JOB, cron, make)

    async def _mend_time(self, cron: Json) -> Json:
        """After the clock has been far ahead, count from now on: else nothing would fire until that time comes."""
        now, last = self._objects.clock.wall(), parse_time(_last(cron))
        if last is None or last - now < WRONG_CLOCK:
            return cron
        text = f"the last run is dated {rfc3339(last)}, which is to come: runs are counted from now on"
        self._recorder.warning(CRON_JOB, cron, "ClockSetBack", text)
        return await parts.change(self._objects, CRON_JOB, cron, lambda c: _scheduled(c, now))

    async def _fire(self, cron: Json) -> None:
        """Start the newest run that is due, unless it is too late for it or another still runs."""
        spec, now = cron["spec"], self._objects.clock.wall()
        due, count = self._due(cron, now)
        if due is None:
            return
        if count > MAX_MISSED:
            text = f"too many missed start times: {count}. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            self._recorder.warning(CRON_JOB, cron, "TooManyMissedTimes", text)
        deadline = spec.get("startingDeadlineSeconds")
        if deadline is not None and (now - due).total_seconds() > deadline:
            self._recorder.warning(
                CRON_JOB, cron, "MissSchedule", f"Missed scheduled time to start a job: {rfc3339(due)}"
            )
            return
        running = (cron.get("status") or {}).get("active") or []
        if running and spec.get("concurrencyPolicy") == "Forbid":
            text = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self._recorder.normal(CRON_JOB, cron, "JobAlreadyActive", text)
            return
        if running and spec.get("concurrencyPolicy") == "Replace":
            uids = {ref["uid"] for ref in running}
            for job in await parts.delete_all(
                self._objects, JOB, [j for j in self._all(cron) if j["metadata"]["uid"] in uids]
            ):
                self._recorder.normal(CRON_JOB, cron, "SuccessfulDelete", f"Deleted job {job['metadata']['name']}")
        await self._start(cron, due)

    def _due(self, cron: Json, now: datetime) -> tuple[datetime | None, int]:
        since = max(parse_time(_last(cron)) or now, self._share.since() or datetime.min.replace(tzinfo=now.tzinfo))
        deadline = cron["spec"].get("startingDeadlineSeconds")
        if deadline is not None:
            earliest = datetime.fromtimestamp(now.timestamp() - deadline, now.tzinfo)
            since = max(since, earliest)
        return missed(cron["spec"]["schedule"], since, now, cron["spec"].get("timeZone"))

    async def _start(self, cron: Json, due: datetime) -> None:
        metadata, template = cron["metadata"], cron["spec"]["jobTemplate"]
        inner = template.get("metadata") or {}
        body = {
            "metadata": {
                "name": f"{metadata['name']}-{int(due.timestamp()) // 60}",
                "labels": dict(inner.get("labels") or {}),
                "annotations": {**(inner.get("annotations") or {}), SCHEDULED_AT: rfc3339(due)},
                "ownerReferences": [parts.owner_reference(CRON_JOB, cron)],
            },
            "spec": template["spec"],
        }
        try:
            job = await self._objects.create(JOB, metadata["namespace"], body, WriteOptions(field_manager=MANAGER))
            self._recorder.normal(CRON_JOB, cron, "SuccessfulCreate", f"Created job {job['metadata']['name']}")
        except ApiError as error:
            if error.reason != "AlreadyExists":  # it does when we stopped between the job and this status
                self._recorder.warning(CRON_JOB, cron, "FailedCreate", f"Error creating job: {error.message}")
                raise
        cron = await parts.change(self._objects, CRON_JOB, cron, lambda c: _scheduled(c, due))
        await self._note_active(cron)

    def _remind(self, place: Place, cron: Json) -> None:
        now = self._objects.clock.wall()
        upcoming = next_run(cron["spec"]["schedule"], now, cron["spec"].get("timeZone"))
        if upcoming is not None:
            self.worker.add_after(place, min((upcoming - now).total_seconds(), LATEST_CHECK_S))

    async def _forget_old(self, cron: Json) -> None:
        spec = cron["spec"]
        for outcome, key in (("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")):
            found = [j for j in self._all(cron) if _outcome(j) == outcome and not parts.is_deleting(j)]
            found.sort(
                key=lambda j: (j.get("status") or {}).get("startTime") or j["metadata"].get("creationTimestamp") or ""
            )
            limit = None if spec.get(key) is None else max(spec[key], self._share.history)
            if limit is not None and len(found) > limit:
                await parts.delete_all(self._objects, JOB, found[: len(found) - limit])


def _last(cron: Json) -> Any:
    return (cron.get("status") or {}).get("lastScheduleTime") or cron["metadata"].get("creationTimestamp")


def _scheduled(cron: Json, at: datetime) -> Json:
    return {**cron, "status": {**(cron.get("status") or {}), "lastScheduleTime": rfc3339(at)}}


def _outcome(job: Json) -> str:
    status = job.get("status") or {}
    return next((kind for kind in ("Complete", "Failed") if is_true(status, kind)), "")


def _reference(job: Json) -> Json:
    metadata = job["metadata"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
