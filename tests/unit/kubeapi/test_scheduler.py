import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.conditions import condition
from kubeapi.scheduling.claims import SELECTED_NODE
from tests.unit.kubeapi.api import NODE, POD, Api
from tests.unit.kubeapi.workload_kit import Cluster, node_body, pod_body, requesting, workload

Json = dict[str, Any]
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
RUNS = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path)
    cluster = Cluster(api)
    await cluster.start()
    yield cluster
    await api.close()


async def placed(cluster: Cluster, body: Json) -> str:
    pod = await cluster.make(POD, body)
    return str(pod["spec"].get("nodeName", ""))


def why(cluster: Cluster, name: str) -> str:
    return str((condition(cluster.get(POD, name)["status"], "PodScheduled") or {}).get("message", ""))


async def test_a_pod_goes_where_there_is_most_room(cluster: Cluster) -> None:
    await cluster.add_nodes("small", cpu="1", memory="1Gi")
    await cluster.add_nodes("big", cpu="8", memory="16Gi")
    assert await placed(cluster, pod_body("a", containers=requesting(cpu="500m", memory="128Mi"))) == "big"
    scheduled = condition(cluster.get(POD, "a")["status"], "PodScheduled") or {}
    assert scheduled["status"] == "True"
    assert cluster.events("Scheduled") == ["Successfully assigned default/a to big"]


async def test_requests_never_exceed_what_a_node_can_give(cluster: Cluster) -> None:  # WORK-3
    await cluster.add_nodes("n1", cpu="2")
    for name in "abc":
        await cluster.make(POD, pod_body(name, containers=requesting(cpu="900m")))
    assert cluster.nodes_of(*cluster.pods()).count("n1") == 2
    assert why(cluster, "c").startswith("0/1 nodes are available: 1 Insufficient cpu.")


async def test_the_sentence_counts_every_reason(cluster: Cluster) -> None:  # WORK-3
    await cluster.add_nodes("n1", cpu="100m")
    await cluster.add_nodes("n2")
    await cluster.api.patch(
        NODE, "n2", {"spec": {"taints": [{"key": "line", "value": "paint", "effect": "NoSchedule"}]}}
    )
    await cluster.add_nodes("n3")
    await cluster.api.patch(NODE, "n3", {"spec": {"unschedulable": True}})
    await cluster.settle()
    await cluster.make(POD, pod_body("a", containers=requesting(cpu="1")))
    expected = (
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {line: paint}, "
        "1 node(s) were unschedulable."
    )
    assert why(cluster, "a").startswith(expected)
    assert cluster.events("FailedScheduling") == [why(cluster, "a")]


async def test_a_pod_that_found_no_node_goes_as_soon_as_one_opens(cluster: Cluster) -> None:
    assert await placed(cluster, pod_body("a")) == ""
    assert why(cluster, "a") == "no nodes available to schedule pods"
    await cluster.add_nodes("n1")
    await cluster.after(2)
    assert cluster.get(POD, "a")["spec"]["nodeName"] == "n1"


async def test_room_comes_back_with_a_pod_that_is_gone_or_has_ended(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", cpu="1")
    first = await cluster.make(POD, pod_body("a", containers=requesting(cpu="1")))
    await cluster.make(POD, pod_body("b", containers=requesting(cpu="1")))
    await cluster.end_pod(first, "Succeeded")
    await cluster.after(2)
    assert cluster.get(POD, "b")["spec"]["nodeName"] == "n1"


async def test_labels_affinity_and_tolerations_choose_nodes(cluster: Cluster) -> None:
    await cluster.add_nodes("plain")
    await cluster.add_nodes("gpu", labels={"gpu": "yes", "size": "3"})
    await cluster.api.patch(NODE, "gpu", {"spec": {"taints": [{"key": "gpu", "value": "a", "effect": "NoSchedule"}]}})
    await cluster.settle()
    term = {"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["2"]}]}
    affinity = {"nodeAffinity": {RUNS: {"nodeSelectorTerms": [term]}}}
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    assert await placed(cluster, pod_body("a", nodeSelector={"gpu": "yes"})) == ""
    assert await placed(cluster, pod_body("b", nodeSelector={"gpu": "yes"}, tolerations=tolerations)) == "gpu"
    assert await placed(cluster, pod_body("c", affinity=affinity, tolerations=tolerations)) == "gpu"
    named = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["plain"]}]}]}
    assert await placed(cluster, pod_body("d", affinity={"nodeAffinity": {RUNS: named}})) == "plain"


async def test_preferences_win_over_room(cluster: Cluster) -> None:
    await cluster.add_nodes("big", cpu="64", memory="64Gi")
    await cluster.add_nodes("near", labels={"near": "yes"})
    wish = {"weight": 10, "preference": {"matchExpressions": [{"key": "near", "operator": "Exists"}]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    assert await placed(cluster, pod_body("a", affinity=affinity)) == "near"


async def test_two_pods_never_share_a_host_port(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2")
    ports = [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 8080}]}]
    seen = [await placed(cluster, pod_body(name, containers=ports)) for name in "abc"]
    assert sorted(seen) == ["", "n1", "n2"]
    assert "didn't have free ports" in why(cluster, "c")


async def test_anti_affinity_keeps_pods_apart_and_holds_for_later_pods_too(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2")
    apart = {"podAntiAffinity": {RUNS: [{"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "db"}}}]}}
    first = await placed(cluster, pod_body("a", {"app": "db"}, affinity=apart))
    second = await placed(cluster, pod_body("b", {"app": "db"}, affinity=apart))
    assert {first, second} == {"n1", "n2"}
    assert await placed(cluster, pod_body("c", {"app": "db"})) == ""
    assert "didn't satisfy existing pods anti-affinity rules" in why(cluster, "c")


async def test_affinity_follows_a_pod_and_the_first_of_a_group_may_go_anywhere(cluster: Cluster) -> None:
    await cluster.add_nodes("a1", "a2", labels={ZONE: "a"})
    await cluster.add_nodes("b1", "b2", labels={ZONE: "b"})
    near = {"podAffinity": {RUNS: [{"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "web"}}}]}}
    names = [await placed(cluster, pod_body(f"w{i}", {"app": "web"}, affinity=near)) for i in range(4)]
    assert len({name[0] for name in names}) == 1
    elsewhere = {"podAffinity": {RUNS: [{"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "none"}}}]}}
    assert await placed(cluster, pod_body("x", affinity=elsewhere)) == ""
    assert "didn't match pod affinity rules" in why(cluster, "x")


async def test_spreading_keeps_the_skew(cluster: Cluster) -> None:
    await cluster.add_nodes("a1", "a2", labels={ZONE: "a"})
    await cluster.add_nodes("b1", labels={ZONE: "b"})
    rule = {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    body = workload("web", replicas=5, template={"topologySpreadConstraints": [rule]})
    await cluster.make(kinds.REPLICA_SET, body)
    zones = [node[0] for node in cluster.nodes_of(*cluster.pods(app="web"))]
    assert sorted((zones.count("a"), zones.count("b"))) == [2, 3]


async def test_a_pod_on_its_way_out_does_not_count_for_spreading(cluster: Cluster) -> None:
    await cluster.add_nodes("a", labels={ZONE: "a"})
    rule = {
        "maxSkew": 1,
        "minDomains": 2,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    for name in ("old", "new"):
        await cluster.make(POD, pod_body(name, {"app": "web"}, topologySpreadConstraints=[rule]))
    await cluster.run_pods()
    assert cluster.get(POD, "new")["spec"].get("nodeName") is None
    await cluster.objects.delete(POD, "default", "old")
    await cluster.after(11)
    assert "deletionTimestamp" in cluster.get(POD, "old")["metadata"]
    assert cluster.get(POD, "new")["spec"]["nodeName"] == "a"


async def test_replicas_of_one_set_are_spread_without_being_told(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2", "n3")
    await cluster.make(kinds.REPLICA_SET, workload("web", replicas=6))
    nodes = cluster.nodes_of(*cluster.pods(app="web"))
    assert sorted(nodes.count(n) for n in ("n1", "n2", "n3")) == [2, 2, 2]


async def test_a_pod_of_higher_priority_takes_the_place_of_a_lower_one(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", cpu="1")
    await cluster.make(kinds.PRIORITY_CLASS, {"metadata": {"name": "high"}, "value": 1000})
    await cluster.make(POD, pod_body("low", containers=requesting(cpu="800m")))
    await cluster.make(POD, pod_body("high", containers=requesting(cpu="800m"), priorityClassName="high"))
    assert cluster.get(POD, "high")["status"]["nominatedNodeName"] == "n1"
    low = cluster.get(POD, "low")
    assert "deletionTimestamp" in low["metadata"]
    assert (condition(low["status"], "DisruptionTarget") or {})["reason"] == "PreemptionByScheduler"

    await cluster.make(POD, pod_body("sneak", containers=requesting(cpu="800m")))
    await cluster.stop_deleted()
    await cluster.after(11)
    high = cluster.get(POD, "high")
    assert high["spec"]["nodeName"] == "n1"
    assert "nominatedNodeName" not in high["status"]
    assert cluster.get(POD, "sneak")["spec"].get("nodeName") is None


async def test_nobody_is_preempted_in_vain(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", cpu="1")
    await cluster.make(kinds.PRIORITY_CLASS, {"metadata": {"name": "high"}, "value": 1000})
    await cluster.make(POD, pod_body("low", containers=requesting(cpu="800m")))
    await cluster.make(POD, pod_body("huge", containers=requesting(cpu="8"), priorityClassName="high"))
    await cluster.make(POD, pod_body("far", nodeSelector={"no": "where"}, priorityClassName="high"))
    assert "deletionTimestamp" not in cluster.get(POD, "low")["metadata"]
    assert why(cluster, "huge").endswith(
        "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )
    assert why(cluster, "far").endswith(
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )


async def test_a_gated_pod_waits_until_its_gates_are_gone(cluster: Cluster) -> None:
    await cluster.add_nodes("n1")
    assert await placed(cluster, pod_body("a", schedulingGates=[{"name": "example.com/wait"}])) == ""
    assert (condition(cluster.get(POD, "a")["status"], "PodScheduled") or {})["reason"] == "SchedulingGated"
    await cluster.api.patch(POD, "a", {"spec": {"schedulingGates": []}})
    await cluster.settle()
    assert cluster.get(POD, "a")["spec"]["nodeName"] == "n1"


async def test_another_scheduler_s_pod_is_left_alone(cluster: Cluster) -> None:
    await cluster.add_nodes("n1")
    assert await placed(cluster, pod_body("a", schedulerName="mine")) == ""
    assert "conditions" not in cluster.get(POD, "a")["status"]


async def test_a_bound_claim_ties_the_pod_to_its_volume_s_node(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2")
    term = {"matchExpressions": [{"key": HOST, "operator": "In", "values": ["n2"]}]}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "local": {"path": "/data"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
    }
    await cluster.make(kinds.PERSISTENT_VOLUME, {"metadata": {"name": "pv"}, "spec": spec})
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "pv"}
    await cluster.make(kinds.PERSISTENT_VOLUME_CLAIM, {"metadata": {"name": "data"}, "spec": claim})
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    assert await placed(cluster, pod_body("a", volumes=volumes)) == "n2"

    loose = {**claim, "volumeName": "later"}
    await cluster.make(kinds.PERSISTENT_VOLUME_CLAIM, {"metadata": {"name": "loose"}, "spec": loose})
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "loose"}}]
    assert await placed(cluster, pod_body("b", volumes=volumes)) == ""
    assert "unbound immediate PersistentVolumeClaims" in why(cluster, "b")


async def test_a_claim_that_waits_for_its_pod_is_given_the_node_first(cluster: Cluster) -> None:
    await cluster.add_nodes("n1")
    waits = {"provisioner": "x/y", "volumeBindingMode": "WaitForFirstConsumer"}
    await cluster.make(kinds.STORAGE_CLASS, {"metadata": {"name": "late"}, **waits})
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "late",
    }
    await cluster.make(kinds.PERSISTENT_VOLUME_CLAIM, {"metadata": {"name": "data"}, "spec": claim})
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    assert await placed(cluster, pod_body("a", volumes=volumes)) == ""
    held = cluster.get(kinds.PERSISTENT_VOLUME_CLAIM, "data")
    assert held["metadata"]["annotations"][SELECTED_NODE] == "n1"
    assert (
        await placed(cluster, pod_body("b", volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "no"}}]))
        == ""
    )
    assert 'persistentvolumeclaim "no" not found' in why(cluster, "b")


async def test_binding_fifty_pods_costs_milliseconds_each(cluster: Cluster) -> None:
    ready = {"status": {**node_body("x")["status"], "conditions": [{"type": "Ready", "status": "True"}]}}
    for i in range(300):
        await cluster.api.create(NODE, node_body(f"n{i:03}"))
        await cluster.api.patch(NODE, f"n{i:03}", ready, subresource="status")
    await cluster.settle()
    for i in range(50):
        await cluster.api.create(POD, pod_body(f"p{i}", containers=requesting(cpu="10m")))
    began = time.perf_counter()
    await cluster.settle()
    spent_ms = (time.perf_counter() - began) * 1000
    assert all(cluster.nodes_of(*cluster.pods()))
    assert spent_ms / 50 < 20
