"""cloudcore at somebody else's API server: with the documented rights, and with fewer."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudcore import crds
from cloudcore.doctor import Patient, check_links
from cloudcore.kube import config
from cloudcore.kube.client import KubeClient
from cloudcore.kube.errors import NotFound
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import CLAIM, DEVICE, NODE, POD, SECRET, VOLUME, Kind
from cloudcore.settings import Api, Nodes, Settings
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.labels import EDGE_ROLE
from proto.link.replica import MessageRow, StateChange
from tests.kit.cloud import QUICK, Cloud, bare_api, hub_on
from tests.kit.wait import eventually

DOCS = Path(__file__).parents[3] / "docs" / "cloudcore.md"
FOREIGN = Settings(nodes=Nodes(away_after_s=0.0, settle_s=0.0), api=Api(kubeconfig="elsewhere"))
PODS = "# Pods:"  # before this line of the rules are those of a cloud that serves devices alone


def documented(*, pods: bool) -> list[dict[str, Any]]:
    text = DOCS.read_text().split("```yaml rbac\n")[1].split("```")[0]
    if not pods:
        rules, _, rest = text.partition(PODS)
        text = rules.rstrip() + "\n---" + rest.partition("---")[2]
    return list(yaml.safe_load_all(text))


async def grant(admin: KubeClient, *, pods: bool) -> None:
    for document in documented(pods=pods):
        group, version = document["apiVersion"].split("/")
        plural = document["kind"].lower() + "s"
        await admin.create(Kind(group, version, plural, document["kind"], namespaced=False), "", document)


@asynccontextmanager
async def cluster(path: Path, *, pods: bool) -> AsyncIterator[tuple[KubeClient, Cloud]]:
    """An administrator, and a hub that has the documented rights and no others."""
    async with bare_api(path, QUICK.api) as kubeconfig:
        admin = KubeClient(config.load(kubeconfig))
        await crds.apply(admin, clock=SystemClock(), rng=Rng(1))
        await grant(admin, pods=pods)
        async with hub_on(kubeconfig.with_name("plain.kubeconfig"), FOREIGN, definitions=False) as cloud:
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-1", "labels": {EDGE_ROLE: ""}}}
            await admin.create(NODE, "", node)
            try:
                yield admin, cloud
            finally:
                await admin.close()


def pod(name: str = "web", **metadata: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "registry.example/web:1"}
    spec = {"nodeName": "gw-1", "containers": [container], "imagePullSecrets": [{"name": "pull"}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": spec,
    }


async def test_the_documented_rights_are_enough_for_pods_from_their_arrival_to_their_end(tmp_path: Path) -> None:
    async with cluster(tmp_path, pods=True) as (admin, cloud):
        assert [i.kind.plural for i in cloud.cluster.informers if i.left_out] == []
        await admin.create(SECRET, "default", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"}})
        uid = (await admin.create(POD, "default", pod()))["metadata"]["uid"]
        key = POD.key("default", "web")
        await eventually(lambda: {key, SECRET.key("default", "pull")} <= set(cloud.hub.scope.wanted("gw-1")))

        body = json.dumps({"uid": uid, "version": 1, "status": {"phase": "Running"}}).encode()
        await cloud.hub.upstream.apply("gw-1", [StateChange(key, body)])
        assert (await admin.get(POD, "default", "web"))["status"]["phase"] == "Running"

        await eventually(lambda: _tolerates(cloud))
        await admin.delete(POD, "default", "web")
        await eventually(lambda: "deletionTimestamp" in (cloud.cluster.pods.get("default", "web") or {})["metadata"])
        gone = json.dumps({"namespace": "default", "name": "web", "uid": uid}).encode()
        await cloud.hub.replica.apply_messages("gw-1", "i", [MessageRow(1, "pod-gone", gone)])
        await eventually(lambda: cloud.cluster.pods.get("default", "web") is None)


def _tolerates(cloud: Cloud) -> bool:
    found = (cloud.cluster.pods.get("default", "web") or {}).get("spec", {}).get("tolerations") or []
    return any(each.get("key") == "node.kubernetes.io/unreachable" for each in found)


async def test_a_mirror_and_its_newer_version_are_made_with_the_documented_rights(tmp_path: Path) -> None:
    async with cluster(tmp_path, pods=True) as (admin, cloud):
        for number in (1, 2):
            annotations = {"kubernetes.io/config.mirror": f"h{number}"}
            static = pod("static-gw-1", annotations=annotations)
            del static["spec"]["imagePullSecrets"]
            body = json.dumps({"pod": static}).encode()
            await cloud.hub.replica.apply_messages("gw-1", "i", [MessageRow(number, "pod-mirror", body)])

            async def shown(wanted: dict[str, str] = annotations) -> bool:
                try:
                    found = await admin.get(POD, "default", "static-gw-1")
                except NotFound:
                    return False
                return bool(found["metadata"]["annotations"].items() >= wanted.items())

            await eventually(shown)
        owner = (await admin.get(POD, "default", "static-gw-1"))["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"]) == ("Node", "gw-1")


async def test_a_cloud_that_may_not_read_pods_serves_devices_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, pods=False) as (admin, cloud):
        spec = {"nodeName": "gw-1", "deviceModelRef": {"name": "thermo"}}
        body = {"apiVersion": DEVICE.api_version, "kind": "Device", "metadata": {"name": "kiln"}, "spec": spec}
        await admin.create(DEVICE, "default", body)

        await eventually(lambda: DEVICE.key("default", "kiln") in cloud.hub.scope.wanted("gw-1"))
        assert cloud.cluster.pods.left_out
        said = [record for record in caplog.records if "left out" in record.getMessage()]
        assert len([record for record in said if "resource=pods " in record.getMessage() + " "]) == 1


def informer(**more: Any) -> dict[str, Any]:
    return {"objects": 0, "synced": True, "connected": True, "left_out": False, "last_error": "", **more}


def test_the_doctor_warns_of_what_may_not_be_read_and_is_quiet_about_what_is_not_served(tmp_path: Path) -> None:
    forbidden = informer(synced=False, connected=False, left_out=True, last_error="secrets is forbidden")
    absent = informer(connected=False, left_out=True, last_error="not found")
    live = {"informers": {"secrets": forbidden, "jobs": absent, "pods": informer()}, "waiting": {}, "nodes": {}}
    patient = Patient(tmp_path, None, "", running=True, live=live, now=SystemClock().wall())

    found = check_links(patient)

    assert [(check.level, "secrets" in check.message, "jobs" in check.message) for check in found] == [
        ("Warning", True, False)
    ]


async def test_a_pod_that_ended_without_the_right_to_say_so_is_ended_after_a_restart_when_the_right_is_there(
    tmp_path: Path,
) -> None:  # HUB-13
    role = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
    async with cluster(tmp_path, pods=True) as (admin, cloud):
        uid = (await admin.create(POD, "default", pod()))["metadata"]["uid"]
        await eventually(lambda: cloud.cluster.pods.get("default", "web") is not None)
        rights = await admin.get(role, "", "skerry-cloudcore")
        fewer = [rule for rule in rights["rules"] if not ("pods" in rule["resources"] and "delete" in rule["verbs"])]
        await admin.update(role, "", "skerry-cloudcore", {**rights, "rules": fewer})
        await admin.delete(POD, "default", "web")
        await eventually(lambda: "deletionTimestamp" in (cloud.cluster.pods.get("default", "web") or {})["metadata"])
        gone = json.dumps({"namespace": "default", "name": "web", "uid": uid}).encode()
        event = json.dumps({"involvedObject": {"kind": "Node", "name": "gw-1"}, "reason": "Later"}).encode()
        rows = [MessageRow(1, "pod-gone", gone), MessageRow(2, "event", event)]
        await cloud.hub.replica.apply_messages("gw-1", "i", rows)

        async def only_the_pods_is_left() -> bool:
            return [row.kind for _, _, row in await cloud.hub.effects._history.effects()] == ["pod-gone"]

        await eventually(only_the_pods_is_left)
        assert dropped_effects(cloud, "pod-gone") == 0

    # the same API and the same database; nothing else remembers
    async with bare_api(tmp_path, QUICK.api) as kubeconfig:
        admin = KubeClient(config.load(kubeconfig))
        now = await admin.get(role, "", "skerry-cloudcore")
        await admin.update(role, "", "skerry-cloudcore", {**now, "rules": rights["rules"]})
        async with hub_on(kubeconfig.with_name("plain.kubeconfig"), FOREIGN, definitions=False) as cloud:
            await eventually(lambda: cloud.cluster.pods.get("default", "web") is None)
        await admin.close()


async def test_a_right_that_comes_back_ends_the_pod_without_a_restart(tmp_path: Path) -> None:  # HUB-13
    role = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
    async with cluster(tmp_path, pods=True) as (admin, cloud):
        uid = (await admin.create(POD, "default", pod()))["metadata"]["uid"]
        await eventually(lambda: cloud.cluster.pods.get("default", "web") is not None)
        rights = await admin.get(role, "", "skerry-cloudcore")
        without = await admin.update(role, "", "skerry-cloudcore", {**rights, "rules": rights["rules"][:1]})
        await admin.delete(POD, "default", "web")
        gone = json.dumps({"namespace": "default", "name": "web", "uid": uid}).encode()
        await cloud.hub.replica.apply_messages("gw-1", "i", [MessageRow(1, "pod-gone", gone)])
        await eventually(lambda: bool(cloud.hub.effects._withheld))

        await admin.update(role, "", "skerry-cloudcore", {**without, "rules": rights["rules"]})

        await eventually(lambda: not cloud.hub.effects._withheld)
        with pytest.raises(NotFound):
            await admin.get(POD, "default", "web")


def dropped_effects(cloud: Cloud, kind: str) -> float:
    return cloud.metrics.counter("skerry_cloud_effects_dropped_total", "", ("kind",)).value(kind)


async def test_a_volume_is_made_and_let_go_with_the_documented_rights(tmp_path: Path) -> None:
    async with cluster(tmp_path, pods=True) as (admin, cloud):
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "local-path",
        }
        metadata = {"name": "data", "annotations": {"volume.kubernetes.io/selected-node": "gw-1"}}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
        uid = (await admin.create(CLAIM, "default", claim))["metadata"]["uid"]
        volumes = cloud.cluster.of(VOLUME)
        await eventually(lambda: [v["metadata"].get("finalizers") for v in volumes.objects.values()] != [])
        await admin.delete(CLAIM, "default", "data")
        await eventually(lambda: any("deletionTimestamp" in v["metadata"] for v in volumes.objects.values()))
        name = f"pvc-{uid}"
        body = json.dumps({"name": name, "uid": volumes.objects[Name("", name)]["metadata"]["uid"]}).encode()
        await cloud.hub.replica.apply_messages("gw-1", "i", [MessageRow(1, "volume-gone", body)])
        await eventually(lambda: not volumes.objects)
