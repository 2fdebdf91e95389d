"""Volumes of class local-path over the real API: made for a claim, held by their node, gone when that node says so."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloudcore.controllers.local_path import FINALIZER, has_one_place
from cloudcore.kube.client import MERGE_PATCH
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import CLAIM, NAMESPACE, NODE, STORAGE_CLASS, VOLUME, Kind
from cloudcore.settings import Api, Nodes, Settings
from kubeapi.bootstrap import LOCAL_PROVISIONER
from kubeapi.local_volumes import LOCAL_PATH
from kubeapi.scheduling.claims import SELECTED_NODE
from proto.link.replica import MessageRow
from tests.kit.cloud import Cloud, bare_api, hub_on, running
from tests.kit.wait import eventually

FOREIGN = Settings(nodes=Nodes(away_after_s=0.0, settle_s=0.0), api=Api(kubeconfig="elsewhere"))
NO_CONTROLLERS = Api(host="127.0.0.1", port=0, controllers=False)


async def create(cloud: Cloud, kind: Kind, name: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, **fields.pop("metadata", {})}
    body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **fields}
    return await cloud.client.create(kind, "default" if kind.namespaced else "", body)


async def node(cloud: Cloud, name: str, host: str = "", *, edge: bool = True) -> None:
    labels = {"kubernetes.io/hostname": host or name, **({"node-role.kubernetes.io/edge": ""} if edge else {})}
    await create(cloud, NODE, name, metadata={"labels": labels})
    await eventually(lambda: cloud.cluster.nodes.get("", name) is not None)


async def claim(cloud: Cloud, on: str = "gw-1", storage: str = "local-path") -> dict[str, Any]:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": storage,
    }
    return await create(cloud, CLAIM, "data", metadata={"annotations": {SELECTED_NODE: on}}, spec=spec)


async def volume(cloud: Cloud, name: str, policy: str = "Delete", host: str = "gw-1") -> dict[str, Any]:
    rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": policy,
        "local": {"path": f"/var/lib/skerry/edge/local-path/{name}"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}},
    }
    made = await create(cloud, VOLUME, name, metadata={"annotations": {LOCAL_PATH: name}}, spec=spec)
    await eventually(lambda: FINALIZER in ((found(cloud, name) or {})["metadata"].get("finalizers") or ()))
    return made


def found(cloud: Cloud, name: str) -> dict[str, Any] | None:
    return cloud.cluster.of(VOLUME).get("", name)


async def is_gone(cloud: Cloud, name: str) -> bool:
    try:
        await cloud.client.get(VOLUME, "", name)
    except NotFound:
        return True
    return False


async def say_gone(cloud: Cloud, seq: int, name: str, uid: str, on: str = "gw-1") -> None:
    body = json.dumps({"name": name, "uid": uid}).encode()
    await cloud.hub.replica.apply_messages(on, "i", [MessageRow(seq, "volume-gone", body)])


def holds(cloud: Cloud, kind: Kind, node: str) -> set[str]:
    prefix = f"{kind.group or 'core'}/{kind.plural}/"
    return {key.rsplit("/", 1)[1] for key in cloud.hub.scope.wanted(node) if key.startswith(prefix)}


async def test_a_claim_and_its_volume_are_their_nodes_without_any_pod_and_end_with_its_word(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:  # HUB-12
        await node(cloud, "gw-1", "machine-7")
        await node(cloud, "gw-2")
        made = await claim(cloud)
        name = f"pvc-{made['metadata']['uid']}"

        await eventually(lambda: holds(cloud, VOLUME, "gw-1") == {name} and holds(cloud, CLAIM, "gw-1") == {"data"})
        assert holds(cloud, VOLUME, "gw-2") == holds(cloud, CLAIM, "gw-2") == set()
        await eventually(lambda: FINALIZER in ((found(cloud, name) or {})["metadata"].get("finalizers") or ()))

        await cloud.client.delete(CLAIM, "default", "data")
        await eventually(lambda: (found(cloud, name) or {})["metadata"].get("finalizers") == [FINALIZER])
        held = found(cloud, name)
        assert held is not None
        assert held["metadata"]["deletionTimestamp"]
        assert b"deletionTimestamp" in (cloud.hub.scope.body("gw-1", VOLUME.key("", name)) or b"")

        await say_gone(cloud, 1, name, held["metadata"]["uid"])
        await eventually(lambda: is_gone(cloud, name))


@pytest.mark.parametrize(("by", "uid"), [("gw-2", ""), ("gw-1", "another")])
async def test_a_volume_stays_whoever_else_says_that_its_data_is_gone(tmp_path: Path, by: str, uid: str) -> None:
    async with running(tmp_path) as cloud:  # HUB-12
        await node(cloud, "gw-1")
        await node(cloud, "gw-2")
        made = await volume(cloud, "disk")
        await cloud.client.delete(VOLUME, "", "disk")

        await say_gone(cloud, 1, "disk", uid or made["metadata"]["uid"], by)
        await say_gone(cloud, 2, "not-there", "u")
        await eventually(lambda: no_effects(cloud))

        assert not await is_gone(cloud, "disk")


async def no_effects(cloud: Cloud) -> bool:
    return not await cloud.hub.effects._history.effects()


async def test_a_volume_that_nobody_deletes_stays_although_its_node_says_its_data_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        await node(cloud, "gw-1")
        made = await volume(cloud, "disk")

        await say_gone(cloud, 1, "disk", made["metadata"]["uid"])
        await eventually(lambda: no_effects(cloud))

        assert FINALIZER in (await cloud.client.get(VOLUME, "", "disk"))["metadata"]["finalizers"]


async def test_a_volume_whose_data_stays_waits_for_nobody(tmp_path: Path) -> None:  # HUB-12
    async with running(tmp_path) as cloud:
        await node(cloud, "gw-1")
        await volume(cloud, "kept", policy="Retain")

        await cloud.client.delete(VOLUME, "", "kept")

        await eventually(lambda: is_gone(cloud, "kept"))


async def test_a_volume_of_a_node_that_was_deleted_goes_too(tmp_path: Path) -> None:  # HUB-12
    async with running(tmp_path) as cloud:
        await node(cloud, "gw-1")
        await volume(cloud, "disk")
        await cloud.client.delete(VOLUME, "", "disk")
        await eventually(lambda: "deletionTimestamp" in (found(cloud, "disk") or {})["metadata"])
        assert not await is_gone(cloud, "disk")

        await cloud.client.delete(NODE, "", "gw-1")

        await eventually(lambda: is_gone(cloud, "disk"))


async def storage_class(cloud: Cloud) -> None:
    fields = {"provisioner": LOCAL_PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"}
    await create(cloud, STORAGE_CLASS, "disk", **fields)


async def test_in_a_cluster_that_does_not_know_the_class_cloudcore_makes_the_volume_and_ends_it(tmp_path: Path) -> None:
    async with bare_api(tmp_path, NO_CONTROLLERS) as kubeconfig, hub_on(kubeconfig, FOREIGN) as cloud:
        await node(cloud, "gw-1")
        await storage_class(cloud)
        name = f"pvc-{(await claim(cloud, storage='disk'))['metadata']['uid']}"
        await eventually(lambda: found(cloud, name) is not None)
        made = found(cloud, name)
        assert made is not None
        assert made["metadata"]["finalizers"] == [FINALIZER]
        assert (made["spec"]["claimRef"]["name"], made["spec"]["storageClassName"]) == ("data", "disk")

        released = {"status": {"phase": "Released"}}
        await cloud.client.patch(VOLUME, "", name, released, content_type=MERGE_PATCH, subresource="status")
        await eventually(lambda: "deletionTimestamp" in (found(cloud, name) or {})["metadata"])
        await say_gone(cloud, 1, name, made["metadata"]["uid"])
        await eventually(lambda: is_gone(cloud, name))


async def test_a_claim_that_was_given_a_node_that_is_no_edge_is_chosen_for_again(tmp_path: Path) -> None:
    async with bare_api(tmp_path, NO_CONTROLLERS) as kubeconfig, hub_on(kubeconfig, FOREIGN) as cloud:
        await node(cloud, "rack-1", edge=False)
        await storage_class(cloud)
        await claim(cloud, on="rack-1", storage="disk")

        async def free() -> bool:
            held = await cloud.client.get(CLAIM, "default", "data")
            return SELECTED_NODE not in (held["metadata"].get("annotations") or {})

        await eventually(free)
        assert cloud.cluster.of(VOLUME).objects == {}


async def test_claims_of_other_classes_are_left_to_others(tmp_path: Path) -> None:
    async with bare_api(tmp_path, NO_CONTROLLERS) as kubeconfig, hub_on(kubeconfig, FOREIGN) as cloud:
        await node(cloud, "gw-1")
        await create(cloud, STORAGE_CLASS, "theirs", provisioner="csi.example.com")
        await claim(cloud, storage="theirs")
        await eventually(lambda: ("default", "data") in cloud.cluster.of(CLAIM).objects)
        await create(cloud, NAMESPACE, "later")

        await eventually(lambda: not len(cloud.hub.volumes.queue))
        assert cloud.cluster.of(VOLUME).objects == {}


@pytest.mark.parametrize(
    ("terms", "one"),
    [
        ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}], True),
        ([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a", "b"]}]}], False),
        ([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}], False),
        ([], False),
    ],
)
def test_only_a_volume_of_one_machine_waits_for_it(terms: list[Any], one: bool) -> None:
    assert has_one_place({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}) is one
