"""A claim of class local-path from the cloud to a directory on its gateway, and back to nothing, also while the gateway is away."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.containerd import Host, hosted
from tests.kit.platform import Edge, Platform
from tests.kit.pods import container
from tests.kit.wait import eventually

Json = dict[str, Any]
NS = "/api/v1/namespaces/default"
VOLUMES = "/api/v1/persistentvolumes"
MOUNT = [{"name": "data", "mountPath": "/data"}]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hosted(tmp_path_factory.mktemp("host") / "h", subnet="10.94.0.0/16") as one:
        yield one


@pytest.fixture
async def site(host: Host, tmp_path: Path) -> AsyncIterator[tuple[Platform, Edge]]:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        yield platform, await platform.add_edge("gw-1", "pods.runtime=cri", f"pods.cri_socket={host.socket}")


def claim() -> Json:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    metadata = {"name": "data", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def writer() -> Json:
    """A pod for which the scheduler chooses the node."""
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    command = ("sh", "-c", "echo kept > /data/file; exec sleep 1000")
    spec = {
        "containers": [container(command=command, volumeMounts=MOUNT)],
        "volumes": volumes,
        "terminationGracePeriodSeconds": 1,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer", "namespace": "default"}, "spec": spec}


async def written(platform: Platform, edge: Edge) -> Path:
    """Make a claim and the pod that writes into it; return the directory at the gateway."""
    await platform.kube.apply(claim(), writer())
    folder = edge.data_dir / "local-path"
    await eventually(lambda: list(folder.glob("pvc-*/file")), 40)
    (file,) = folder.glob("pvc-*/file")
    await eventually(lambda: file.read_text() == "kept\n")
    return file.parent


async def no_volume(platform: Platform) -> bool:
    return await platform.kube.list(VOLUMES) == []


async def no_pod(platform: Platform) -> bool:
    return await platform.kube.find(f"{NS}/pods/writer") is None


async def test_a_claim_is_deleted_with_its_data_and_the_volume_goes_when_the_gateway_says_so(
    site: tuple[Platform, Edge],
) -> None:  # HUB-12
    platform, edge = site
    directory = await written(platform, edge)
    (made,) = await platform.kube.list(VOLUMES)
    assert "edge.skerry.io/local-path" in made["metadata"]["finalizers"]

    await platform.kube.delete(f"{NS}/persistentvolumeclaims/data")
    await platform.kube.delete(f"{NS}/pods/writer")

    await eventually(lambda: no_volume(platform), 20)
    assert not directory.exists()


async def test_a_volume_waits_for_a_gateway_that_is_away(site: tuple[Platform, Edge]) -> None:  # HUB-12
    platform, edge = site
    directory = await written(platform, edge)
    await platform.kube.delete(f"{NS}/pods/writer")
    await eventually(lambda: no_pod(platform), 20)
    await edge.stop()
    await platform.kube.delete(f"{NS}/persistentvolumeclaims/data")

    async def going() -> bool:
        return all("deletionTimestamp" in v["metadata"] for v in await platform.kube.list(VOLUMES))

    await eventually(going, 20)
    assert not await no_volume(platform)
    assert (directory / "file").read_text() == "kept\n"

    await edge.start()
    await eventually(lambda: no_volume(platform), 30)
    assert not directory.exists()
