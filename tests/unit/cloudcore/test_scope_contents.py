"""What ConfigMaps and Secrets hold is in memory only while a node needs it (HUB-5)."""

from pathlib import Path
from typing import Any

import pytest

from cloudcore.kube.client import MERGE_PATCH
from cloudcore.kube.informer import Name
from cloudcore.kube.resources import CONFIG_MAP, NODE, POD, SECRET
from proto.kit import canonical
from proto.labels import EDGE_ROLE
from proto.link.replica import NotSynced
from tests.kit.cloud import Cloud, bare_api, hub_on, running
from tests.kit.wait import eventually

KEY = CONFIG_MAP.key("default", "site")
NAME = Name("default", "site")


async def prepare(cloud: Cloud) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-1", "labels": {EDGE_ROLE: ""}}}
    await cloud.client.create(NODE, "", node)
    for name in ("site", "other"):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "x" * 5000}}
        await cloud.client.create(CONFIG_MAP, "default", body)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"}, "stringData": {"k": "v"}}
    await cloud.client.create(SECRET, "default", secret)
    await eventually(lambda: Name("default", "pull") in cloud.cluster.of(SECRET).objects)
    await eventually(lambda: Name("default", "other") in cloud.cluster.of(CONFIG_MAP).objects)


async def run_pod(cloud: Cloud) -> None:
    sources = [{"configMapRef": {"name": "site"}}, {"secretRef": {"name": "pull"}}]
    container = {"name": "main", "image": "registry.example/web:1", "envFrom": sources}
    spec = {"nodeName": "gw-1", "containers": [container]}
    await cloud.client.create(POD, "default", {"metadata": {"name": "web"}, "spec": spec})


def content(cloud: Cloud, name: str = "site") -> Any:
    return (cloud.cluster.of(CONFIG_MAP).get("default", name) or {}).get("data")


def sent(cloud: Cloud, key: str = KEY) -> dict[str, Any] | None:
    try:
        body = cloud.hub.scope.body("gw-1", key)
    except NotSynced:
        return None
    return None if body is None else canonical.decode(body)


async def test_content_comes_with_the_pod_that_needs_it_and_goes_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        await prepare(cloud)
        assert content(cloud) is content(cloud, "other") is None

        await run_pod(cloud)
        await eventually(lambda: sent(cloud) is not None)
        assert (sent(cloud) or {})["data"] == {"k": "x" * 5000}
        await eventually(lambda: sent(cloud, SECRET.key("default", "pull")) is not None)
        assert canonical.digest(sent(cloud) or {}) == cloud.hub.scope.wanted("gw-1")[KEY]
        assert ("gw-1", KEY) in cloud.changes
        assert content(cloud, "other") is None

        await cloud.client.delete(POD, "default", "web", grace_s=0)
        await eventually(lambda: KEY not in cloud.hub.scope.wanted("gw-1"))
        assert content(cloud) is None


async def test_what_changed_while_nobody_needed_it_is_sent_as_it_is_now(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        await prepare(cloud)
        newer = await cloud.client.patch(CONFIG_MAP, "default", "site", {"data": {"k": "2"}}, content_type=MERGE_PATCH)
        await run_pod(cloud)
        await eventually(lambda: (sent(cloud) or {}).get("data") == {"k": "2"})

        patch = {"data": {"k": "3"}}
        await cloud.client.patch(CONFIG_MAP, "default", "site", patch, content_type=MERGE_PATCH)
        await eventually(lambda: (sent(cloud) or {}).get("data") == {"k": "3"})
        assert canonical.digest(sent(cloud) or {}) == cloud.hub.scope.wanted("gw-1")[KEY]
        assert newer["data"] == {"k": "2"}


async def test_a_node_is_never_sent_a_hollow_object_and_never_told_to_delete_one(tmp_path: Path) -> None:  # HUB-4
    async with running(tmp_path) as cloud:
        await prepare(cloud)
        await run_pod(cloud)
        await eventually(lambda: sent(cloud) is not None)
        wanted = cloud.hub.scope.wanted("gw-1")[KEY]

        cloud.cluster.of(CONFIG_MAP).shrink(NAME)

        assert cloud.hub.scope.wanted("gw-1")[KEY] == wanted
        with pytest.raises(NotSynced):
            cloud.hub.scope.body("gw-1", KEY)
        cloud.changes.clear()
        await eventually(lambda: ("gw-1", KEY) in cloud.changes)
        assert (sent(cloud) or {})["data"]


async def test_a_restarted_cloud_reads_what_pods_need_with_the_first_list(tmp_path: Path) -> None:
    async with bare_api(tmp_path) as kubeconfig:
        async with hub_on(kubeconfig) as cloud:
            await prepare(cloud)
            await run_pod(cloud)
            await eventually(lambda: sent(cloud) is not None)
        async with hub_on(kubeconfig, definitions=False) as cloud:
            assert sent(cloud) is not None
            assert content(cloud, "other") is None


async def test_an_object_that_is_gone_before_it_could_be_read_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        await prepare(cloud)
        await run_pod(cloud)
        await eventually(lambda: sent(cloud) is not None)
        await cloud.client.delete(CONFIG_MAP, "default", "site")
        await eventually(lambda: KEY not in cloud.hub.scope.wanted("gw-1"))
        assert cloud.hub.scope.body("gw-1", KEY) is None
        assert NAME not in cloud.cluster.of(CONFIG_MAP).hollow
