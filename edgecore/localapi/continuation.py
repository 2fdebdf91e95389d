"""While the cloud is away, CronJobs that are bound to this node fire here, and Jobs that begin here run here.

Such a Job is this node's until the cloud knows it. A while after the link is back it becomes an offline write like any other;
the cloud may have made the same one (its name is its time), and its pods are answered with what ran here (``answers``).
Nothing here is loaded before it is needed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from edgecore.localapi.admission import annotated, belongs_to
from edgecore.localapi.answers import Answers
from edgecore.localapi.journal import Journal
from kubeapi.access import AUTHENTICATED, User
from kubeapi.admission import Attempt
from kubeapi.errors import ApiError, already_exists
from kubeapi.kinds import CRON_JOB, JOB, POD
from kubeapi.objects import Objects
from kubeapi.options import WriteOptions
from kubeapi.recording import Change
from kubeapi.store import Store
from proto import labels, templates, writes
from proto.kit.backoff import Rng
from proto.kit.clock import Clock
from proto.kit.database import Tx
from proto.kit.errors import Retryable
from proto.kit.log import Logger
from proto.link.outbox import Outbox

Json = dict[str, Any]
TURN_S = 1.0
FAILED_S = 60.0
AWAY_S = 5.0  # a start or a reconnect takes less; what is due meanwhile fires afterwards
CALM_S = 10.0  # after the link is back: the cloud's own Jobs arrive first
OLD_S = 60.0  # between two looks for runs that are handed over
HISTORY = 50  # ended Jobs kept per CronJob and outcome: the cloud's pods of that many runs are answered
JOB_NAME = "batch.kubernetes.io/job-name"
log = Logger("continuation")


class Continuation:
    """``answers.adopt`` belongs into the link's transaction; ``run`` until cancelled."""

    def __init__(
        self,
        node: str,
        store: Store,
        journal: Journal,
        outbox: Outbox,
        *,
        online: Callable[[], bool],
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._node, self._store, self._journal, self._online = node, store, journal, online
        self._clock, self._rng = clock, rng
        self.answers = Answers(store, outbox, clock)
        self._away_at: datetime | None = None
        self._away_s = self._back_s = self._swept_s = float("-inf")
        self._hands_over = True  # also what an earlier process left
        self._wake: Callable[[], None] | None = None
        self._woken_at: datetime | None = None
        self._pods_of: Callable[[Json], list[Json]] = lambda _job: []
        self._named_for: Callable[[Json], list[Json]] = lambda _job: []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self.answers.tell_all()
            while True:
                try:
                    await self.turn(group)
                except Exception:  # devices and running pods outlive a mistake of ours
                    log.exception("jobs cannot go on at this node")
                    await self._clock.sleep(FAILED_S)
                await self._clock.sleep(TURN_S)

    async def turn(self, group: asyncio.TaskGroup) -> None:
        """Look once: who is responsible now?"""
        now_s = self._clock.now_s()
        if self._online():
            if self._away_at is not None:
                self._away_at, self._back_s, self._hands_over = None, now_s, True
            if self._hands_over and now_s - self._back_s >= CALM_S:
                self._hands_over = not await self._hand_over()
        elif self._away_at is None:
            self._away_at, self._away_s = self._clock.wall(), now_s
        elif self._is_ours() and (self._store.count(CRON_JOB) or self._store.count(JOB)):
            self._begin(group)
        if now_s - self._swept_s >= OLD_S:
            self._swept_s = now_s
            await self._quietly(self.answers.forget_old)

    def _is_ours(self) -> bool:
        """Whether the cloud is away for long enough."""
        away = self._away_at is not None and not self._online()
        return away and self._clock.now_s() - self._away_s >= AWAY_S

    # the controllers

    def _begin(self, group: asyncio.TaskGroup) -> None:
        """Load and start the controllers, once; each time the cloud has gone, let them look at everything."""
        if self._wake is None:
            self._wake = self._load(group)
        elif self._woken_at != self._away_at:
            self._wake()
        self._woken_at = self._away_at

    def _load(self, group: asyncio.TaskGroup) -> Callable[[], None]:
        from kubeapi.controllers.cronjobs import CronJobs, Share  # noqa: PLC0415  most nodes never need them
        from kubeapi.controllers.index import Indexes  # noqa: PLC0415
        from kubeapi.controllers.jobs import Jobs  # noqa: PLC0415

        hooks = [belongs_to(self._node, self._store, self._rng), self._mark]
        objects = Objects(
            self._store,
            self._store.registry,
            self._clock,
            admission=hooks,
            rng=self._rng,
            need_namespaces=False,
        )
        indexes = Indexes(self._store)
        indexes.start()
        self._pods_of = lambda job: indexes.pods.get(("owner", job["metadata"]["uid"]))
        self._named_for = lambda job: indexes.pods.get(
            ("label", job["metadata"]["namespace"], JOB_NAME, job["metadata"]["name"])
        )
        share = Share(self._fires, self._counts, lambda: self._away_at, HISTORY)
        jobs, crons = Jobs(objects, indexes, self._runs, keeps=True), CronJobs(objects, indexes, share)
        for controller in (jobs, crons):
            controller.start()
            group.create_task(controller.worker.run())
        log.info("jobs go on at this node", cron_jobs=self._store.count(CRON_JOB))

        def wake() -> None:
            for res, worker in ((JOB, jobs.worker), (CRON_JOB, crons.worker)):
                for item in self._store.items(res, None):
                    worker.add((item.namespace, item.name))

        return wake

    def _fires(self, cron: Json) -> bool:
        found = templates.pod_spec(cron)
        return self._is_ours() and found is not None and templates.pinned_node(found[1]) == self._node

    def _counts(self, job: Json) -> bool:
        """A Job of the cloud comes without its status: it is active while a pod of it is."""
        ended = ("Succeeded", "Failed")
        return _is_continued(job) or any((p.get("status") or {}).get("phase") not in ended for p in self._pods_of(job))

    def _runs(self, obj: Json) -> bool:
        """Whether a Job that began here is run here: not while the cloud is about to be told of it, or has begun it itself."""
        if not _is_continued(obj) or obj["kind"] != JOB.kind:
            return _is_continued(obj)
        if self._pods_of(obj):
            return True
        return self._is_ours() and all(map(_is_continued, self._named_for(obj)))

    def _mark(self, attempt: Attempt) -> Json | None:
        """Mark pods that begin here; refuse a run of which the cloud's pod is here before its Job."""
        if attempt.obj is None or attempt.old is not None:
            return None
        if attempt.res == JOB:
            for item in self._store.items(POD, attempt.namespace):
                if (item.object["metadata"].get("labels") or {}).get(JOB_NAME) == attempt.name:
                    raise already_exists(JOB, attempt.name)
        if attempt.res != POD:
            return None
        job = str((attempt.obj["metadata"].get("labels") or {}).get(JOB_NAME, ""))
        return annotated(attempt.obj, {labels.CONTINUED: job, labels.CLOUD_UID: ""})

    # back to the cloud

    async def _hand_over(self) -> bool:
        """Make each Job that the cloud does not know an offline write; whether all are."""
        left = [item for item in self._store.items(JOB, None) if labels.CONTINUED.encode() in item.body]
        done = True
        for item in left:
            if _is_continued(item.object) and labels.PENDING not in item.object["metadata"]["annotations"]:
                done &= await self._quietly(partial(self._write, namespace=item.namespace, name=item.name))
        return done

    def _write(self, tx: Tx, namespace: str, name: str) -> None:
        found = self._store.peek(JOB, namespace, name)
        if found is None or not _is_continued(found.object):
            return
        job = found.object
        if self._is_orphaned(job):  # its CronJob was deleted in the cloud, and so are its Jobs
            self._store.remove(tx, JOB, namespace, name)
            return
        technician = User(writes.admin_of(self._node), (writes.ADMIN_GROUP, AUTHENTICATED))
        change = Change(JOB, None, job, WriteOptions(user=technician))
        kept = self._journal.record(tx, replace(change, after={k: v for k, v in job.items() if k != "status"}))
        if kept is not None:
            self._store.put(tx, JOB, {**kept, **({"status": job["status"]} if "status" in job else {})})

    def _is_orphaned(self, job: Json) -> bool:
        metadata = job["metadata"]
        owner = next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), None)
        if owner is None or owner.get("kind") != CRON_JOB.kind:
            return False
        cron = self._store.peek(CRON_JOB, metadata["namespace"], str(owner.get("name")))
        return cron is None or cron.object["metadata"].get("uid") != owner.get("uid")

    async def _quietly(self, write: Callable[[Tx], None]) -> bool:
        try:
            await self._store.db.tx(write)
        except (ApiError, Retryable) as error:  # a full disk, or too many writes that wait: the next turn tries again
            log.warning("runs cannot be handed over now", reason=error)
            return False
        return True


def _is_continued(obj: Json) -> bool:
    return labels.CONTINUED in (obj["metadata"].get("annotations") or {})
