"""Pods of edge nodes in a cluster that would evict them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcore.controllers.autonomy import TAINTS, autonomy_s, tolerations
from cloudcore.kube.client import MERGE_PATCH
from cloudcore.kube.resources import NODE, POD
from cloudcore.settings import Api, Nodes, Settings
from kubeapi.controllers import sites
from proto.kit.errors import UsageError
from proto.labels import AUTONOMY_DURATION, EDGE_ROLE
from tests.kit.cloud import QUICK, Cloud, bare_api, hub_on
from tests.kit.wait import eventually

FOREIGN = Settings(nodes=Nodes(away_after_s=0.0, settle_s=0.0), api=Api(kubeconfig="elsewhere"))
NOT_READY, UNREACHABLE = TAINTS


def by_taint(found: list[Any]) -> dict[str, int | None]:
    return {each["key"]: each.get("tolerationSeconds") for each in found if each.get("key") in TAINTS}


async def make(cloud: Cloud, node: str, *, edge: bool) -> None:
    labels = {EDGE_ROLE: ""} if edge else {}
    await cloud.client.create(
        NODE, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}
    )
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "registry.example/web:1"}]}
    spec["tolerations"] = [
        {"key": NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        {"key": "theirs", "operator": "Exists"},
    ]
    metadata = {"name": f"on-{node}"}
    await cloud.client.create(POD, "default", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


async def tolerated(cloud: Cloud, node: str) -> dict[str, int | None]:
    found = await cloud.client.get(POD, "default", f"on-{node}")
    return by_taint(found["spec"]["tolerations"])


async def test_a_cluster_that_cannot_see_a_node_never_evicts_its_pods(tmp_path: Path) -> None:  # HUB-11
    async with bare_api(tmp_path, QUICK.api) as kubeconfig, hub_on(kubeconfig, FOREIGN) as cloud:
        await make(cloud, "gw-1", edge=True)
        await make(cloud, "rack-1", edge=False)

        async def for_ever() -> bool:
            return await tolerated(cloud, "gw-1") == {NOT_READY: None, UNREACHABLE: None}

        await eventually(for_ever)
        assert (await tolerated(cloud, "rack-1"))[NOT_READY] == 300
        assert {"key": "theirs", "operator": "Exists"} in (await cloud.client.get(POD, "default", "on-gw-1"))["spec"][
            "tolerations"
        ]


async def test_the_autonomy_annotation_gives_an_end_when_it_changes(tmp_path: Path) -> None:
    async with bare_api(tmp_path, QUICK.api) as kubeconfig, hub_on(kubeconfig, FOREIGN) as cloud:
        await make(cloud, "gw-1", edge=True)
        patch = {"metadata": {"annotations": {AUTONOMY_DURATION: "24h"}}}
        await cloud.client.patch(NODE, "", "gw-1", patch, content_type=MERGE_PATCH)

        async def a_day() -> bool:
            return await tolerated(cloud, "gw-1") == {NOT_READY: 86_400, UNREACHABLE: 86_400}

        await eventually(a_day)


async def test_our_own_api_is_left_to_its_own_controller(tmp_path: Path) -> None:
    async with bare_api(tmp_path, QUICK.api) as kubeconfig, hub_on(kubeconfig) as cloud:
        assert cloud.hub.autonomy is None


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("0", None), ("0s", None), ("24h", 86_400), ("1h30m", 5400)])
def test_an_autonomy_duration_is_read_as_openyurt_writes_it(text: str, seconds: int | None) -> None:
    assert autonomy_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86_400), ("1h30m", 5400), ("2d", 172_800), ("1m500ms", 60.5), (" 90s ", 90)]
)
def test_the_embedded_api_reads_the_same_time_as_cloudcore_beside_another_one(text: str, seconds: float) -> None:
    node = {"metadata": {"annotations": {AUTONOMY_DURATION: text}}}
    assert sites.autonomy_s(node) == seconds
    assert autonomy_s(text.strip()) == int(seconds)


def test_an_autonomy_duration_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError):
        autonomy_s("soon")


TOLERATIONS = st.lists(
    st.fixed_dictionaries(
        {"operator": st.sampled_from(["Exists", "Equal"])},
        optional={
            "key": st.sampled_from([*TAINTS, "other"]),
            "effect": st.sampled_from(["NoExecute", "NoSchedule"]),
            "tolerationSeconds": st.integers(0, 600),
        },
    ),
    max_size=5,
)


@given(TOLERATIONS, st.none() | st.integers(1, 10_000))
def test_nothing_but_the_time_of_a_toleration_is_changed_and_doing_it_again_changes_nothing(
    before: list[Any], seconds: int | None
) -> None:
    after = tolerations(before, seconds)

    untimed = [{k: v for k, v in each.items() if k != "tolerationSeconds"} for each in after]
    assert all({k: v for k, v in each.items() if k != "tolerationSeconds"} in untimed for each in before)
    assert tolerations(after, seconds) == after
    assert len(after) <= len(before) + len(TAINTS)
