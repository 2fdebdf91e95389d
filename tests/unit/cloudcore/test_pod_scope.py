"""Pods over the real API: what a node gets with them, and what it may say about them."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloudcore.hub.pod_effects import mirror_of
from cloudcore.kube import resources
from cloudcore.kube.client import STRATEGIC_PATCH
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import CONFIG_MAP, NAMESPACE, NODE, POD, SECRET, SERVICE, SERVICE_ACCOUNT, Kind
from proto.kit import canonical
from proto.kit.errors import MalformedMessage
from proto.link.replica import MessageRow, StateChange
from tests.kit.cloud import Cloud, running
from tests.kit.wait import eventually

WEB = POD.key("default", "web")
IMAGE = {"name": "main", "image": "registry.example/web:1"}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running(tmp_path) as made:
        await made.client.create(NODE, "", node("gw-1"))
        yield made


def node(name: str, **annotations: str) -> dict[str, Any]:
    labels = {"node-role.kubernetes.io/edge": "", "kubernetes.io/hostname": name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
    }


def pod(name: str = "web", on: str = "gw-1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"nodeName": on, "containers": [IMAGE], **spec},
    }


async def make(cloud: Cloud, kind: Kind, name: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, **fields.pop("metadata", {})}
    body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **fields}
    return await cloud.client.create(kind, "default" if kind.namespaced else "", body)


async def run_pod(cloud: Cloud, **spec: Any) -> dict[str, Any]:
    made = await cloud.client.create(POD, "default", pod(**spec))
    await eventually(lambda: POD.key("default", made["metadata"]["name"]) in cloud.hub.scope.wanted("gw-1"))
    return made


def holds(cloud: Cloud, kind: Kind, node: str = "gw-1") -> set[str]:
    prefix = f"{kind.group or 'core'}/{kind.plural}/"
    return {key.rsplit("/", 1)[1] for key in cloud.hub.scope.wanted(node) if key.startswith(prefix)}


def said(uid: str, version: int, **status: Any) -> StateChange:
    return StateChange(WEB, json.dumps({"uid": uid, "version": version, "status": status}).encode())


async def shown(cloud: Cloud) -> dict[str, Any]:
    found = await cloud.client.get(POD, "default", "web")
    status: dict[str, Any] = found.get("status") or {}
    return status


def dropped(cloud: Cloud, reason: str) -> float:
    return cloud.metrics.counter("skerry_cloud_status_dropped_total", "", ("reason",)).value(reason)


async def test_a_pod_brings_what_it_reads_and_nothing_else(cloud: Cloud) -> None:  # HUB-2
    for name in ("env", "file", "projected", "other"):
        await make(cloud, CONFIG_MAP, name, data={"k": "v"})
        await make(cloud, SECRET, name, stringData={"k": "v"})
    await make(cloud, SECRET, "pull", stringData={"k": "v"})
    source = [{"configMap": {"name": "projected"}}, {"secret": {"name": "projected"}}]
    volumes = [
        {"name": "a", "configMap": {"name": "file"}},
        {"name": "b", "secret": {"secretName": "file"}},
        {"name": "c", "projected": {"sources": [*source, {"configMap": {"name": "kube-root-ca.crt"}}]}},
    ]
    env = [{"configMapRef": {"name": "env"}}, {"secretRef": {"name": "env"}}]

    await run_pod(cloud, volumes=volumes, containers=[{**IMAGE, "envFrom": env}], imagePullSecrets=[{"name": "pull"}])

    assert holds(cloud, SECRET) == {"env", "file", "projected", "pull"}
    assert holds(cloud, CONFIG_MAP) >= {"env", "file", "projected"}
    assert "other" not in holds(cloud, CONFIG_MAP)
    assert cloud.hub.scope.body("gw-1", SECRET.key("default", "other")) is None
    assert cloud.hub.scope.body("gw-2", SECRET.key("default", "env")) is None


async def test_a_secret_made_after_its_pod_follows_it_and_leaves_with_it(cloud: Cloud) -> None:
    made = await run_pod(cloud, imagePullSecrets=[{"name": "late"}])
    cloud.changes.clear()

    await make(cloud, SECRET, "late", stringData={"k": "v"})
    await eventually(lambda: holds(cloud, SECRET) == {"late"})
    assert ("gw-1", SECRET.key("default", "late")) in cloud.changes

    await cloud.client.delete(POD, "default", "web", uid=made["metadata"]["uid"], grace_s=0)
    await eventually(lambda: holds(cloud, SECRET) == set())
    assert holds(cloud, POD) == set()


async def test_a_pod_brings_its_namespace_services_and_account(cloud: Cloud) -> None:
    await make(cloud, SERVICE, "shop", spec={"ports": [{"port": 80}]})
    await make(cloud, SECRET, "registry", stringData={"k": "v"})
    await make(cloud, SERVICE_ACCOUNT, "clerk", imagePullSecrets=[{"name": "registry"}])

    await run_pod(cloud, serviceAccountName="clerk")

    assert holds(cloud, NAMESPACE) == {"default"}
    assert "shop" in holds(cloud, SERVICE)
    assert holds(cloud, SERVICE_ACCOUNT) == {"clerk"}
    assert holds(cloud, SECRET) == {"registry"}


async def test_a_status_is_joined_with_what_others_say_about_the_pod(cloud: Cloud) -> None:  # HUB-8
    uid = (await run_pod(cloud))["metadata"]["uid"]
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    patch = {"status": {"phase": "Pending", "conditions": [bound], "podIPs": [{"ip": "10.0.0.1"}], "podIP": "10.0.0.1"}}
    await cloud.client.patch(POD, "default", "web", patch, content_type=STRATEGIC_PATCH, subresource="status")

    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}
    change = said(uid, 1, phase="Running", conditions=[ready], podIP="10.0.0.2", podIPs=[{"ip": "10.0.0.2"}])
    await cloud.hub.upstream.apply("gw-1", [change])

    status = await shown(cloud)
    assert status["phase"] == "Running"
    assert {c["type"] for c in status["conditions"]} == {"PodScheduled", "Ready"}
    assert status["podIPs"] == [{"ip": "10.0.0.2"}]


async def test_a_condition_that_became_true_keeps_no_reason(cloud: Cloud) -> None:  # HUB-8
    uid = (await run_pod(cloud))["metadata"]["uid"]
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}
    waits = {**ready, "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status"}

    await cloud.hub.upstream.apply("gw-1", [said(uid, 1, phase="Pending", conditions=[waits])])
    before = (await shown(cloud))["conditions"]
    await cloud.hub.upstream.apply("gw-1", [said(uid, 2, phase="Running", conditions=[ready])])

    assert (before, (await shown(cloud))["conditions"]) == ([waits], [ready])


async def test_a_status_for_another_pod_of_the_name_is_dropped_and_counted(cloud: Cloud) -> None:  # HUB-6
    await run_pod(cloud)

    await cloud.hub.upstream.apply("gw-1", [said("u-of-an-earlier-one", 1, phase="Running")])

    assert (await shown(cloud)).get("phase") != "Running"
    assert dropped(cloud, "wrong-uid") == 1


async def test_a_status_from_another_node_is_dropped_and_counted(cloud: Cloud) -> None:
    uid = (await run_pod(cloud))["metadata"]["uid"]

    await cloud.hub.upstream.apply("gw-2", [said(uid, 1, phase="Running")])

    assert (await shown(cloud)).get("phase") != "Running"
    assert dropped(cloud, "not-this-node") == 1


async def test_a_finished_pod_is_never_running_again(cloud: Cloud) -> None:  # HUB-7
    uid = (await run_pod(cloud))["metadata"]["uid"]
    await cloud.hub.upstream.apply("gw-1", [said(uid, 5, phase="Succeeded")])
    await eventually(lambda: _phase(cloud) == "Succeeded")

    cloud.hub.upstream.session_started("gw-1")  # its disk was wiped: versions begin again
    await cloud.hub.upstream.apply("gw-1", [said(uid, 1, phase="Running")])

    assert (await shown(cloud))["phase"] == "Succeeded"
    assert dropped(cloud, "finished") == 1


def _phase(cloud: Cloud) -> str:
    found = cloud.cluster.pods.get("default", "web") or {}
    return str((found.get("status") or {}).get("phase"))


async def test_a_finished_pod_goes_to_its_node_with_its_status_and_without_secrets(cloud: Cloud) -> None:
    await make(cloud, SECRET, "pull", stringData={"k": "v"})
    uid = (await run_pod(cloud, imagePullSecrets=[{"name": "pull"}]))["metadata"]["uid"]
    before = cloud.hub.scope.wanted("gw-1")[WEB]

    ended = {"type": "ContainersReady", "status": "False", "reason": "PodCompleted"}
    await cloud.hub.upstream.apply("gw-1", [said(uid, 1, phase="Succeeded", conditions=[ended])])
    await eventually(lambda: holds(cloud, SECRET) == set())

    body = cloud.hub.scope.body("gw-1", WEB)
    assert body is not None
    assert canonical.decode(body)["status"]["phase"] == "Succeeded"
    assert cloud.hub.scope.wanted("gw-1")[WEB] == before


async def set_status(cloud: Cloud, **status: Any) -> None:
    """As somebody in the cloud does."""
    patch = {"status": status}
    await cloud.client.patch(POD, "default", "web", patch, content_type=STRATEGIC_PATCH, subresource="status")


def sent(cloud: Cloud) -> dict[str, Any]:
    body: dict[str, Any] = canonical.decode(cloud.hub.scope.body("gw-1", WEB) or b"{}")
    return body


def is_told(cloud: Cloud, condition: dict[str, Any]) -> bool:
    return sent(cloud).get("told") == {"conditions": [condition]}


async def test_a_running_pod_that_others_call_failed_is_told_to_its_node_until_that_says_so_too(cloud: Cloud) -> None:
    uid = (await run_pod(cloud))["metadata"]["uid"]  # HUB-7
    await cloud.hub.upstream.apply("gw-1", [said(uid, 1, phase="Running")])
    before = cloud.hub.scope.wanted("gw-1")[WEB]

    await set_status(cloud, phase="Failed", reason="NodeLost")
    await eventually(lambda: cloud.hub.scope.wanted("gw-1")[WEB] != before)
    assert (sent(cloud)["told"], sent(cloud)["status"]["reason"]) == ({"phase": "Failed"}, "NodeLost")
    assert canonical.digest(sent(cloud)) == cloud.hub.scope.wanted("gw-1")[WEB]

    ended = {"type": "ContainersReady", "status": "False", "reason": "PodFailed"}
    await cloud.hub.upstream.apply("gw-1", [said(uid, 2, phase="Failed", reason="NodeLost", conditions=[ended])])
    await eventually(lambda: cloud.hub.scope.wanted("gw-1")[WEB] == before)
    assert "told" not in sent(cloud)


async def test_what_readiness_gates_name_reaches_the_node_and_the_node_does_not_undo_it(cloud: Cloud) -> None:
    uid = (await run_pod(cloud, readinessGates=[{"conditionType": "example.com/lb"}]))["metadata"]["uid"]  # HUB-8
    assert "told" not in sent(cloud)

    for word in ("False", "True"):
        condition = {"type": "example.com/lb", "status": word, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        await set_status(cloud, conditions=[condition, {"type": "example.com/other", "status": "True"}])
        await eventually(partial(is_told, cloud, condition))
        assert canonical.digest(sent(cloud)) == cloud.hub.scope.wanted("gw-1")[WEB]
    assert (WEB, "gw-1") in [(key, node) for node, key in cloud.changes]

    old = [{"type": "example.com/lb", "status": "False"}, {"type": "Ready", "status": "True"}]
    await cloud.hub.upstream.apply("gw-1", [said(uid, 1, phase="Running", conditions=old)])
    found = {c["type"]: c["status"] for c in (await shown(cloud))["conditions"]}
    assert found == {"example.com/lb": "True", "example.com/other": "True", "Ready": "True"}


async def tell(cloud: Cloud, seq: int, kind: str, node_name: str = "gw-1", **body: Any) -> None:
    row = MessageRow(seq, kind, json.dumps(body).encode())
    await cloud.hub.replica.apply_messages(node_name, "incarnation", [row])


async def test_a_pod_that_ended_at_its_node_leaves_the_api(cloud: Cloud) -> None:  # HUB-9
    uid = (await run_pod(cloud))["metadata"]["uid"]
    marked = await cloud.client.delete(POD, "default", "web")
    assert marked["metadata"]["deletionTimestamp"]
    await eventually(lambda: "deletionTimestamp" in (cloud.cluster.pods.get("default", "web") or {})["metadata"])

    await tell(cloud, 1, "pod-gone", namespace="default", name="web", uid=uid)

    async def gone() -> bool:
        try:
            await cloud.client.get(POD, "default", "web")
        except NotFound:
            return True
        return False

    await eventually(gone)


@pytest.mark.parametrize(("node_name", "uid"), [("gw-2", ""), ("gw-1", "u-of-an-earlier-one"), ("gw-1", "")])
async def test_no_node_deletes_what_is_not_its_own_or_not_marked(cloud: Cloud, node_name: str, uid: str) -> None:
    made = await run_pod(cloud)

    await tell(cloud, 1, "pod-gone", node_name, namespace="default", name="web", uid=uid or made["metadata"]["uid"])
    await tell(cloud, 2, "event", node_name, involvedObject={"kind": "Node", "name": node_name}, reason="After")

    async def after() -> bool:
        events = await cloud.client.list(resources.EVENT)
        return any(event["reason"] == "After" for event in events["items"])

    await eventually(after)
    assert (await cloud.client.get(POD, "default", "web"))["metadata"]["uid"] == made["metadata"]["uid"]


async def test_pods_of_a_clusters_other_nodes_are_not_even_kept(cloud: Cloud) -> None:  # HUB-5
    rack = node("rack-1")
    del rack["metadata"]["labels"]
    await cloud.client.create(NODE, "", rack)
    await cloud.client.create(POD, "default", pod("elsewhere", on="rack-1"))

    await run_pod(cloud)

    assert {name.name for name in cloud.cluster.pods.objects} == {"web"}


async def test_a_pod_that_was_bound_before_its_node_joined_is_found(cloud: Cloud) -> None:
    await cloud.client.create(POD, "default", pod("early", on="gw-7"))
    await run_pod(cloud)
    assert holds(cloud, POD, "gw-7") == set()

    await cloud.client.create(NODE, "", node("gw-7"))

    await eventually(lambda: holds(cloud, POD, "gw-7") == {"early"})
    assert holds(cloud, POD) == {"web"}


async def events(cloud: Cloud) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await cloud.client.list(resources.EVENT))["items"]
    return found


async def test_a_node_raises_events_about_its_own_pods_and_nobody_elses(cloud: Cloud) -> None:
    uid = (await run_pod(cloud))["metadata"]["uid"]
    involved = {"kind": "Pod", "namespace": "default", "name": "web", "uid": uid}

    await tell(cloud, 1, "event", "gw-2", involvedObject=involved, reason="Forged", message="")
    await tell(cloud, 1, "event", involvedObject=involved, reason="BackOff", message="", type="Warning", count=7)
    await eventually(lambda: _raised(cloud, "BackOff"))

    reasons = {event["reason"]: event["count"] for event in await events(cloud)}
    assert reasons.get("BackOff") == 7
    assert "Forged" not in reasons


async def _raised(cloud: Cloud, reason: str) -> bool:
    return any(event["reason"] == reason for event in await events(cloud))


async def test_what_others_made_of_a_status_meanwhile_is_asked_for_again(cloud: Cloud) -> None:
    uid = (await run_pod(cloud))["metadata"]["uid"]
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}
    change = said(uid, 1, phase="Running", conditions=[ready])
    await cloud.hub.upstream.apply("gw-1", [change])
    await eventually(lambda: WEB in cloud.hub.upstream.digests("gw-1") and _phase(cloud) == "Running")

    patch = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}]}}
    await cloud.client.patch(POD, "default", "web", patch, content_type=STRATEGIC_PATCH, subresource="status")
    await eventually(lambda: WEB not in cloud.hub.upstream.digests("gw-1"))
    await cloud.hub.upstream.apply("gw-1", [change])

    conditions = {c["type"]: c["status"] for c in (await shown(cloud))["conditions"]}
    assert conditions["Ready"] == "True"


async def test_people_hear_at_the_node_of_a_mirror_that_was_not_made(cloud: Cloud) -> None:
    stolen = {**pod(imagePullSecrets=[{"name": "pull"}])}
    stolen["metadata"] = {"name": "web", "namespace": "default", "annotations": {"kubernetes.io/config.mirror": "h"}}

    await tell(cloud, 1, "pod-mirror", pod=stolen)

    await eventually(lambda: _raised(cloud, "MessageRefused"))
    told = [event for event in await events(cloud) if event["reason"] == "MessageRefused"]
    assert told[0]["involvedObject"]["name"] == "gw-1"
    assert "pull" in told[0]["message"]


@pytest.mark.parametrize(
    ("spec", "labels"),
    [
        ({"resourceClaims": [{"name": "gpu"}]}, {}),
        ({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}]}, {}),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, {}),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}}]}, {}),
        ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]}, {}),
        ({"serviceAccountName": "default"}, {}),
        ({}, {"edge.skerry.io/node": "gw-2"}),
    ],
)
def test_a_mirror_asks_for_nothing_and_goes_nowhere_else(spec: dict[str, Any], labels: dict[str, str]) -> None:
    metadata = {"name": "own", "namespace": "default", "annotations": {"kubernetes.io/config.mirror": "h"}}
    plain = {"metadata": metadata, "spec": {"nodeName": "gw-1", "containers": []}}
    assert mirror_of("gw-1", plain, None)["spec"] == plain["spec"]

    asking = {"metadata": {**metadata, "labels": labels}, "spec": {"nodeName": "gw-1", "containers": [], **spec}}
    with pytest.raises(MalformedMessage):  # HUB-10
        mirror_of("gw-1", asking, None)


async def test_a_node_that_registers_gets_no_labels_by_which_workloads_find_others(cloud: Cloud) -> None:  # HUB-16
    own = {"site": "oslo", "topology.kubernetes.io/zone": "a", "node.kubernetes.io/instance-type": "box"}
    stolen = {
        "node-role.kubernetes.io/control-plane": "",
        "tier.node-restriction.kubernetes.io/trusted": "yes",
        "apps.kubeedge.io/belonging-to": "vault",
        "edge.skerry.io/node": "gw-2",
    }
    await tell(cloud, 1, "register", metadata={"name": "gw-1", "labels": {**own, **stolen}})

    await eventually(lambda: _raised(cloud, "LabelsRefused"))
    labels = (await cloud.client.get(NODE, "", "gw-1"))["metadata"]["labels"]
    assert own.items() <= labels.items()
    assert not stolen.keys() & labels.keys()


async def test_a_mirror_brings_its_node_no_account(cloud: Cloud) -> None:  # HUB-2, HUB-10
    mirror = pod(automountServiceAccountToken=False)
    annotations = {"kubernetes.io/config.mirror": "h"}
    mirror["metadata"] = {"name": "own", "namespace": "kube-system", "annotations": annotations}
    await tell(cloud, 1, "pod-mirror", pod=mirror)

    await eventually(lambda: cloud.hub.scope.holds("gw-1", POD.key("kube-system", "own")))

    assert not cloud.hub.scope.holds("gw-1", SERVICE_ACCOUNT.key("kube-system", "default"))


async def test_how_a_pod_finished_is_not_changed_afterwards(cloud: Cloud) -> None:
    uid = (await run_pod(cloud))["metadata"]["uid"]
    await cloud.hub.upstream.apply("gw-1", [said(uid, 1, phase="Failed")])
    await eventually(lambda: _phase(cloud) == "Failed")

    await cloud.hub.upstream.apply("gw-1", [said(uid, 2, phase="Succeeded")])
    await cloud.hub.upstream.apply("gw-1", [said(uid, 3, phase="Failed", message="out of memory")])

    assert (await shown(cloud))["phase"] == "Failed"
    assert (await shown(cloud))["message"] == "out of memory"


async def test_what_a_node_says_again_counts_in_one_event(cloud: Cloud) -> None:  # HUB-15
    uid = (await run_pod(cloud))["metadata"]["uid"]
    involved = {"kind": "Pod", "namespace": "default", "name": "web", "uid": uid}
    head: dict[str, Any] = {
        "involvedObject": involved,
        "reason": "BackOff",
        "message": "m",
        "name": "web.1234",
        "type": "Warning",
    }

    async def said(seq: int, count: int, minute: int, first: int = 0) -> None:
        times = {"firstTimestamp": f"2026-01-01T00:{first:02d}:00Z", "lastTimestamp": f"2026-01-01T00:{minute:02d}:00Z"}
        await tell(cloud, seq, "event", **head, **times, count=count)

    for seq, (count, minute) in enumerate([(1, 0), (4, 1), (7, 2), (4, 1)], 1):
        await said(seq, count, minute)
    await said(5, 1, 30, first=30)  # by an edge that was restarted

    async def shown() -> list[tuple[int, str]]:
        found = [event for event in await events(cloud) if event["reason"] == "BackOff"]
        return sorted((event["count"], event["lastTimestamp"]) for event in found)

    await eventually(lambda: _is(shown, [(1, "2026-01-01T00:30:00Z"), (7, "2026-01-01T00:02:00Z")]))


async def _is(shown: Callable[[], Awaitable[Any]], wanted: Any) -> bool:
    return bool(await shown() == wanted)
