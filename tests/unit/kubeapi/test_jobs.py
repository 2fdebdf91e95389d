from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.conditions import condition, is_true
from kubeapi.controllers import job_ends, job_indexes, parts
from kubeapi.controllers.builtin import BuiltinControllers
from tests.unit.kubeapi.api import POD, Api
from tests.unit.kubeapi.workload_kit import CONTAINERS, Cluster

Json = dict[str, Any]
JOB, CRON = kinds.JOB, kinds.CRON_JOB


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path)
    cluster = Cluster(api)
    await cluster.start()
    await cluster.add_nodes("n1")
    yield cluster
    await api.close()


def job(name: str = "work", **spec: Any) -> Json:
    template = {"spec": {"containers": CONTAINERS, "restartPolicy": "Never"}}
    return {"metadata": {"name": name}, "spec": {"template": template, **spec}}


def cron(schedule: str = "*/10 * * * *", **spec: Any) -> Json:
    return {
        "metadata": {"name": "tick"},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": job()["spec"]}, **spec},
    }


def live(cluster: Cluster) -> list[Json]:
    return [
        p
        for p in cluster.pods()
        if (p["status"].get("phase") not in ("Succeeded", "Failed")) and "deletionTimestamp" not in p["metadata"]
    ]


async def end_one(cluster: Cluster, phase: str = "Succeeded") -> None:
    await cluster.end_pod(live(cluster)[0], phase)


def status(cluster: Cluster, name: str = "work") -> Json:
    found: Json = cluster.get(JOB, name)["status"]
    return found


async def test_a_job_runs_until_enough_pods_have_succeeded(cluster: Cluster) -> None:
    await cluster.make(JOB, job(completions=3, parallelism=2))
    assert (len(live(cluster)), status(cluster)["active"]) == (2, 2)
    for left in (2, 1, 0):
        await end_one(cluster)
        assert len(live(cluster)) == left
    assert is_true(status(cluster), "Complete")
    assert (status(cluster)["succeeded"], "active" in status(cluster)) == (3, False)
    assert all("finalizers" not in p["metadata"] for p in cluster.pods())


async def test_a_pod_deleted_after_it_ended_still_counts(cluster: Cluster) -> None:  # WORK-6
    await cluster.make(JOB, job(completions=2))
    await end_one(cluster)
    await cluster.objects.delete(POD, "default", cluster.pods()[0]["metadata"]["name"])
    await cluster.settle()
    await end_one(cluster)
    assert status(cluster)["succeeded"] == 2
    assert is_true(status(cluster), "Complete")


async def test_a_pod_deleted_while_it_runs_goes_counts_as_failed_and_is_replaced(cluster: Cluster) -> None:
    await cluster.make(JOB, job())
    await cluster.run_pods()
    (first,) = live(cluster)
    await cluster.objects.delete(POD, "default", first["metadata"]["name"])
    await cluster.settle()
    assert cluster.get(POD, first["metadata"]["name"])["metadata"]["finalizers"]
    await cluster.stop_deleted()
    assert first["metadata"]["name"] not in [p["metadata"]["name"] for p in cluster.pods()]
    assert status(cluster)["failed"] == 1
    assert len(live(cluster)) == 1


async def test_failures_back_off_and_end_the_job_at_its_limit(cluster: Cluster) -> None:
    await cluster.make(JOB, job(backoffLimit=1))
    await end_one(cluster, "Failed")
    assert live(cluster) == []
    await cluster.after(11)
    assert len(live(cluster)) == 1
    await end_one(cluster, "Failed")
    assert is_true(status(cluster), "Failed")
    assert status(cluster)["failed"] == 2
    assert cluster.events("BackoffLimitExceeded") == ["Job has reached the specified backoff limit"]


async def fail_with(cluster: Cluster, code: int) -> None:
    pod = live(cluster)[0]
    ended = {"name": "c", "state": {"terminated": {"exitCode": code}}}
    await parts.write_status(
        cluster.objects, POD, pod, {**pod["status"], "phase": "Failed", "containerStatuses": [ended]}
    )
    await cluster.settle()


async def test_a_failure_policy_ends_the_job_at_once_or_does_not_count(cluster: Cluster) -> None:
    rules = [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
    ]
    await cluster.make(JOB, job(backoffLimit=1, podFailurePolicy={"rules": rules}))
    for code in (7, 1):
        await fail_with(cluster, code)
        await cluster.after(600)
    assert status(cluster)["failed"] == 1
    await fail_with(cluster, 42)
    assert is_true(status(cluster), "Failed")
    (text,) = cluster.events("PodFailurePolicy")
    assert "failed with exit code 42 matching FailJob rule at index 0" in text


async def test_a_job_past_its_deadline_is_stopped(cluster: Cluster) -> None:
    await cluster.make(JOB, job(activeDeadlineSeconds=30))
    await cluster.after(31)
    assert is_true(status(cluster), "Failed")
    assert live(cluster) == []


async def test_a_suspended_job_has_no_pods_until_it_is_resumed(cluster: Cluster) -> None:
    await cluster.make(JOB, job(suspend=True))
    assert (live(cluster), is_true(status(cluster), "Suspended")) == ([], True)
    await cluster.api.patch(JOB, "work", {"spec": {"suspend": False}})
    await cluster.settle()
    assert len(live(cluster)) == 1
    assert "startTime" in status(cluster)
    await cluster.api.patch(JOB, "work", {"spec": {"suspend": True}})
    await cluster.roll()
    assert live(cluster) == []


async def test_an_indexed_job_gives_every_index_its_pod(cluster: Cluster) -> None:
    await cluster.make(JOB, job(completions=3, parallelism=3, completionMode="Indexed"))
    assert sorted(job_indexes.index_of(p) or 0 for p in cluster.pods()) == [0, 1, 2]
    (first, *_) = cluster.pods()
    env = first["spec"]["containers"][0]["env"][0]
    assert env["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.labels['{job_indexes.INDEX}']"
    failing = next(p for p in cluster.pods() if job_indexes.index_of(p) == 1)
    await cluster.end_pod(failing, "Failed")
    await end_one(cluster)
    await end_one(cluster)
    assert status(cluster)["completedIndexes"] == "0,2"
    await cluster.after(11)
    assert [job_indexes.index_of(p) for p in live(cluster)] == [1]
    await end_one(cluster)
    assert status(cluster)["completedIndexes"] == "0-2"


def indexed(**spec: Any) -> Json:
    return job(completionMode="Indexed", completions=3, parallelism=3, **spec)


def at(cluster: Cluster, number: int) -> list[Json]:
    return [p for p in live(cluster) if job_indexes.index_of(p) == number]


async def test_each_index_has_a_limit_and_a_back_off_of_its_own(cluster: Cluster) -> None:
    await cluster.make(JOB, indexed(backoffLimitPerIndex=1))
    await cluster.end_pod(at(cluster, 1)[0], "Failed")
    assert (at(cluster, 1), len(at(cluster, 0)), len(at(cluster, 2))) == ([], 1, 1)
    failed = next(p for p in cluster.pods() if p["status"].get("phase") == "Failed")
    await cluster.objects.delete(POD, "default", failed["metadata"]["name"])
    await cluster.after(11)
    assert at(cluster, 1)[0]["metadata"]["annotations"][job_ends.FAILED_BEFORE] == "1"
    assert (status(cluster)["failed"], "failedIndexes" in status(cluster)) == (1, False)

    await cluster.end_pod(at(cluster, 1)[0], "Failed")
    await cluster.after(3600)
    assert (at(cluster, 1), status(cluster)["failedIndexes"], status(cluster)["active"]) == ([], "1", 2)
    for number in (0, 2):
        await cluster.end_pod(at(cluster, number)[0], "Succeeded")
    held = status(cluster)
    assert (held["completedIndexes"], held["failedIndexes"], held["failed"]) == ("0,2", "1", 2)
    assert cluster.events("FailedIndexes") == ["Job has failed indexes"]
    assert all("finalizers" not in p["metadata"] for p in cluster.pods())


async def test_too_many_failed_indexes_end_the_job(cluster: Cluster) -> None:
    rules = [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]
    policy = {"backoffLimitPerIndex": 5, "maxFailedIndexes": 1, "podFailurePolicy": {"rules": rules}}
    await cluster.make(JOB, indexed(**policy))
    await fail_with(cluster, 42)
    await cluster.after(3600)
    assert (status(cluster)["failedIndexes"].count(","), len(live(cluster))) == (0, 2)
    await fail_with(cluster, 42)
    assert is_true(status(cluster), "Failed")
    assert cluster.events("MaxFailedIndexesExceeded")
    assert live(cluster) == []


async def test_a_suspended_job_forgets_no_failure_of_an_index_and_adds_none(cluster: Cluster) -> None:
    await cluster.make(JOB, indexed(backoffLimitPerIndex=3))
    await cluster.end_pod(at(cluster, 0)[0], "Failed")
    await cluster.after(11)
    for suspend in (True, False):
        await cluster.api.patch(JOB, "work", {"spec": {"suspend": suspend}})
        await cluster.settle()
    numbers = [at(cluster, n)[0]["metadata"]["annotations"].get(job_ends.FAILED_BEFORE) for n in range(3)]
    assert numbers == ["1", None, None]


@pytest.mark.parametrize(
    ("rule", "ends"),
    [
        ({"succeededIndexes": "0,2"}, (2, 0)),
        ({"succeededCount": 1}, (1,)),
        ({"succeededIndexes": "1-2", "succeededCount": 1}, (0, 2)),
    ],
)
async def test_a_success_policy_ends_the_job_before_every_index_has_succeeded(
    cluster: Cluster, rule: Json, ends: tuple[int, ...]
) -> None:
    await cluster.make(JOB, indexed(successPolicy={"rules": [rule]}))
    for number in ends:
        assert not is_true(status(cluster), "Complete")
        await cluster.end_pod(at(cluster, number)[0], "Succeeded")
    met = condition(status(cluster), "SuccessCriteriaMet") or {}
    assert (met["reason"], met["message"]) == ("SuccessPolicy", "Matched rules at index 0")
    assert is_true(status(cluster), "Complete")
    assert live(cluster) == []


@pytest.mark.parametrize("numbers", [set(), {1}, {0, 1}, {0, 1, 2, 5}, {3, 5, 6, 7, 9}])
def test_indexes_survive_being_written(numbers: set[int]) -> None:
    assert job_indexes.read(job_indexes.write(numbers)) == numbers


async def test_a_finished_job_goes_after_its_time_with_its_pods(cluster: Cluster) -> None:
    await cluster.make(JOB, job(ttlSecondsAfterFinished=60))
    await end_one(cluster)
    await cluster.after(59)
    assert len(cluster.all(JOB)) == 1
    await cluster.after(2)
    assert (cluster.all(JOB), cluster.pods()) == ([], [])


async def test_deleting_a_running_job_leaves_nothing_behind(cluster: Cluster) -> None:
    await cluster.make(JOB, job())
    await cluster.objects.delete(JOB, "default", "work")
    await cluster.roll()
    assert (cluster.all(JOB), cluster.pods()) == ([], [])


async def test_pods_of_a_job_that_went_unseen_are_let_go_at_the_next_start(cluster: Cluster) -> None:
    made = await cluster.make(JOB, job())
    (pod,) = cluster.pods()
    orphan = {
        "name": "left",
        "finalizers": pod["metadata"]["finalizers"],
        "ownerReferences": pod["metadata"]["ownerReferences"],
    }
    orphan["ownerReferences"] = [{**orphan["ownerReferences"][0], "uid": "gone", "name": "gone"}]
    await cluster.api.create(POD, {"metadata": orphan, "spec": pod["spec"]})
    cluster.api.controllers = BuiltinControllers(cluster.objects)
    await cluster.start()
    await cluster.roll()
    assert [p["metadata"]["name"] for p in cluster.pods()] == [pod["metadata"]["name"]]
    assert cluster.get(JOB, made["metadata"]["name"])["status"]["active"] == 1


async def test_a_cron_job_fires_on_time_and_keeps_a_short_history(cluster: Cluster) -> None:
    await cluster.make(CRON, cron(successfulJobsHistoryLimit=1))
    assert cluster.all(JOB) == []
    await cluster.after(601)
    (first,) = cluster.all(JOB)
    assert first["metadata"]["name"] == f"tick-{int(cluster.api.clock.wall().timestamp()) // 600 * 10}"
    held = cluster.get(CRON, "tick")["status"]
    assert (held["lastScheduleTime"], held["active"][0]["name"]) == ("2026-01-01T00:10:00Z", first["metadata"]["name"])
    await end_one(cluster)
    assert "active" not in cluster.get(CRON, "tick")["status"]
    await cluster.after(600)
    await end_one(cluster)
    assert [j["metadata"]["name"] for j in cluster.all(JOB)] != [first["metadata"]["name"]]
    assert len(cluster.all(JOB)) == 1


@pytest.mark.parametrize(("policy", "jobs"), [("Allow", 2), ("Forbid", 1), ("Replace", 1)])
async def test_what_happens_when_the_last_run_still_runs(cluster: Cluster, policy: str, jobs: int) -> None:
    await cluster.make(CRON, cron(concurrencyPolicy=policy))
    await cluster.after(601)
    (first,) = cluster.all(JOB)
    await cluster.after(600)
    left = [j["metadata"]["name"] for j in cluster.all(JOB)]
    assert len(left) == jobs
    assert (first["metadata"]["name"] in left) == (policy != "Replace")


async def test_a_run_missed_for_too_long_is_not_made_up_for(cluster: Cluster) -> None:
    await cluster.make(CRON, cron(suspend=True, startingDeadlineSeconds=60))
    await cluster.after(900)
    await cluster.api.patch(CRON, "tick", {"spec": {"suspend": False}})
    await cluster.settle()
    assert cluster.all(JOB) == []
    await cluster.after(301)
    assert len(cluster.all(JOB)) == 1


async def test_a_clock_that_is_set_back_fires_nothing_twice(cluster: Cluster) -> None:  # WORK-7
    await cluster.make(CRON, cron())
    await cluster.after(601)
    (first,) = cluster.all(JOB)
    await end_one(cluster)
    cluster.api.clock.jump_wall(timedelta(minutes=-5))
    await cluster.after(301)
    assert [j["metadata"]["name"] for j in cluster.all(JOB)] == [first["metadata"]["name"]]
    await cluster.after(600)
    assert len(cluster.all(JOB)) == 2


async def test_after_the_clock_was_years_ahead_runs_are_counted_from_now_on(cluster: Cluster) -> None:  # WORK-7
    await cluster.make(CRON, cron())
    cluster.api.clock.jump_wall(timedelta(days=3000))
    await cluster.after(601)
    (early,) = cluster.all(JOB)
    await end_one(cluster)
    cluster.api.clock.jump_wall(timedelta(days=-3000))
    await cluster.after(601)
    assert "runs are counted from now on" in cluster.events("ClockSetBack")[0]
    await cluster.after(600)
    assert len([j for j in cluster.all(JOB) if j["metadata"]["uid"] != early["metadata"]["uid"]]) == 1
    assert len(cluster.events("ClockSetBack")) == 1


async def test_after_a_long_absence_only_the_newest_run_is_made_up_for(cluster: Cluster) -> None:
    await cluster.make(CRON, cron("* * * * *", suspend=True))
    cluster.api.clock.advance(86_400 + 30)
    await cluster.api.patch(CRON, "tick", {"spec": {"suspend": False}})
    await cluster.settle()
    (only,) = cluster.all(JOB)
    assert only["metadata"]["name"] == f"tick-{int(cluster.api.clock.wall().timestamp()) // 60}"
    assert "too many missed start times" in cluster.events("TooManyMissedTimes")[0]


async def test_a_second_controller_fires_no_second_job(cluster: Cluster) -> None:  # WORK-8
    await cluster.make(CRON, cron())
    other = BuiltinControllers(cluster.objects)
    await other.start()
    cluster.api.clock.advance(601)
    await cluster.settle()
    await other.settle()
    await cluster.settle()
    assert len(cluster.all(JOB)) == 1
    assert len(live(cluster)) == 1
