from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubeapi import kinds
from kubeapi.controllers import parts
from kubeapi.controllers.revisions import HASH
from tests.unit.kubeapi.api import NODE, POD, Api
from tests.unit.kubeapi.workload_kit import Cluster, workload

Json = dict[str, Any]
DS = kinds.DAEMON_SET


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    api = await Api.open(tmp_path)
    cluster = Cluster(api)
    await cluster.start()
    await cluster.add_nodes("n1", "n2", "n3")
    yield cluster
    await api.close()


def where(cluster: Cluster) -> list[str]:
    return sorted(n for n in cluster.nodes_of(*[p for p in cluster.pods() if "deletionTimestamp" not in p["metadata"]]))


def image(name: str) -> Json:
    return {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": name}]}}}}


def images(cluster: Cluster) -> list[str]:
    return sorted(
        p["spec"]["containers"][0]["image"] for p in cluster.pods() if "deletionTimestamp" not in p["metadata"]
    )


async def change(cluster: Cluster, patch: Json) -> None:
    await cluster.api.patch(DS, "agent", patch)
    await cluster.settle()


async def test_every_node_gets_one_pod_and_a_new_node_too(cluster: Cluster) -> None:
    await cluster.make(DS, workload("agent"))
    assert where(cluster) == ["n1", "n2", "n3"]
    await cluster.add_nodes("n4")
    await cluster.roll()
    status = cluster.get(DS, "agent")["status"]
    assert where(cluster) == ["n1", "n2", "n3", "n4"]
    assert [status[k] for k in ("desiredNumberScheduled", "numberReady", "numberAvailable")] == [4, 4, 4]


async def test_a_node_that_may_not_have_the_pod_loses_it(cluster: Cluster) -> None:
    await cluster.make(DS, workload("agent", template={"nodeSelector": {"line": "a"}}))
    assert where(cluster) == []
    await cluster.api.patch(NODE, "n2", {"metadata": {"labels": {"line": "a"}}})
    await cluster.settle()
    assert where(cluster) == ["n2"]
    await cluster.api.patch(NODE, "n2", {"metadata": {"labels": {"line": None}}})
    await cluster.settle()
    assert where(cluster) == []


async def test_a_lost_or_cordoned_node_keeps_its_daemon_pod(cluster: Cluster) -> None:
    await cluster.make(DS, workload("agent"))
    await cluster.run_pods()
    await cluster.say_node("n1", "Unknown")
    await cluster.api.patch(NODE, "n2", {"spec": {"unschedulable": True}})
    await cluster.after(3600)
    assert where(cluster) == ["n1", "n2", "n3"]


async def test_a_rolling_update_replaces_no_more_than_may_be_missing(cluster: Cluster) -> None:
    await cluster.make(DS, workload("agent"))
    await cluster.roll()
    await change(cluster, image("app:2"))
    assert images(cluster) == ["app:1", "app:1"]

    await cluster.stop_deleted()
    assert images(cluster) == ["app:1", "app:1", "app:2"]
    await cluster.settle()
    assert images(cluster) == ["app:1", "app:1", "app:2"]

    await cluster.roll()
    assert images(cluster) == ["app:2"] * 3
    assert cluster.get(DS, "agent")["status"]["updatedNumberScheduled"] == 3


async def test_with_a_surge_the_old_pod_goes_when_the_new_one_works(cluster: Cluster) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await cluster.make(DS, workload("agent", updateStrategy=rolling))
    await cluster.roll()
    await change(cluster, image("app:2"))
    assert images(cluster) == ["app:1", "app:1", "app:1", "app:2"]
    await cluster.roll()
    assert images(cluster) == ["app:2"] * 3


async def test_on_delete_waits_for_somebody_to_delete(cluster: Cluster) -> None:
    await cluster.make(DS, workload("agent", updateStrategy={"type": "OnDelete"}))
    await cluster.roll()
    await change(cluster, image("app:2"))
    await cluster.roll()
    assert images(cluster) == ["app:1"] * 3
    await cluster.objects.delete(POD, "default", cluster.pods()[0]["metadata"]["name"])
    await cluster.roll()
    assert images(cluster) == ["app:1", "app:1", "app:2"]


async def test_every_template_is_a_numbered_revision_and_an_old_one_becomes_the_newest_again(cluster: Cluster) -> None:
    await cluster.make(DS, workload("agent"))
    await change(cluster, image("app:2"))
    await change(cluster, image("app:1"))
    found = sorted(cluster.all(kinds.CONTROLLER_REVISION), key=lambda r: r["revision"])
    assert [r["revision"] for r in found] == [2, 3]
    shown = [r["data"]["spec"]["template"]["spec"]["containers"][0]["image"] for r in found]
    assert shown == ["app:2", "app:1"]
    assert found[0]["data"]["spec"]["template"]["$patch"] == "replace"
    await cluster.roll()
    assert {p["metadata"]["labels"][HASH] for p in cluster.pods()} == {found[1]["metadata"]["labels"][HASH]}


async def test_a_daemon_pod_that_its_node_refuses_again_and_again_is_made_ever_more_seldom(
    cluster: Cluster,
) -> None:  # WORK-8
    await cluster.make(DS, workload("agent"))
    here = next(p for p in cluster.pods() if p["spec"]["nodeName"] == "n1")
    made = []
    for _ in range(60):
        (here,) = [p for p in cluster.pods() if p["spec"]["nodeName"] == "n1"]
        if here["status"].get("phase") != "Failed":
            made.append(here["metadata"]["uid"])
            refused = {**here["status"], "phase": "Failed", "reason": "Evicted"}
            await parts.write_status(cluster.objects, POD, here, refused)
        await cluster.after(1)
    assert len(made) == 7, "at once, then after 1, 2, 4, 8, 16 seconds"
    assert any(
        text.startswith("Pod agent-") and text.endswith("replaced: Evicted")
        for text in cluster.events("FailedDaemonPod")
    )

    await change(cluster, image("app:2"))
    await cluster.after(1)
    (here,) = [p for p in cluster.pods() if p["spec"]["nodeName"] == "n1"]
    assert here["spec"]["containers"][0]["image"] == "app:2"


async def test_a_daemon_pod_that_ended_is_made_again(cluster: Cluster) -> None:
    await cluster.make(DS, workload("agent"))
    (first, *_) = cluster.pods()
    await cluster.end_pod(first, "Failed")
    await cluster.roll()
    assert where(cluster) == ["n1", "n2", "n3"]
    assert first["metadata"]["uid"] not in {p["metadata"]["uid"] for p in cluster.pods()}
