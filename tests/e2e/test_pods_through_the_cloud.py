"""A pod applied in the cloud runs on a gateway's containerd, survives everything between them, and leaves when it is deleted."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.containerd import Host, hosted
from tests.kit.platform import Edge, Platform
from tests.kit.pods import container
from tests.kit.wait import eventually

Json = dict[str, Any]
PODS = "/api/v1/namespaces/default/pods"
NODE = "/api/v1/nodes/gw-1"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hosted(tmp_path_factory.mktemp("host") / "h", subnet="10.92.0.0/16") as one:
        yield one


@pytest.fixture
async def site(host: Host, tmp_path: Path) -> AsyncIterator[tuple[Platform, Edge]]:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        yield platform, await platform.add_edge("gw-1", "pods.runtime=cri", f"pods.cri_socket={host.socket}")


def pod(name: str, *containers: Json, grace_s: int = 1, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": "gw-1",
            "containers": list(containers) or [container()],
            "terminationGracePeriodSeconds": grace_s,
            **spec,
        },
    }


async def status(platform: Platform, name: str) -> Json:
    found = await platform.kube.find(f"{PODS}/{name}")
    return (found or {}).get("status") or {}


async def ready(platform: Platform, *names: str, timeout_s: float = 30.0) -> None:
    async def all_ready() -> bool:
        for name in names:
            conditions = (await status(platform, name)).get("conditions") or []
            if not any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                return False
        return True

    await eventually(all_ready, timeout_s)


async def lives(platform: Platform, *names: str) -> list[tuple[str, int]]:
    """What a restart would change."""
    found = [await status(platform, name) for name in names]
    return [(s["containerID"], s["restartCount"]) for one in found for s in one["containerStatuses"]]


async def condition(platform: Platform, kind: str) -> Json:
    node = await platform.kube.find(NODE) or {}
    conditions = (node.get("status") or {}).get("conditions") or []
    found: Json = next((c for c in conditions if c["type"] == kind), {})
    return found


async def _is_true(platform: Platform, kind: str) -> bool:
    return (await condition(platform, kind)).get("status") == "True"


async def test_a_pod_runs_is_told_with_its_events_and_leaves_when_deleted(site: tuple[Platform, Edge]) -> None:
    platform, _ = site
    await platform.kube.apply(pod("web"))
    await ready(platform, "web")
    found = await status(platform, "web")

    async def reasons() -> set[str]:
        events = await platform.kube.list("/api/v1/namespaces/default/events")
        return {e["reason"] for e in events if e["involvedObject"]["name"] == "web"}

    await eventually(lambda: _has(reasons, {"Pulled", "Created", "Started"}))
    await platform.kube.delete(f"{PODS}/web")
    await eventually(lambda: _gone(platform, "web"), 20)

    assert found["phase"] == "Running"
    assert found["podIP"].startswith("10.92.")
    assert found["containerStatuses"][0]["containerID"].startswith("containerd://")


async def _has(reasons: Any, wanted: set[str]) -> bool:
    return bool(wanted <= await reasons())


async def _gone(platform: Platform, name: str) -> bool:
    return await platform.kube.find(f"{PODS}/{name}") is None


async def test_the_node_tells_its_runtime_its_room_and_its_images(site: tuple[Platform, Edge]) -> None:
    platform, _ = site

    async def told() -> Json:
        node = await platform.kube.find(NODE) or {}
        found: Json = node.get("status") or {}
        return found if found.get("images") else {}

    found = await eventually(told, 20)

    assert found["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://1.")
    assert (found["capacity"]["pods"], found["allocatable"]["pods"]) == ("110", "110")
    assert any("localhost/skerry/busybox:1" in image["names"] for image in found["images"])


async def test_cuts_and_kills_of_everything_restart_no_pod(host: Host, site: tuple[Platform, Edge]) -> None:
    platform, edge = site
    names = ["one", "two", "three"]
    await platform.kube.apply(*(pod(name) for name in names))
    await ready(platform, *names)
    before = await lives(platform, *names)

    edge.cut()
    await edge.kill()
    await edge.start()
    await host.kill()
    await host.start()
    edge.mend()
    await platform.kill_cloud()
    await platform.start_cloud()
    await platform.kube.apply(pod("last"))
    await ready(platform, "last", *names, timeout_s=60)

    assert await lives(platform, *names) == before
    await eventually(lambda: _is_true(platform, "Ready"), 30)


async def test_a_pod_deleted_while_the_node_is_away_ends_when_it_returns(site: tuple[Platform, Edge]) -> None:
    platform, edge = site
    await platform.kube.apply(pod("web"))
    await ready(platform, "web")

    edge.cut()
    await platform.kube.delete(f"{PODS}/web")
    still = await platform.kube.find(f"{PODS}/web")
    edge.mend()
    await eventually(lambda: _gone(platform, "web"), 30)

    assert still is not None
    assert still["metadata"]["deletionTimestamp"]


async def test_a_static_pod_has_a_mirror_whose_deletion_does_not_stop_it(site: tuple[Platform, Edge]) -> None:
    platform, edge = site
    manifest = pod("fixed")
    del manifest["spec"]["nodeName"]
    folder = edge.data_dir / "manifests"
    folder.mkdir(exist_ok=True)
    (folder / "fixed.json").write_text(json.dumps(manifest))
    await ready(platform, "fixed-gw-1")
    before = await lives(platform, "fixed-gw-1")

    await platform.kube.delete(f"{PODS}/fixed-gw-1?gracePeriodSeconds=0")
    await ready(platform, "fixed-gw-1")

    assert await lives(platform, "fixed-gw-1") == before
    (folder / "fixed.json").unlink()
    await eventually(lambda: _gone(platform, "fixed-gw-1"), 20)
