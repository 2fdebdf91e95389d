"""Groups of nodes and applications for them, over the real API."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cloudcore.controllers import overriders
from cloudcore.controllers.node_groups import FINALIZER, ZONE
from cloudcore.controllers.overriders import GROUP_LABEL, Target, Unusable
from cloudcore.kube.client import MERGE_PATCH
from cloudcore.kube.errors import NotFound
from cloudcore.kube.resources import CONFIG_MAP, DEPLOYMENT, EDGE_APPLICATION, EVENT, NODE, NODE_GROUP, Kind
from tests.kit.cloud import Cloud, running
from tests.kit.wait import eventually

Json = dict[str, Any]


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running(tmp_path) as one:
        yield one


async def node(cloud: Cloud, name: str, **labels: str) -> None:
    await cloud.client.create(
        NODE, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    )


async def label(cloud: Cloud, name: str, key: str = GROUP_LABEL) -> str | None:
    found: str | None = (await cloud.client.get(NODE, "", name))["metadata"].get("labels", {}).get(key)
    return found


async def becomes(ask: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    async def same() -> bool:
        return bool(await ask() == wanted)

    await eventually(same)


async def absent(cloud: Cloud, kind: Kind, name: str) -> bool:
    try:
        await cloud.client.get(kind, "default" if kind.namespaced else "", name)
    except NotFound:
        return True
    return False


async def test_nodes_of_a_group_are_labelled_by_name_and_by_labels(cloud: Cloud) -> None:
    await node(cloud, "gw-1")
    await node(cloud, "gw-2", site="north")
    await node(cloud, "gw-3", site="south")
    spec = {"nodes": ["gw-1", "gw-9"], "matchLabels": {"site": "north"}, "topologyEnabled": True}
    await cloud.create(NODE_GROUP, "north", spec)

    await becomes(lambda: label(cloud, "gw-1"), "north")
    await becomes(lambda: label(cloud, "gw-2", ZONE), "north")

    async def statuses() -> list[tuple[str, str]]:
        found = (await cloud.client.get(NODE_GROUP, "", "north")).get("status") or {}
        return [(s["nodeName"], s["selectionStatus"]) for s in found.get("nodeStatuses", [])]

    await becomes(statuses, [("gw-1", "Succeeded"), ("gw-2", "Succeeded"), ("gw-9", "Failed")])
    assert await label(cloud, "gw-3") is None


async def test_a_node_leaves_with_its_label_and_when_its_group_goes(cloud: Cloud) -> None:
    await node(cloud, "gw-1", site="north")
    await node(cloud, "gw-2", **{GROUP_LABEL: "by-hand"})
    await cloud.create(NODE_GROUP, "north", {"matchLabels": {"site": "north"}, "topologyEnabled": True})
    await becomes(lambda: label(cloud, "gw-1"), "north")
    await cloud.client.patch(NODE, "", "gw-1", {"metadata": {"labels": {"site": None}}}, content_type=MERGE_PATCH)
    await becomes(lambda: label(cloud, "gw-1"), None)
    await becomes(lambda: label(cloud, "gw-1", ZONE), None)

    await cloud.client.patch(NODE, "", "gw-1", {"metadata": {"labels": {"site": "north"}}}, content_type=MERGE_PATCH)
    await becomes(lambda: label(cloud, "gw-1"), "north")
    assert FINALIZER in (await cloud.client.get(NODE_GROUP, "", "north"))["metadata"]["finalizers"]
    await cloud.client.delete(NODE_GROUP, "", "north")
    await becomes(lambda: absent(cloud, NODE_GROUP, "north"), True)
    assert await label(cloud, "gw-1") is None
    assert await label(cloud, "gw-2") == "by-hand"


async def test_a_node_that_two_groups_want_stays_where_it_is(cloud: Cloud) -> None:
    await node(cloud, "gw-1")
    await cloud.create(NODE_GROUP, "b", {"nodes": ["gw-1"]})
    await becomes(lambda: label(cloud, "gw-1"), "b")
    await cloud.create(NODE_GROUP, "a", {"nodes": ["gw-1"]})

    async def why() -> str:
        found = (await cloud.client.get(NODE_GROUP, "", "a")).get("status") or {"nodeStatuses": []}
        return "".join(s.get("selectionStatusReason", "") for s in found["nodeStatuses"])

    await becomes(why, "belongs to group b")
    await cloud.client.delete(NODE_GROUP, "", "b")
    await becomes(lambda: label(cloud, "gw-1"), "a")


def manifest(name: str = "web") -> Json:
    container = {"name": "main", "image": "registry.example/mill/saw:1", "args": ["--slow"]}
    labels = {"app": name}
    pods = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pods}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def words(name: str = "words") -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}


def application(*manifests: Json, **groups: Json) -> Json:
    scope = {"targetNodeGroups": [{"name": name, "overriders": each} for name, each in groups.items()]}
    return {"workloadTemplate": {"manifests": list(manifests)}, "workloadScope": scope}


async def deployment(cloud: Cloud, name: str) -> Json:
    try:
        return await cloud.client.get(DEPLOYMENT, "default", name)
    except NotFound:
        return {}


async def conditions(cloud: Cloud, name: str = "shop") -> dict[str, str]:
    found = (await cloud.client.get(EDGE_APPLICATION, "default", name)).get("status") or {}
    return {s["identifier"]["name"]: s["conditions"] for s in found.get("workloadStatus", [])}


async def test_an_application_is_made_once_per_group_and_the_rest_once(cloud: Cloud) -> None:
    north = {"replicas": 3, "imageOverriders": [{"component": "Tag", "operator": "replace", "value": "2"}]}
    await cloud.create(EDGE_APPLICATION, "shop", application(manifest(), words(), north=north, south={}))

    wanted = {"web-north": "Processing", "web-south": "Processing", "words": "Available"}
    await becomes(lambda: conditions(cloud), wanted)
    found, other = await deployment(cloud, "web-north"), await deployment(cloud, "web-south")
    pods = found["spec"]["template"]["spec"]
    assert (found["spec"]["replicas"], pods["containers"][0]["image"]) == (3, "registry.example/mill/saw:2")
    assert pods["nodeSelector"] == {GROUP_LABEL: "north"}
    assert other["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/mill/saw:1"


async def test_what_an_application_loses_is_deleted_and_what_it_changes_is_changed(cloud: Cloud) -> None:
    await cloud.create(EDGE_APPLICATION, "shop", application(manifest(), words(), north={}, south={}))
    await becomes(lambda: absent(cloud, DEPLOYMENT, "web-south"), False)
    await becomes(lambda: absent(cloud, CONFIG_MAP, "words"), False)

    patch = {"spec": application(manifest(), north={"replicas": 4})}
    await cloud.client.patch(EDGE_APPLICATION, "default", "shop", patch, content_type=MERGE_PATCH)

    await becomes(lambda: absent(cloud, DEPLOYMENT, "web-south"), True)
    await becomes(lambda: absent(cloud, CONFIG_MAP, "words"), True)
    assert (await deployment(cloud, "web-north"))["spec"]["replicas"] == 4


async def test_what_somebody_deletes_is_made_again(cloud: Cloud) -> None:
    await cloud.create(EDGE_APPLICATION, "shop", application(manifest(), north={}))
    await becomes(lambda: absent(cloud, DEPLOYMENT, "web-north"), False)
    uid = (await deployment(cloud, "web-north"))["metadata"]["uid"]
    await cloud.client.delete(DEPLOYMENT, "default", "web-north")

    async def again() -> bool:
        return bool((await deployment(cloud, "web-north")).get("metadata", {}).get("uid", uid) != uid)

    await eventually(again)


async def test_it_is_available_when_its_pods_are_ready(cloud: Cloud) -> None:
    await cloud.create(EDGE_APPLICATION, "shop", application(manifest(), north={"replicas": 0}))
    await becomes(lambda: conditions(cloud), {"web-north": "Available"})


async def test_a_manifest_that_cannot_be_made_is_told_and_the_others_are_made(cloud: Cloud) -> None:
    theirs = {**words("theirs"), "metadata": {"name": "theirs"}}
    await cloud.client.create(CONFIG_MAP, "default", theirs)
    elsewhere = {**words(), "metadata": {"name": "words", "namespace": "kube-system"}}
    unknown = {"apiVersion": "saws.example/v1", "kind": "Saw", "metadata": {"name": "s"}}
    bad = {"envOverriders": [{"containerName": "nobody", "operator": "add", "value": []}]}
    rights = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "all"}}
    spec = application(manifest(), elsewhere, unknown, theirs, rights, words("good"), north=bad)
    await cloud.create(EDGE_APPLICATION, "shop", spec)

    async def said() -> str:
        events = (await cloud.client.list(EVENT, None, "default"))["items"]
        return " ".join(e["message"] for e in events if e["reason"] == "ManifestNotApplied")

    for text in (
        "no container nobody",
        "for namespace kube-system",
        "does not serve Saw",
        "to somebody else",
        "Role cannot",
    ):
        await eventually(lambda text=text: _contains(said, text))  # type: ignore[misc]
    await becomes(lambda: absent(cloud, CONFIG_MAP, "good"), False)


async def _contains(ask: Callable[[], Awaitable[str]], text: str) -> bool:
    return text in await ask()


@pytest.mark.parametrize(
    ("image", "component", "operator", "value", "wanted"),
    [
        ("registry.example/mill/saw:1", "Registry", "replace", "local:5000", "local:5000/mill/saw:1"),
        ("registry.example/mill/saw:1", "Registry", "remove", "", "mill/saw:1"),
        ("mill/saw", "Registry", "add", "local:5000", "local:5000/mill/saw"),
        ("mill/saw:1", "Repository", "replace", "mill/axe", "mill/axe:1"),
        ("mill/saw:1", "Repository", "add", "-arm", "mill/saw-arm:1"),
        ("mill/saw:1", "Tag", "add", "-arm", "mill/saw:1-arm"),
        ("mill/saw:1", "Tag", "remove", "", "mill/saw"),
        ("mill/saw", "Tag", "replace", "2", "mill/saw:2"),
        ("localhost/saw@sha256:ab", "Tag", "replace", "2", "localhost/saw:2"),
        ("saw:1", "Tag", "replace", "sha256:cd", "saw@sha256:cd"),
    ],
)
def test_one_part_of_an_image_is_changed(image: str, component: str, operator: str, value: str, wanted: str) -> None:
    change = {"component": component, "operator": operator, "value": value}
    assert overriders.image(image, change) == wanted


def made(**given: Any) -> Json:
    found: Json = overriders.made_for(manifest(), Target("north", "north", (), given))
    return found


def test_words_variables_amounts_and_labels_are_overridden() -> None:
    named = {"containerName": "main"}
    add, remove = {**named, "operator": "add"}, {**named, "operator": "remove"}
    found = made(
        argsOverriders=[{**remove, "value": ["--slow"]}, {**add, "value": ["--fast"]}],
        commandOverriders=[{**add, "value": ["saw"]}],
        envOverriders=[
            {**add, "value": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]},
            {**named, "operator": "replace", "value": [{"name": "A", "value": "2"}]},
            {**remove, "value": [{"name": "B"}]},
        ],
        resourcesOverriders=[{**named, "value": {"limits": {"cpu": "1"}}}],
        labelsOverriders=[{"operator": "add", "value": {"site": "north"}}],
        annotationsOverriders=[{"operator": "add", "value": {"note": "cold"}}],
    )
    pods = found["spec"]["template"]
    (container,) = pods["spec"]["containers"]
    assert (container["command"], container["args"]) == (["saw"], ["--fast"])
    assert (container["env"], container["resources"]) == ([{"name": "A", "value": "2"}], {"limits": {"cpu": "1"}})
    assert (pods["metadata"]["labels"], found["metadata"]["labels"]) == (
        {"app": "web", "site": "north"},
        {"site": "north"},
    )
    assert pods["metadata"]["annotations"] == found["metadata"]["annotations"] == {"note": "cold"}


def test_one_image_is_chosen_by_its_path_and_a_wrong_path_is_said() -> None:
    change = {"component": "Tag", "operator": "replace", "value": "7"}
    path = "/spec/template/spec/containers/0/image"
    found = made(imageOverriders=[{**change, "predicate": {"path": path}}])
    assert found["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":7")
    for wrong in ("/spec/template/spec/containers/9/image", "/spec/replicas", "nothing"):
        with pytest.raises(Unusable, match="no image at"):
            made(imageOverriders=[{**change, "predicate": {"path": wrong}}])


def test_nodes_by_labels_are_a_target_and_an_empty_selector_is_none() -> None:
    selector = {"matchLabels": {"arch": "arm"}, "matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
    (target,) = overriders.targets({"targetNodeLabels": [{"labelSelector": selector}, {"labelSelector": {}}]})
    found = overriders.made_for(manifest(), target)
    pods = found["spec"]["template"]["spec"]
    (term,) = pods["affinity"]["nodeAffinity"][overriders.REQUIRED]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "arch", "operator": "In", "values": ["arm"]},
        {"key": "gpu", "operator": "Exists"},
    ]
    assert found["metadata"]["name"] == f"web-{target.name}"
