from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.errors import ApiError
from kubeapi.eviction import evict_in
from kubeapi.objects import DeleteOptions
from tests.unit.kubeapi.api import POD, SVC, Api
from tests.unit.kubeapi.workload_kit import Cluster, pod_body, workload

Json = dict[str, Any]
SLICE, ENDPOINTS, PDB = kinds.ENDPOINT_SLICE, kinds.ENDPOINTS, kinds.POD_DISRUPTION_BUDGET


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path)
    cluster = Cluster(api)
    await cluster.start()
    await cluster.add_nodes("n1", "n2", labels={"topology.kubernetes.io/zone": "z"})
    yield cluster
    await api.close()


def service(name: str, **spec: Any) -> Json:
    return {
        "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], **spec},
    }


async def evict(cluster: Cluster, name: str) -> None:
    await cluster.api.db.tx(lambda tx: evict_in(cluster.objects, tx, "default", name, DeleteOptions()))
    await cluster.settle()


async def test_services_get_addresses_of_their_own(cluster: Cluster) -> None:
    one, two = await cluster.make(SVC, service("one")), await cluster.make(SVC, service("two"))
    assert one["spec"]["clusterIP"].startswith("10.96.")
    assert one["spec"]["clusterIPs"] == [one["spec"]["clusterIP"]]
    assert one["spec"]["clusterIP"] != two["spec"]["clusterIP"]
    fixed = await cluster.make(SVC, service("fixed", clusterIP="10.96.0.77"))
    assert fixed["spec"]["clusterIP"] == "10.96.0.77"
    for wrong, why in (("10.96.0.77", "already allocated"), ("10.1.1.1", "range of valid IPs is 10.96.0.0/16")):
        with pytest.raises(ApiError, match=why):
            await cluster.api.create(SVC, service("bad", clusterIP=wrong))
    with pytest.raises(ApiError, match="may not change once set"):
        await cluster.api.patch(SVC, "one", {"spec": {"clusterIP": "10.96.0.99"}})


async def test_headless_and_external_services_take_none(cluster: Cluster) -> None:
    headless = await cluster.make(SVC, service("headless", clusterIP="None"))
    assert headless["spec"]["clusterIPs"] == ["None"]
    body = {"metadata": {"name": "x"}, "spec": {"type": "ExternalName", "externalName": "example.com"}}
    assert "clusterIP" not in (await cluster.make(SVC, body))["spec"]


async def test_a_node_port_is_found_and_kept(cluster: Cluster) -> None:
    made = await cluster.make(SVC, service("s", type="NodePort"))
    (port,) = made["spec"]["ports"]
    assert 30000 <= port["nodePort"] <= 32767
    changed = await cluster.api.patch(SVC, "s", {"spec": {"ports": [{"port": 80, "targetPort": 9090}]}})
    assert changed["spec"]["ports"][0]["nodePort"] == port["nodePort"]
    with pytest.raises(ApiError, match="already allocated"):
        await cluster.api.create(SVC, service("t", type="NodePort", ports=[{"port": 1, "nodePort": port["nodePort"]}]))


async def test_slices_and_endpoints_follow_the_pods(cluster: Cluster) -> None:
    await cluster.make(SVC, service("web"))
    await cluster.make(kinds.REPLICA_SET, workload("web", replicas=2))
    await cluster.run_pods()

    (found,) = cluster.all(SLICE)
    assert found["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    assert found["ports"] == [{"name": "", "protocol": "TCP", "port": 8080}]
    assert [e["conditions"]["ready"] for e in found["endpoints"]] == [True, True]
    assert {e["zone"] for e in found["endpoints"]} == {"z"}
    (subset,) = cluster.get(ENDPOINTS, "web")["subsets"]
    assert len(subset["addresses"]) == 2

    await cluster.run_pods(cluster.pods()[0], ready="False")
    await cluster.objects.delete(POD, "default", cluster.pods()[1]["metadata"]["name"])
    await cluster.settle()
    states = [(e["conditions"]["ready"], e["conditions"]["terminating"]) for e in cluster.all(SLICE)[0]["endpoints"]]
    assert sorted(states) == [(False, False), (False, True)]
    assert len(cluster.get(ENDPOINTS, "web")["subsets"][0]["notReadyAddresses"]) == 1

    await cluster.objects.delete(SVC, "default", "web")
    await cluster.settle()
    assert (cluster.all(SLICE), cluster.all(ENDPOINTS)) == ([], [])


async def test_a_named_target_port_is_each_pod_s_own(cluster: Cluster) -> None:
    await cluster.make(SVC, service("web", ports=[{"port": 80, "targetPort": "http"}]))
    for name, number in (("a", 8080), ("b", 9090), ("c", 9090)):
        ports = [{"name": "http", "containerPort": number}]
        await cluster.make(
            POD, pod_body(name, {"app": "web"}, containers=[{"name": "c", "image": "i", "ports": ports}])
        )
    await cluster.run_pods()
    sizes = {s["ports"][0]["port"]: len(s["endpoints"]) for s in cluster.all(SLICE)}
    assert sizes == {8080: 1, 9090: 2}


async def test_many_endpoints_are_cut_into_slices_of_a_hundred(cluster: Cluster) -> None:
    await cluster.make(SVC, service("web"))
    await cluster.make(kinds.REPLICA_SET, workload("web", replicas=120))
    await cluster.run_pods()
    assert sorted(len(s["endpoints"]) for s in cluster.all(SLICE)) == [20, 100]


async def test_a_change_by_somebody_else_is_put_right(cluster: Cluster) -> None:
    await cluster.make(SVC, service("web"))
    await cluster.make(kinds.REPLICA_SET, workload("web", replicas=1))
    await cluster.run_pods()
    (found,) = cluster.all(SLICE)
    await cluster.api.patch(SLICE, found["metadata"]["name"], {"endpoints": []})
    await cluster.settle()
    assert len(cluster.all(SLICE)[0]["endpoints"]) == 1


async def test_a_budget_lets_pods_go_one_by_one(cluster: Cluster) -> None:  # WORK-5
    await cluster.make(kinds.DEPLOYMENT, workload("web", replicas=3))
    await cluster.make(
        PDB, {"metadata": {"name": "web"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}}
    )
    await cluster.run_pods()
    status = cluster.get(PDB, "web")["status"]
    assert [status[k] for k in ("expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed")] == [
        3,
        3,
        2,
        1,
    ]

    first, second, _ = [p["metadata"]["name"] for p in cluster.pods()]
    await evict(cluster, first)
    with pytest.raises(ApiError, match=r"violate the pod's disruption budget\.") as refused:
        await evict(cluster, second)
    assert refused.value.status == 429
    expected = "The disruption budget web needs 2 healthy pods and has 2 currently"
    assert refused.value.details["causes"][0]["message"] == expected

    await cluster.roll()
    await evict(cluster, second)
    assert "deletionTimestamp" in cluster.get(POD, second)["metadata"]


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"maxUnavailable": 1}, 1),
        ({"maxUnavailable": "50%"}, 2),
        ({"minAvailable": "75%"}, 1),
        ({"minAvailable": 9}, 0),
        ({"maxUnavailable": 0}, 0),
    ],
)
async def test_budgets_count_what_the_controllers_want(cluster: Cluster, spec: Json, allowed: int) -> None:
    await cluster.make(kinds.DEPLOYMENT, workload("web", replicas=4))
    await cluster.make(
        PDB, {"metadata": {"name": "web"}, "spec": {**spec, "selector": {"matchLabels": {"app": "web"}}}}
    )
    await cluster.run_pods()
    assert cluster.get(PDB, "web")["status"]["disruptionsAllowed"] == allowed


async def test_a_pod_that_serves_nobody_may_always_go_when_the_budget_says_so(cluster: Cluster) -> None:
    spec = {"minAvailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": {"app": "web"}}}
    await cluster.make(PDB, {"metadata": {"name": "web"}, "spec": spec})
    await cluster.make(POD, pod_body("a", {"app": "web"}))
    await cluster.run_pods(ready="False")
    await evict(cluster, "a")
    assert "deletionTimestamp" in cluster.get(POD, "a")["metadata"]
