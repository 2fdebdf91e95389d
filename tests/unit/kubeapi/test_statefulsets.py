from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.bootstrap import storage_class
from kubeapi.local_volumes import LOCAL_PATH
from tests.unit.kubeapi.api import POD, Api
from tests.unit.kubeapi.workload_kit import Cluster, pod_body, workload

Json = dict[str, Any]
STS, PVC, PV = kinds.STATEFUL_SET, kinds.PERSISTENT_VOLUME_CLAIM, kinds.PERSISTENT_VOLUME


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path)
    cluster = Cluster(api)
    await cluster.start()
    await cluster.make(kinds.STORAGE_CLASS, storage_class())
    await cluster.add_nodes("n1", "n2")
    yield cluster
    await api.close()


def claim_spec(size: str = "1Gi") -> Json:
    return {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}


def stateful(**spec: Any) -> Json:
    claims = [{"metadata": {"name": "data"}, "spec": claim_spec()}]
    mounts = [{"name": "c", "image": "app:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]
    return workload("db", serviceName="db", volumeClaimTemplates=claims, template={"containers": mounts}, **spec)


def names(cluster: Cluster) -> list[str]:
    return [p["metadata"]["name"] for p in cluster.pods()]


async def test_pods_come_in_order_each_when_the_one_before_works(cluster: Cluster) -> None:
    await cluster.make(STS, workload("db", replicas=3, serviceName="db"))
    assert names(cluster) == ["db-0"]
    await cluster.run_pods()
    assert names(cluster) == ["db-0", "db-1"]
    await cluster.roll()
    assert names(cluster) == ["db-0", "db-1", "db-2"]
    pod = cluster.get(POD, "db-2")
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-2", "db")
    assert pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "2"
    status = cluster.get(STS, "db")["status"]
    assert [status[k] for k in ("replicas", "readyReplicas", "currentReplicas", "updatedReplicas")] == [3] * 4
    assert status["currentRevision"] == status["updateRevision"]


async def test_parallel_pods_come_together_and_go_together(cluster: Cluster) -> None:
    await cluster.make(STS, workload("db", replicas=3, podManagementPolicy="Parallel"))
    assert names(cluster) == ["db-0", "db-1", "db-2"]
    await cluster.api.patch(STS, "db", {"spec": {"replicas": 1}})
    await cluster.roll()
    assert names(cluster) == ["db-0"]


async def test_shrinking_takes_the_highest_first_one_at_a_time(cluster: Cluster) -> None:
    await cluster.make(STS, workload("db", replicas=3))
    await cluster.roll()
    await cluster.api.patch(STS, "db", {"spec": {"replicas": 1}})
    await cluster.settle()
    going = [p["metadata"]["name"] for p in cluster.pods() if "deletionTimestamp" in p["metadata"]]
    assert going == ["db-2"]
    await cluster.roll()
    assert names(cluster) == ["db-0"]


async def test_an_update_replaces_from_the_highest_down_to_the_partition(cluster: Cluster) -> None:
    await cluster.make(STS, workload("db", replicas=3, updateStrategy={"rollingUpdate": {"partition": 1}}))
    await cluster.roll()
    await cluster.api.patch(
        STS, "db", {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "app:2"}]}}}}
    )
    await cluster.settle()
    assert [p["metadata"]["name"] for p in cluster.pods() if "deletionTimestamp" in p["metadata"]] == ["db-2"]
    await cluster.roll()
    assert [p["spec"]["containers"][0]["image"] for p in cluster.pods()] == ["app:1", "app:2", "app:2"]

    await cluster.objects.delete(POD, "default", "db-0")
    await cluster.roll()
    assert cluster.get(POD, "db-0")["spec"]["containers"][0]["image"] == "app:1"

    await cluster.api.patch(STS, "db", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})
    await cluster.roll()
    assert {p["spec"]["containers"][0]["image"] for p in cluster.pods()} == {"app:2"}


async def test_each_pod_has_its_own_volume_on_its_own_node_and_finds_it_again(cluster: Cluster) -> None:
    await cluster.make(STS, stateful(replicas=2))
    for _ in range(6):
        await cluster.run_pods()
        await cluster.after(2)
    before = dict(zip(names(cluster), cluster.nodes_of(*cluster.pods()), strict=True))
    assert all(before.values())
    claims = {c["metadata"]["name"]: c for c in cluster.all(PVC)}
    assert sorted(claims) == ["data-db-0", "data-db-1"]
    claim = claims["data-db-0"]
    volume = cluster.get(PV, claim["spec"]["volumeName"])
    assert (claim["status"]["phase"], volume["status"]["phase"]) == ("Bound", "Bound")
    assert volume["metadata"]["annotations"][LOCAL_PATH] == volume["metadata"]["name"]
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == [before["db-0"]]

    await cluster.objects.delete(POD, "default", "db-0")
    await cluster.roll()
    assert cluster.get(POD, "db-0")["spec"]["nodeName"] == before["db-0"]


async def test_a_claim_in_use_stays_until_its_pod_is_gone_and_takes_its_volume_with_it(
    cluster: Cluster,
) -> None:  # WORK-9
    await cluster.make(PVC, {"metadata": {"name": "data"}, "spec": claim_spec()})
    assert cluster.get(PVC, "data")["spec"]["storageClassName"] == "local-path"
    assert cluster.get(PVC, "data")["status"]["phase"] == "Pending"
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    await cluster.make(POD, pod_body("a", volumes=volumes))
    await cluster.after(1)
    await cluster.run_pods()
    assert cluster.get(PVC, "data")["status"]["phase"] == "Bound"

    await cluster.objects.delete(PVC, "default", "data")
    await cluster.settle()
    assert len(cluster.all(PVC)) == len(cluster.all(PV)) == 1
    await cluster.objects.delete(POD, "default", "a")
    await cluster.roll()
    assert (cluster.all(PVC), cluster.all(PV)) == ([], [])


async def test_a_claim_takes_the_smallest_volume_that_fits_and_a_kept_one_is_released(cluster: Cluster) -> None:
    for name, size in (("small", "1Gi"), ("fits", "5Gi"), ("large", "50Gi")):
        spec = {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/d"},
            "storageClassName": "manual",
        }
        await cluster.make(PV, {"metadata": {"name": name}, "spec": spec})
    await cluster.make(PVC, {"metadata": {"name": "data"}, "spec": {**claim_spec("3Gi"), "storageClassName": "manual"}})
    claim = cluster.get(PVC, "data")
    assert (claim["spec"]["volumeName"], claim["status"]["capacity"]) == ("fits", {"storage": "5Gi"})
    assert {v["metadata"]["name"]: v["status"]["phase"] for v in cluster.all(PV)} == {
        "small": "Available", "fits": "Bound", "large": "Available",
    }  # fmt: skip
    await cluster.objects.delete(PVC, "default", "data")
    await cluster.settle()
    assert cluster.get(PV, "fits")["status"]["phase"] == "Released"


async def test_claims_stay_or_go_with_their_set_as_its_policy_says_at_the_end(cluster: Cluster) -> None:
    await cluster.make(STS, stateful(replicas=2))
    await cluster.roll()
    assert all("ownerReferences" not in claim["metadata"] for claim in cluster.all(PVC))
    for policy, owned in (("Delete", True), ("Retain", False), ("Delete", True)):
        change = {"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy}}}
        await cluster.api.patch(STS, "db", change)
        await cluster.settle()
        assert [bool(c["metadata"].get("ownerReferences")) for c in cluster.all(PVC)] == [owned] * 2
    await cluster.objects.delete(STS, "default", "db")
    await cluster.settle()
    await cluster.stop_deleted()
    assert cluster.all(PVC) == []


async def test_claims_of_pods_that_are_scaled_away_go_where_the_policy_says_so(cluster: Cluster) -> None:
    policy = {"whenScaled": "Delete", "whenDeleted": "Retain"}
    await cluster.make(STS, stateful(replicas=2, persistentVolumeClaimRetentionPolicy=policy))
    await cluster.roll()
    await cluster.api.patch(STS, "db", {"spec": {"replicas": 1}})
    await cluster.settle()
    await cluster.roll()
    assert [claim["metadata"]["name"] for claim in cluster.all(PVC)] == ["data-db-0"]


async def test_on_delete_leaves_old_pods_until_somebody_deletes_them(cluster: Cluster) -> None:
    await cluster.make(STS, workload("db", replicas=2, updateStrategy={"type": "OnDelete"}))
    await cluster.roll()
    before = {p["metadata"]["uid"] for p in cluster.pods()}
    image = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "app:2"}]}}}}
    await cluster.api.patch(STS, "db", image)
    await cluster.settle()
    assert {p["metadata"]["uid"] for p in cluster.pods()} == before

    await cluster.objects.delete(POD, "default", "db-1")
    await cluster.settle()
    await cluster.roll()
    assert [p["spec"]["containers"][0]["image"] for p in cluster.pods()] == ["app:1", "app:2"]
