"""A gateway without a container runtime: edgecore runs pods itself; they outlive it, and come back after a power cut without a cloud."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgecore.pods import cgroups, poddirs
from edgecore.pods.resources import CGROUPS
from tests.kit import images
from tests.kit.gateway import gateway, power_cut, words
from tests.kit.kubectl import VERSIONS, Kubectl
from tests.kit.leftovers import with_children
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

Json = dict[str, Any]
NODE = "gw-1"
SETTINGS = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "settings", "namespace": "default"},
    "data": {"greeting": "from the config map"},
}
COLD_PODS = 20
COLD_S = 5.0
LOADED_RATIO = 15.0  # of as many bare processes of the same kind, where this machine is too busy for the goal


def pod(name: str, script: str, **fields: Any) -> Json:
    container = {
        "name": "main",
        "image": images.BUSYBOX_REF,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        **fields,
    }
    volumes = [{"name": "settings", "configMap": {"name": "settings"}}] if "volumeMounts" in fields else []
    spec = {"nodeName": NODE, "terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


class Site:
    def __init__(self, platform: Platform, edge: Edge, folder: Path) -> None:
        self.platform, self.edge = platform, edge
        self._kubectl = Kubectl(VERSIONS[-1], platform.kubeconfig, folder / "home")

    async def say(self, words: str, stdin: str = "") -> str:
        done = await asyncio.to_thread(self._kubectl.run, words, stdin)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    async def container(self, name: str) -> Json:
        found = await self.platform.kube.find(f"/api/v1/namespaces/default/pods/{name}") or {}
        status: Json = ((found.get("status") or {}).get("containerStatuses") or [{}])[0]
        return status

    async def ready(self, name: str, restarts: int = 0) -> Json:
        async def is_ready() -> bool:
            found = await self.container(name)
            return bool(found.get("ready")) and found["restartCount"] == restarts

        try:
            await eventually(is_ready, 40.0)
        except AssertionError as error:
            raise AssertionError(f"{await self.say(f'describe pod {name}')}\n{self.edge.process.tail()}") from error
        return await self.container(name)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        async with gateway(platform, tmp_path / "h", NODE, runtime="process") as edge:
            await platform.kube.apply(SETTINGS)
            yield Site(platform, edge, tmp_path)


async def test_a_pod_lives_as_on_any_runtime(site: Site) -> None:
    script = (
        "echo begun; echo $(cat /settings/greeting); touch /tmp/live; trap 'exit 3' TERM; while :; do sleep 0.1; done"
    )
    probe = {"exec": {"command": ["test", "-e", "/tmp/live"]}, "periodSeconds": 1}
    mounts = [{"name": "settings", "mountPath": "/settings"}]
    await site.platform.kube.apply(pod("lives", script, readinessProbe=probe, volumeMounts=mounts))

    await site.ready("lives")
    assert await site.say("logs lives") == "begun\nfrom the config map\n"
    assert await site.say("exec lives -- cat /settings/greeting") == "from the config map"
    assert await site.say("exec -i lives -- cat", "through\n") == "through\n"

    await site.say("exec lives -- kill 1")
    again = await site.ready("lives", restarts=1)
    assert again["lastState"]["terminated"]["exitCode"] == 3

    await site.say("delete pod lives")
    assert not list((site.edge.data_dir / "process" / "sandboxes").glob("*/record.json"))


async def test_pods_outlive_edgecore(site: Site) -> None:
    await site.platform.kube.apply(pod("stays", "while :; do echo tick; sleep 0.2; done"))
    before = await site.ready("stays")

    await site.edge.kill()
    await site.edge.start()
    await site.edge.connected()
    await site.platform.kube.apply(pod("later", "sleep 1000"))
    await site.ready("later")

    assert (await site.container("stays"))["containerID"] == before["containerID"]
    assert "tick" in await site.say("logs stays --tail=1")


async def test_a_reset_leaves_nothing_of_pods_on_the_machine(site: Site) -> None:
    host = site.edge.host
    assert host is not None
    await site.platform.kube.apply(pod("last", "sleep 1000"))
    await site.ready("last")
    found = await site.platform.kube.find("/api/v1/namespaces/default/pods/last") or {}
    before = await asyncio.to_thread(host.run, "sh", "-c", "ip -o link; nft list tables")
    plans = poddirs.plans_home(site.edge.data_dir)
    assert ("skerry0" in before, "ip skerry" in before, plans is not None and any(plans.iterdir())) == (True,) * 3

    await site.edge.stop()
    reset = ("edgecore", "reset", "--yes", "--data-dir", str(site.edge.data_dir))
    await asyncio.to_thread(host.run, sys.executable, "-m", *reset)

    after = await asyncio.to_thread(host.run, "sh", "-c", "ip -o link; nft list tables")
    assert [line.split(":")[1].strip() for line in after.splitlines()] == ["lo"]
    assert not [
        folder for root in cgroups.hierarchies() for folder in root.glob(f"{CGROUPS}/**/pod{found['metadata']['uid']}")
    ]
    assert not (site.edge.data_dir / "process").exists()
    assert plans is None or not plans.exists()


@pytest.mark.timeout(180)
async def test_after_a_power_cut_twenty_pods_run_soon_without_a_cloud(site: Site) -> None:
    names = [f"cold-{n}" for n in range(COLD_PODS)]
    command_line = f"sleep {1_000_000 + os.getpid()}"
    await site.platform.kube.apply(*(pod(name, command_line) for name in names))
    for name in names:
        await site.ready(name)
    await site.edge.drained()
    await site.platform.kill_cloud()
    await power_cut(site.edge)

    began = time.monotonic()
    await site.edge.start()

    def running() -> int:
        return len(with_children(lambda pid: words(pid) == command_line))

    await eventually(lambda: running() == COLD_PODS, 30.0)
    took_s = time.monotonic() - began
    bare_s = await asyncio.to_thread(bare)
    print(json.dumps({"cold_boot_s": took_s, "bare_s": bare_s}))
    assert took_s <= max(COLD_S, LOADED_RATIO * bare_s), (took_s, bare_s)


def bare() -> float:
    """As many bare supervisors and namespaces, two at a time, in seconds."""
    python = [sys.executable, "-I", "-S", "-E", "-c", "import json, os, selectors, signal, socket, struct"]
    space = ["bwrap", "--unshare-pid", "--unshare-ipc", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda argv: subprocess.run(argv, check=True), [python, space] * COLD_PODS))
    return time.monotonic() - began
