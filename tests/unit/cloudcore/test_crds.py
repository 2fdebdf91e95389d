"""Our definitions: installed where missing, updated where ours, left alone where somebody else's, with or without status."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudcore import crds
from cloudcore.kube import config
from cloudcore.kube.client import KubeClient
from cloudcore.kube.resources import CRD, DEVICE, DEVICE_STATUS
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from tests.kit.cloud import Cloud, bare_api, running, status_change
from tests.kit.wait import eventually

NAMES = {f"{kind}.devices.kubeedge.io" for kind in ("devices", "devicemodels", "devicestatuses")} | {
    "writeconflicts.edge.skerry.io",
    "nodegroups.apps.kubeedge.io",
    "edgeapplications.apps.kubeedge.io",
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[KubeClient]:
    async with bare_api(tmp_path) as kubeconfig:
        made = KubeClient(config.load(kubeconfig))
        yield made
        await made.close()


async def apply(client: KubeClient) -> dict[str, str]:
    done = await crds.apply(client, clock=SystemClock(), rng=Rng(1))
    return {item.name: item.action for item in done}


async def test_missing_definitions_are_made_and_a_second_time_changes_nothing(client: KubeClient) -> None:
    assert await apply(client) == dict.fromkeys(NAMES, "created")
    assert await apply(client) == dict.fromkeys(NAMES, "unchanged")


async def test_an_older_one_of_ours_is_updated_and_keeps_what_others_added(client: KubeClient) -> None:
    await apply(client)
    name = "devices.devices.kubeedge.io"
    patch = {"metadata": {"annotations": {crds.DIGEST: "older", "team": "mill"}}}
    await client.patch(CRD, "", name, patch, content_type="application/merge-patch+json")

    assert (await apply(client))[name] == "updated"
    annotations = (await client.get(CRD, "", name))["metadata"]["annotations"]
    assert annotations["team"] == "mill"
    assert annotations[crds.DIGEST] != "older"


def foreign(kind: str) -> dict[str, Any]:
    """A definition as another project installs it: not labelled ours, no status subresource."""
    (found,) = [d for d in crds.definitions() if d["spec"]["names"]["kind"] == kind]
    del found["metadata"]["labels"][crds.MANAGED_BY]
    for version in found["spec"]["versions"]:
        version.pop("subresources", None)
    return found


async def test_somebody_elses_definition_is_never_overwritten(client: KubeClient) -> None:
    await client.create(CRD, "", foreign("Device"))

    done = await crds.apply(client, clock=SystemClock(), rng=Rng(1))

    (kept,) = [item for item in done if item.action == "kept"]
    assert kept.name == "devices.devices.kubeedge.io"
    assert "without a status subresource" in kept.note
    found = await client.get(CRD, "", kept.name)
    assert not found["spec"]["versions"][0].get("subresources")


async def cloud_without_subresources(tmp_path: Path) -> None:
    async with bare_api(tmp_path) as kubeconfig:
        client = KubeClient(config.load(kubeconfig))
        for kind in ("Device", "DeviceStatus"):
            await client.create(CRD, "", foreign(kind))
        await client.close()


async def test_definitions_without_a_status_subresource_work(tmp_path: Path) -> None:
    await cloud_without_subresources(tmp_path)
    async with running(tmp_path) as cloud:
        device = await cloud.device("kiln")
        await eventually(lambda: cloud.hub.scope.devices("gw-1"))
        await cloud.hub.replica.connected("gw-1", 1)
        change = status_change("kiln", device["metadata"]["uid"], 1, extensions={"observedGeneration": 1})
        await cloud.hub.upstream.apply("gw-1", [change])

        async def shown() -> bool:
            return bool((await cloud.client.get(DEVICE, "default", "kiln")).get("status"))

        await eventually(shown)
        assert (await cloud.client.get(DEVICE_STATUS, "default", "kiln"))["status"]["state"] == "online"
        await settles(cloud)


async def settles(cloud: Cloud) -> None:
    """Every write makes a new generation there; writing on and on for that would never end."""
    seen: list[int] = []

    async def same() -> bool:
        generation = (await cloud.client.get(DEVICE, "default", "kiln"))["metadata"]["generation"]
        seen.append(generation)
        return len(seen) > 20 and seen[-20] == generation

    await eventually(same)
    assert seen[-1] < 10
