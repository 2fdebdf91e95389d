"""What goes on at a node whose cloud is away, and how it is handed back: nothing twice, nothing lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edgecore.localapi.continuation import AWAY_S, CALM_S, OLD_S, Continuation
from kubeapi.kinds import CRON_JOB, JOB, POD
from proto import labels
from proto.kit.backoff import Rng
from proto.writes import APPLIED, WriteResult
from tests.kit.wait import eventually
from tests.unit.edgecore.localapi.conftest import NODE, LocalNode

Json = dict[str, Any]
HERE = {"kubernetes.io/hostname": NODE}


def cron(node: str = NODE, **spec: Any) -> Json:
    pods = {"nodeSelector": {**HERE, "kubernetes.io/hostname": node}, "restartPolicy": "Never"}
    template = {"spec": {"containers": [{"name": "main", "image": "saw:1"}], **pods}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {
            "name": "tick",
            "namespace": "default",
            "uid": "cron-1",
            "creationTimestamp": "2025-01-01T00:00:00Z",
        },
        "spec": {
            "schedule": "* * * * *",
            "concurrencyPolicy": "Allow",
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1,
            "jobTemplate": {"spec": {"template": template}},
            **spec,
        },
    }


class Away:
    """A node whose link is as the test says, with its continuation."""

    def __init__(self, node: LocalNode) -> None:
        self.node, self.online = node, True
        self.group: asyncio.TaskGroup
        self.room = Continuation(
            NODE, node.store, node.journal, node.outbox, online=lambda: self.online, clock=node.clock, rng=Rng(1)
        )
        node.journal.adopt = self.room.answers.adopt

    async def turn(self, seconds: float = 0.0) -> None:
        self.node.clock.advance(seconds)
        await self.room.turn(self.group)

    async def cut(self) -> None:
        self.online = False
        await self.turn()
        await self.turn(AWAY_S)

    async def mend(self) -> None:
        self.online = True
        await self.turn()

    def names(self, res: Any) -> list[str]:
        return [item.name for item in self.node.store.items(res, None)]

    async def jobs(self, count: int) -> None:
        await eventually(lambda: len(self.names(JOB)) == count)

    async def pod(self) -> Json:
        """The pod that runs here."""
        await eventually(lambda: self.names(POD))
        return self.node.store.list(POD, None)[0]

    async def end(self, pod: Json, phase: str = "Succeeded") -> None:
        found = self.node.store.get(POD, "default", pod["metadata"]["name"])
        assert found is not None
        await self.node.db.tx(lambda tx: self.node.store.put(tx, POD, {**found, "status": {"phase": phase}}))

    async def cloud_pod(self, uid: str = "pod-1", job: str = "") -> str:
        """The pod that the cloud's own controllers made for the same run."""
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job or self.names(JOB)[0], "uid": "cloud-job"}
        metadata = {"name": uid, "namespace": "default", "uid": uid, "ownerReferences": [{**owner, "controller": True}]}
        spec = {"nodeName": NODE, "containers": [{"name": "main", "image": "saw:1"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        await self.node.cloud_says(f"core/pods/default/{uid}", body)
        return uid

    def phase(self, name: str) -> str:
        found = self.node.get(POD, name) or {}
        return str((found.get("status") or {}).get("phase", ""))

    def told(self) -> list[str]:
        rows = self.node.db.read(lambda conn: conn.execute("SELECT key FROM link_state").fetchall())
        return [key for (key,) in rows]


@pytest.fixture
async def away(node: LocalNode) -> AsyncIterator[Away]:
    one = Away(node)
    async with asyncio.TaskGroup() as group:
        one.group = group
        yield one
        for task in group._tasks:
            task.cancel()


async def given(away: Away, *crons: Json) -> None:
    for each in crons or (cron(),):
        await away.node.cloud_says(f"batch/cronjobs/default/{each['metadata']['name']}", each)


async def test_a_cron_job_of_this_node_fires_while_the_cloud_is_away_and_not_before(away: Away) -> None:  # LOCAL-15
    await given(away)
    await away.turn(120)
    assert away.names(JOB) == []

    await away.cut()
    await away.turn(60)

    await away.jobs(1)
    pod = await away.pod()
    assert (pod["spec"]["nodeName"], pod["metadata"]["annotations"][labels.CLOUD_UID]) == (NODE, "")


async def test_runs_that_were_due_before_the_cut_are_the_clouds(away: Away) -> None:  # LOCAL-15
    await given(away)
    await away.turn(3600)
    await away.cut()
    await asyncio.sleep(0)
    assert away.names(JOB) == []


async def test_a_cron_job_that_could_run_elsewhere_does_not_fire_here(away: Away) -> None:  # LOCAL-15
    anywhere = cron()
    del anywhere["spec"]["jobTemplate"]["spec"]["template"]["spec"]["nodeSelector"]
    await given(away, anywhere, {**cron("gw-2"), "metadata": {**cron()["metadata"], "name": "tock"}})
    await away.cut()
    await away.turn(180)
    await asyncio.sleep(0.05)
    assert away.names(JOB) == []


async def test_the_clouds_pod_of_a_run_that_was_made_here_is_answered_and_not_run(away: Away) -> None:  # LOCAL-16
    await given(away)
    await away.cut()
    await away.turn(60)
    ran = await away.pod()
    await away.mend()

    theirs = await away.cloud_pod()
    await away.end(ran)

    await eventually(lambda: away.phase(theirs) == "Succeeded")
    found = away.node.get(POD, theirs)
    assert found is not None
    assert found["metadata"]["annotations"][labels.ANSWERED_BY] == ran["metadata"]["name"]
    assert f"core/pods/default/{theirs}" in away.told()


async def test_one_run_answers_one_pod_of_the_cloud(away: Away) -> None:  # LOCAL-16
    await given(away)
    await away.cut()
    await away.turn(60)
    await away.end(await away.pod())

    first, second = await away.cloud_pod("pod-1"), await away.cloud_pod("pod-2")

    await eventually(lambda: away.phase(first) == "Succeeded")
    assert labels.ANSWERED_BY not in str(away.node.get(POD, second))


async def test_a_run_that_was_taken_away_leaves_the_clouds_pod_to_run(away: Away) -> None:  # LOCAL-16
    await given(away)
    await away.cut()
    await away.turn(60)
    ran = await away.pod()
    theirs = await away.cloud_pod()
    await away.node.db.tx(lambda tx: away.node.store.remove(tx, POD, "default", ran["metadata"]["name"]))
    await eventually(lambda: labels.ANSWERED_BY not in str(away.node.get(POD, theirs)))


async def test_what_the_cloud_does_not_know_becomes_a_write_without_what_a_server_makes(
    away: Away,
) -> None:  # LOCAL-17
    await given(away)
    await away.cut()
    await away.turn(60)
    await away.jobs(1)
    await away.mend()
    assert away.node.sent() == []
    await away.turn(CALM_S)

    (write,) = away.node.sent()
    assert (write.verb, write.kind, write.user) == ("create", "Job", f"skerry:node-admin:{NODE}")
    assert labels.CONTINUED not in str(write.mine)
    assert "selector" not in write.mine["spec"]
    assert "controller-uid" not in str(write.mine["spec"]["template"])
    await away.turn(CALM_S)
    assert len(away.node.sent()) == 1


async def test_a_job_that_the_cloud_made_too_needs_no_write(away: Away) -> None:  # LOCAL-17
    await given(away)
    await away.cut()
    await away.turn(60)
    await away.jobs(1)
    mine = away.node.store.list(JOB, None)[0]
    metadata = {"name": mine["metadata"]["name"], "namespace": "default", "uid": "cloud-job"}
    await away.node.cloud_says(
        f"batch/jobs/default/{metadata['name']}",
        {k: v for k, v in mine.items() if k != "status"} | {"metadata": metadata},
    )
    await away.mend()
    await away.turn(CALM_S)
    assert away.node.sent() == []


async def test_a_run_whose_cron_job_is_gone_is_forgotten(away: Away) -> None:  # LOCAL-17
    await given(away)
    await away.cut()
    await away.turn(60)
    await away.pod()
    await away.mend()
    await away.node.cloud_says("batch/cronjobs/default/tick", None)
    await away.turn(CALM_S)
    await away.turn(OLD_S)
    await away.turn()
    assert (away.node.sent(), away.names(JOB), away.names(POD)) == ([], [], [])


async def test_after_the_clouds_answer_its_job_stands_here_and_ours_is_run_no_more(away: Away) -> None:  # LOCAL-17
    await given(away)
    await away.cut()
    await away.turn(60)
    await away.end(await away.pod(), "Failed")
    await away.mend()
    await away.turn(CALM_S)
    (write,) = away.node.sent()
    theirs = away.node.marked({**write.mine, "metadata": {**write.mine["metadata"], "uid": "cloud-job"}}, write)
    await away.node.cloud_answers(WriteResult(write.seq, write.key, APPLIED, object=theirs))

    before = away.names(POD)
    for pod in away.node.store.list(POD, None):
        await away.end(pod, "Failed")
    await away.turn(600)
    await away.turn()
    found = away.node.store.list(JOB, None)[0]
    assert (found["metadata"]["uid"], away.names(POD)) == ("cloud-job", before)


async def test_a_cron_job_made_at_the_node_fires_there_until_the_cloud_is_back(away: Away) -> None:  # LOCAL-15
    await away.cut()
    made = cron()
    made["metadata"] = {"name": "mine"}
    await away.node.create(CRON_JOB, made)
    await away.turn()
    await away.turn(60)
    await away.jobs(1)
    assert away.names(JOB)[0].startswith("mine-")


def job(name: str = "by-hand") -> Json:
    template = {"spec": {"containers": [{"name": "main", "image": "saw:1"}], "restartPolicy": "Never"}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}


async def test_a_job_made_at_the_node_runs_there_while_the_cloud_is_away(away: Away) -> None:  # LOCAL-15
    await away.cut()
    await away.node.create(JOB, job())
    await away.turn()
    ran = await away.pod()
    assert ran["metadata"]["annotations"][labels.CONTINUED] == "by-hand"
    assert len(away.node.sent()) == 1


async def test_a_job_made_at_the_node_is_the_clouds_while_it_is_there(away: Away) -> None:  # LOCAL-16
    await away.cut()
    await away.node.create(JOB, job("first"))
    await away.turn()
    await away.pod()
    await away.mend()
    await away.node.create(JOB, job())
    await away.turn(CALM_S)
    await asyncio.sleep(0.05)
    assert len(away.names(POD)) == 1


async def test_a_job_that_the_cloud_began_before_the_cut_is_not_begun_again(away: Away) -> None:  # LOCAL-16
    await away.node.create(JOB, job())
    theirs = await away.cloud_pod(job="by-hand")
    found = away.node.get(POD, theirs)
    assert found is not None
    named = {**found, "metadata": {**found["metadata"], "labels": {"batch.kubernetes.io/job-name": "by-hand"}}}
    await away.node.db.tx(lambda tx: away.node.store.put(tx, POD, named))
    await away.cut()
    await away.turn(60)
    await asyncio.sleep(0.05)
    assert away.names(POD) == [theirs]


async def test_a_run_of_an_earlier_process_goes_on_and_nothing_is_made_up_for(away: Away) -> None:  # LOCAL-15
    await given(away)
    await away.cut()
    await away.turn(60)
    ran = await away.pod()
    for task in away.group._tasks:
        task.cancel()

    later = Away(away.node)
    later.group = away.group
    away.node.clock.advance(3600)
    await later.cut()
    await away.end(ran)
    await eventually(lambda: "Complete" in str(away.node.store.list(JOB, None)[0].get("status")))
    assert len(away.names(JOB)) == 1
    await later.turn(60)
    await away.jobs(2)


async def test_an_ended_run_stays_until_the_cloud_has_it(away: Away) -> None:  # LOCAL-16
    one = cron()
    one["spec"]["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] = 1
    await given(away, {**one, "spec": {**one["spec"], "successfulJobsHistoryLimit": 0}})
    await away.cut()
    await away.turn(60)
    await away.end(await away.pod())
    await eventually(lambda: "Complete" in str(away.node.store.list(JOB, None)[0].get("status")))
    await away.turn(20)
    await away.turn(20)
    await asyncio.sleep(0.05)
    assert len(away.names(JOB)) == 1


async def test_a_cron_job_that_its_affinity_binds_to_this_node_fires_here(away: Away) -> None:  # LOCAL-15
    one = cron()
    pods = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    del pods["nodeSelector"]
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
    pods["affinity"] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    }
    await given(away, one)
    await away.cut()
    await away.turn(60)
    await away.jobs(1)
