"""The Debian packages on a booted system: install, run, crash, reboot and remove, as on a real gateway."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import images
from tests.kit.machine import Machine, machine
from tests.kit.wait import eventually

ROOT = Path(__file__).parents[2]
KUBECTL = ("kubectl", "--kubeconfig", "/var/lib/skerry/cloud/admin.kubeconfig", "--cache-dir", "/tmp/kubectl")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deb")
    subprocess.run([sys.executable, "-m", "deploy.deb.build", "--out", str(out)], cwd=ROOT, check=True, timeout=300)
    return out


def install(gateway: Machine, packages: Path) -> None:
    for package in packages.glob("*.deb"):
        (gateway.root / "srv" / package.name).write_bytes(package.read_bytes())
        gateway.run("dpkg", "-i", f"/srv/{package.name}", timeout_s=120)


async def active(gateway: Machine, unit: str) -> None:
    def is_active() -> bool:
        return gateway.property(unit, "ActiveState") == "active"

    try:
        await eventually(is_active, 40.0)
    except AssertionError as error:
        raise AssertionError(gateway.journal(unit)) from error


async def join(gateway: Machine) -> None:
    await active(gateway, "cloudcore")
    token = gateway.run("cloudcore", "token", "create", "--node", "gw-1").split()[-1]
    gateway.run("edgecore", "join", "--cloud", "https://127.0.0.1:10002", "--token", token, "--node", "gw-1")
    gateway.run("systemctl", "start", "edgecore")
    await active(gateway, "edgecore")


async def ready(gateway: Machine) -> None:
    def is_ready() -> bool:
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        return gateway.try_run(*KUBECTL, "get", "node", "gw-1", "-o", path).stdout == "True"

    try:
        await eventually(is_ready, 40.0)
    except AssertionError as error:
        said = gateway.try_run(*KUBECTL, "describe", "node", "gw-1")
        raise AssertionError(f"{said.stdout}{said.stderr}\n{gateway.journal('edgecore')}") from error


def pod_manifest(name: str, **fields: object) -> str:
    container = {"name": "main", "image": images.BUSYBOX_REF, "command": ["sleep", "1000000"], **fields}
    spec = {"containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {**spec, "nodeName": "gw-1"}}
    return json.dumps(pod)


def apply(gateway: Machine, text: str) -> None:
    (gateway.root / "srv/manifest.json").write_text(text)
    gateway.run(*KUBECTL, "apply", "-f", "/srv/manifest.json")


def container_of(gateway: Machine, pod: str) -> str:
    """Return the id of the pod's running container, empty when there is none."""
    state = "jsonpath={.status.phase} {.status.containerStatuses[0].ready} {.status.containerStatuses[0].containerID}"
    words = gateway.try_run(*KUBECTL, "get", "pod", pod, "-o", state).stdout.split()
    return words[2] if words[:2] == ["Running", "true"] else ""


async def runs(gateway: Machine, pod: str) -> str:
    try:
        return await eventually(lambda: container_of(gateway, pod), 40.0)
    except AssertionError as error:
        said = gateway.try_run(*KUBECTL, "describe", "pod", pod)
        raise AssertionError(f"{said.stdout}{said.stderr}\n{gateway.journal('edgecore')}") from error


async def leaves_no_cgroup(gateway: Machine) -> None:
    """The hardened daemon weighs a pod by what it asks for, and takes its cgroups away with it."""
    apply(gateway, pod_manifest("weighed", resources={"requests": {"cpu": "500m"}}))
    await runs(gateway, "weighed")
    uid = gateway.run(*KUBECTL, "get", "pod", "weighed", "-o", "jsonpath={.metadata.uid}")

    def found() -> list[str]:
        return gateway.run("find", "/sys/fs/cgroup", "-maxdepth", "4", "-name", f"pod{uid}").split()

    (cpu,) = [folder for folder in found() if folder.startswith("/sys/fs/cgroup/cpu/")]
    assert gateway.run("cat", f"{cpu}/cpu.shares") == "512\n"
    gateway.run(*KUBECTL, "delete", "pod", "weighed", "--grace-period=1")
    try:
        await eventually(lambda: not found(), 20.0)
    except AssertionError as error:
        raise AssertionError(f"{found()}\n{gateway.journal('edgecore')}") from error


def bring_images(gateway: Machine) -> None:
    for name in ("pause", "busybox"):
        (gateway.root / f"srv/{name}.tar").write_bytes(images.archive(name).read_bytes())
        gateway.run("edgecore", "images", "import", f"/srv/{name}.tar")


@pytest.mark.timeout(280)
async def test_a_gateway_lives_from_its_packages(packages: Path) -> None:
    async with machine(wanted=("containerd.service",)) as gateway:
        await gateway.boot()
        install(gateway, packages)
        assert gateway.property("edgecore", "ActiveState") == "inactive"  # not joined yet: it waits without failing
        await join(gateway)
        bring_images(gateway)
        await ready(gateway)
        apply(gateway, pod_manifest("survivor"))
        container = await runs(gateway, "survivor")

        await leaves_no_cgroup(gateway)
        gateway.run("systemctl", "kill", "--signal=SIGKILL", "edgecore")
        await eventually(lambda: gateway.property("edgecore", "NRestarts") == "1", 20.0)
        await active(gateway, "edgecore")
        await ready(gateway)
        assert await runs(gateway, "survivor") == container

        gateway.run("dpkg", "--purge", "skerry-edge", timeout_s=120)
        assert gateway.run("ctr", "-n", "k8s.io", "containers", "list", "-q").split() == []
        assert not (gateway.root / "var/lib/skerry/edge").exists()


@pytest.mark.timeout(280)
async def test_the_page_about_installing_is_followed(packages: Path) -> None:
    page = (ROOT / "docs/install.md").read_text()
    async with machine(wanted=("containerd.service",)) as gateway:
        await gateway.boot()
        install(gateway, packages)
        await active(gateway, "cloudcore")
        token = gateway.run("cloudcore", "token", "create", "--node", "gw-1").split()[-1]
        for script in re.findall(r"^```sh machine\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            gateway.run("env", f"TOKEN={token}", "CLOUD_HOST=127.0.0.1", "bash", "-euc", script, timeout_s=120)
