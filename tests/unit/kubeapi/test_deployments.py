from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.conditions import condition
from kubeapi.controllers import rollouts
from tests.unit.kubeapi.api import POD, Api
from tests.unit.kubeapi.workload_kit import Cluster, workload

Json = dict[str, Any]
DEPLOYMENT, RS = kinds.DEPLOYMENT, kinds.REPLICA_SET


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path)
    cluster = Cluster(api)
    await cluster.start()
    await cluster.add_nodes("n1", "n2")
    yield cluster
    await api.close()


async def change(cluster: Cluster, patch: Json) -> None:
    await cluster.api.patch(DEPLOYMENT, "web", patch)
    await cluster.settle()


def image(name: str) -> Json:
    return {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": name}]}}}}


def sizes(cluster: Cluster) -> dict[str, int]:
    return {rs["spec"]["template"]["spec"]["containers"][0]["image"]: rs["spec"]["replicas"] for rs in cluster.all(RS)}


async def test_a_deployment_gets_its_pods_through_a_replica_set_of_its_template(cluster: Cluster) -> None:
    await cluster.make(DEPLOYMENT, workload("web", replicas=3))
    await cluster.roll()

    (rs,) = cluster.all(RS)
    hash_ = rs["metadata"]["labels"][rollouts.HASH]
    assert rs["metadata"]["name"] == f"web-{hash_}"
    assert len(cluster.pods(app="web", **{rollouts.HASH: hash_})) == 3
    status = cluster.get(DEPLOYMENT, "web")["status"]
    assert [status[k] for k in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")] == [3] * 4
    progress = condition(status, "Progressing") or {}
    assert (progress["status"], progress["reason"]) == ("True", "NewReplicaSetAvailable")
    assert cluster.get(DEPLOYMENT, "web")["metadata"]["annotations"][rollouts.REVISION] == "1"


async def test_a_rolling_update_stays_within_its_bounds_at_every_step(cluster: Cluster) -> None:  # WORK-4
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
    await cluster.make(DEPLOYMENT, workload("web", replicas=4, strategy=rolling))
    await cluster.roll()

    await change(cluster, image("app:2"))
    for _ in range(30):
        live = [p for p in cluster.pods(app="web") if "deletionTimestamp" not in p["metadata"]]
        ready = [p for p in live if condition(p.get("status") or {}, "Ready")]
        assert len(live) <= 5
        assert len(ready) >= 3
        waiting = [p for p in live if p["spec"].get("nodeName") and p not in ready]
        if waiting:
            await cluster.run_pods(waiting[0])
        await cluster.stop_deleted()
        await cluster.after(1)

    assert sizes(cluster) == {"app:1": 0, "app:2": 4}
    assert cluster.get(DEPLOYMENT, "web")["metadata"]["annotations"][rollouts.REVISION] == "2"


async def test_recreate_waits_until_the_last_old_pod_is_gone(cluster: Cluster) -> None:  # WORK-4
    await cluster.make(DEPLOYMENT, workload("web", replicas=2, strategy={"type": "Recreate"}))
    await cluster.roll()

    await change(cluster, image("app:2"))
    assert sizes(cluster) == {"app:1": 0}
    assert len(cluster.pods()) == 2

    await cluster.stop_deleted()
    assert sizes(cluster)["app:2"] == 2


async def test_going_back_to_an_old_template_takes_its_replica_set_again_with_a_new_revision(cluster: Cluster) -> None:
    await cluster.make(DEPLOYMENT, workload("web", replicas=1))
    await cluster.roll()
    await change(cluster, image("app:2"))
    await cluster.roll()

    await change(cluster, image("app:1"))
    await cluster.roll()

    assert sizes(cluster) == {"app:1": 1, "app:2": 0}
    first = next(rs for rs in cluster.all(RS) if rs["spec"]["replicas"] == 1)
    assert first["metadata"]["annotations"][rollouts.REVISION] == "3"
    assert first["metadata"]["annotations"][rollouts.HISTORY] == "1"


async def test_a_paused_deployment_scales_but_does_not_roll(cluster: Cluster) -> None:
    await cluster.make(DEPLOYMENT, workload("web", replicas=1))
    await cluster.roll()
    await change(cluster, {"spec": {"paused": True}})
    await change(cluster, image("app:2"))
    await change(cluster, {"spec": {"replicas": 3}})
    assert sizes(cluster) == {"app:1": 3}
    paused = condition(cluster.get(DEPLOYMENT, "web")["status"], "Progressing") or {}
    assert paused["reason"] == "DeploymentPaused"

    await change(cluster, {"spec": {"paused": False}})
    await cluster.roll()
    assert sizes(cluster) == {"app:1": 0, "app:2": 3}


async def test_a_rollout_that_gets_nowhere_is_called_timed_out(cluster: Cluster) -> None:
    await cluster.make(DEPLOYMENT, workload("web", replicas=1, progressDeadlineSeconds=60))
    await cluster.after(70)
    stuck = condition(cluster.get(DEPLOYMENT, "web")["status"], "Progressing") or {}
    assert (stuck["status"], stuck["reason"]) == ("False", "ProgressDeadlineExceeded")


async def test_history_beyond_its_limit_is_forgotten(cluster: Cluster) -> None:
    await cluster.make(DEPLOYMENT, workload("web", replicas=1, revisionHistoryLimit=1))
    for n in range(2, 5):
        await cluster.roll()
        await change(cluster, image(f"app:{n}"))
    await cluster.roll()
    assert sizes(cluster) == {"app:3": 0, "app:4": 1}


async def test_scaling_in_the_midst_of_a_rollout_is_spread_over_both_sets(cluster: Cluster) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}
    await cluster.make(DEPLOYMENT, workload("web", replicas=4, strategy=rolling))
    await cluster.roll()
    await change(cluster, image("app:2"))
    assert sizes(cluster) == {"app:1": 4, "app:2": 2}

    await change(cluster, {"spec": {"replicas": 8}})
    assert sum(sizes(cluster).values()) == 12
    assert min(sizes(cluster).values()) > 2


async def test_pods_that_nobody_controls_are_adopted_and_relabelled_ones_let_go(cluster: Cluster) -> None:
    await cluster.make(
        POD,
        {"metadata": {"name": "lone", "labels": {"app": "set"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    )
    await cluster.make(RS, workload("set", replicas=2))
    names = {p["metadata"]["name"] for p in cluster.pods(app="set")}
    assert "lone" in names
    assert len(names) == 2

    await cluster.api.patch(POD, "lone", {"metadata": {"labels": {"app": "other"}}})
    await cluster.settle()
    assert "ownerReferences" not in cluster.get(POD, "lone")["metadata"]
    assert len(cluster.pods(app="set")) == 2


async def test_the_pods_missed_least_go_first(cluster: Cluster) -> None:
    await cluster.make(RS, workload("set", replicas=3))
    first, second, third = cluster.pods()
    await cluster.run_pods(first, third)
    await cluster.api.patch(RS, "set", {"spec": {"replicas": 2}})
    await cluster.settle()
    going = [p for p in cluster.pods() if "deletionTimestamp" in p["metadata"]]
    assert [p["metadata"]["name"] for p in going] == [second["metadata"]["name"]]
    assert len(cluster.events("SuccessfulDelete")) == 1


async def test_what_cannot_be_created_is_said_and_tried_again(cluster: Cluster) -> None:
    await cluster.make(RS, workload("set", replicas=2, template={"serviceAccountName": "nobody"}))
    failed = condition(cluster.get(RS, "set")["status"], "ReplicaFailure") or {}
    assert 'serviceaccount "nobody" not found' in failed["message"]

    await cluster.make(kinds.SERVICE_ACCOUNT, {"metadata": {"name": "nobody"}})
    await cluster.after(60)
    assert len(cluster.pods()) == 2
    assert condition(cluster.get(RS, "set")["status"], "ReplicaFailure") is None


async def test_deleting_a_deployment_takes_everything_below_it(cluster: Cluster) -> None:
    await cluster.make(DEPLOYMENT, workload("web", replicas=2))
    await cluster.roll()
    await cluster.objects.delete(DEPLOYMENT, "default", "web")
    await cluster.roll()
    assert (cluster.all(RS), cluster.pods()) == ([], [])
