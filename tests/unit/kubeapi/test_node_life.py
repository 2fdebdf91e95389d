"""Who loses pods when: the product's promise to edges, and the habits of ordinary nodes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.conditions import condition
from kubeapi.controllers.builtin import BuiltinControllers
from proto.labels import AUTONOMY_DURATION, EDGE_ROLE
from tests.unit.kubeapi.api import LEASE, NODE, POD, Api
from tests.unit.kubeapi.workload_kit import Cluster, pod_body, workload

Json = dict[str, Any]
HOUR, DAY = 3600.0, 86400.0
POOL = "apps.openyurt.io/nodepool"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path, namespaces=("default", "kube-node-lease"))
    cluster = Cluster(api)
    await cluster.start()
    yield cluster
    await api.close()


async def pod_on(cluster: Cluster, node: str, **spec: Any) -> str:
    await cluster.make(POD, pod_body(f"p-{node}", nodeName=node, **spec))
    await cluster.run_pods()
    return f"p-{node}"


def leaves(cluster: Cluster, name: str) -> bool:
    return "deletionTimestamp" in cluster.get(POD, name)["metadata"]


def taints(cluster: Cluster, node: str) -> set[tuple[str, str]]:
    return {
        (t["key"].removeprefix("node.kubernetes.io/"), t["effect"])
        for t in cluster.get(NODE, node)["spec"].get("taints") or ()
    }


async def test_conditions_become_taints_and_go_with_them(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2")
    await cluster.say_node("n1", "False")
    assert taints(cluster, "n1") == {("not-ready", "NoSchedule"), ("not-ready", "NoExecute")}
    await cluster.say_node("n1", "Unknown")
    assert taints(cluster, "n1") == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    await cluster.api.patch(NODE, "n1", {"spec": {"unschedulable": True}})
    await cluster.say_node("n1", "True")
    assert taints(cluster, "n1") == {("unschedulable", "NoSchedule")}


async def test_pods_of_a_lost_ordinary_node_leave_after_their_toleration(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2")
    name = await pod_on(cluster, "n1")
    await cluster.say_node("n1", "Unknown")
    await cluster.after(299)
    assert not leaves(cluster, name)
    await cluster.after(2)
    assert leaves(cluster, name)
    reason = (condition(cluster.get(POD, name)["status"], "DisruptionTarget") or {})["reason"]
    assert reason == "DeletionByTaintManager"


async def test_a_node_that_comes_back_in_time_keeps_its_pods(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2")
    name = await pod_on(cluster, "n1")
    await cluster.say_node("n1", "Unknown")
    await cluster.after(200)
    await cluster.say_node("n1", "True")
    await cluster.after(HOUR)
    assert not leaves(cluster, name)


async def test_when_every_ordinary_node_is_lost_at_once_nothing_is_evicted(cluster: Cluster) -> None:  # WORK-2
    await cluster.add_nodes("n1", "n2")
    name = await pod_on(cluster, "n1")
    await cluster.say_node("n1", "Unknown")
    await cluster.say_node("n2", "Unknown")
    await cluster.after(HOUR)
    assert not leaves(cluster, name)
    await cluster.say_node("n2", "True")
    await cluster.after(301)
    assert leaves(cluster, name)


async def test_an_edge_that_the_cloud_cannot_see_never_loses_its_pods(cluster: Cluster) -> None:  # WORK-1
    await cluster.add_nodes("e1", "e2", labels={EDGE_ROLE: ""})
    name = await pod_on(cluster, "e1")
    await cluster.say_node("e1", "Unknown")
    await cluster.after(400 * DAY)
    assert not leaves(cluster, name)
    assert taints(cluster, "e1") == {("unreachable", "NoSchedule")}


@pytest.mark.parametrize("text", ["0", "0s", "soon", "", "2h later"])
async def test_a_duration_of_nothing_means_for_ever(cluster: Cluster, text: str) -> None:  # WORK-1
    await cluster.add_nodes("e1", "e2", labels={EDGE_ROLE: ""}, annotations={AUTONOMY_DURATION: text})
    name = await pod_on(cluster, "e1")
    await cluster.say_node("e1", "Unknown")
    await cluster.after(400 * DAY)
    assert not leaves(cluster, name)


async def test_after_its_autonomy_duration_an_edge_is_an_ordinary_lost_node(cluster: Cluster) -> None:  # WORK-1
    await cluster.add_nodes("e1", "e2", labels={EDGE_ROLE: ""}, annotations={AUTONOMY_DURATION: "1h30m"})
    name = await pod_on(cluster, "e1")
    await cluster.say_node("e1", "Unknown")
    await cluster.after(1.4 * HOUR)
    assert taints(cluster, "e1") == {("unreachable", "NoSchedule")}
    await cluster.after(0.2 * HOUR)
    assert ("unreachable", "NoExecute") in taints(cluster, "e1")
    assert not leaves(cluster, name)
    await cluster.after(301)
    assert leaves(cluster, name)


async def test_a_whole_site_lost_at_once_freezes_eviction_there_and_only_there(cluster: Cluster) -> None:  # WORK-2
    notes = {AUTONOMY_DURATION: "1h"}
    await cluster.add_nodes("a1", "a2", labels={EDGE_ROLE: "", POOL: "a"}, annotations=notes)
    await cluster.add_nodes("b1", "b2", labels={EDGE_ROLE: "", POOL: "b"}, annotations=notes)
    in_a, in_b = await pod_on(cluster, "a1"), await pod_on(cluster, "b1")
    for node in ("a1", "a2", "b1"):
        await cluster.say_node(node, "Unknown")
    await cluster.after(2 * HOUR)
    await cluster.after(301)
    assert (leaves(cluster, in_a), leaves(cluster, in_b)) == (False, True)

    await cluster.say_node("a2", "True")
    await cluster.after(1)
    await cluster.after(301)
    assert leaves(cluster, in_a)


async def test_an_edge_that_says_itself_that_it_is_not_ready_is_believed(cluster: Cluster) -> None:
    await cluster.add_nodes("e1", "e2", labels={EDGE_ROLE: ""})
    name = await pod_on(cluster, "e1")
    await cluster.say_node("e1", "False")
    await cluster.after(301)
    assert leaves(cluster, name)


async def test_a_person_s_taint_moves_pods_at_once_and_spares_those_that_tolerate_it(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2")
    name = await pod_on(cluster, "n1")
    await cluster.make(POD, pod_body("tough", nodeName="n1", tolerations=[{"operator": "Exists"}]))
    soon = [{"key": "broken", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]
    await cluster.make(POD, pod_body("soon", nodeName="n1", tolerations=soon))
    await cluster.api.patch(NODE, "n1", {"spec": {"taints": [{"key": "broken", "effect": "NoExecute"}]}})
    await cluster.settle()
    assert [leaves(cluster, n) for n in (name, "tough", "soon")] == [True, False, False]
    await cluster.after(61)
    assert [leaves(cluster, n) for n in ("tough", "soon")] == [False, True]


async def test_an_ordinary_node_that_stops_renewing_its_lease_is_lost(cluster: Cluster) -> None:
    await cluster.add_nodes("n1", "n2")
    name = await pod_on(cluster, "n1")
    spec = {"holderIdentity": "n1", "renewTime": "2026-01-01T00:00:00.000000Z"}
    await cluster.make(LEASE, {"metadata": {"name": "n1"}, "spec": spec}, "kube-node-lease")
    await cluster.say_node("n1", "True", {"images": []})
    await cluster.api.patch(NODE, "n1", {"metadata": {"labels": {"x": "y"}}})
    await cluster.settle()
    for _ in range(6):
        await cluster.after(10)
    assert (condition(cluster.get(NODE, "n1")["status"], "Ready") or {})["status"] == "Unknown"
    assert (condition(cluster.get(POD, name)["status"], "Ready") or {})["status"] == "False"


async def test_pods_of_a_deleted_node_are_ended_and_made_elsewhere(cluster: Cluster) -> None:
    await cluster.add_nodes("n1")
    await cluster.make(kinds.REPLICA_SET, workload("web", replicas=1))
    await cluster.run_pods()
    (first,) = cluster.pods()
    await cluster.add_nodes("n2")
    await cluster.objects.delete(NODE, "", "n1")
    await cluster.settle()
    await cluster.after(30)
    assert [p["metadata"]["uid"] for p in cluster.pods()] == [first["metadata"]["uid"]]
    await cluster.after(20)
    assert cluster.nodes_of(*cluster.pods()) == ["n2"]


async def test_finished_pods_beyond_their_number_go_oldest_first(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc = next(c for c in cluster.api.controllers._controllers if c.worker.name == "pod-gc")
    monkeypatch.setattr(gc, "_most_ended", 2)
    await cluster.add_nodes("n1")
    for name in "abcd":
        pod = await cluster.make(POD, pod_body(name))
        await cluster.end_pod(pod, "Succeeded")
        await cluster.after(2)
    assert [p["metadata"]["name"] for p in cluster.pods()] == ["c", "d"]


async def test_a_restart_of_the_control_plane_neither_forgets_nor_hurries_an_eviction(
    cluster: Cluster,
) -> None:  # WORK-7
    await cluster.add_nodes("n1", "n2")
    name = await pod_on(cluster, "n1")
    await cluster.say_node("n1", "Unknown")
    await cluster.after(200)

    cluster.api.controllers = BuiltinControllers(cluster.objects)
    await cluster.start()
    await cluster.after(98)
    assert not leaves(cluster, name)
    await cluster.after(3)
    assert leaves(cluster, name)
