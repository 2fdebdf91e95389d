"""kubectl in the office, containers on a gateway behind NAT: logs, exec, cp, attach, port-forward and figures by the one MQTT connection."""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.gateway import gateway
from tests.kit.images import BUSYBOX_REF
from tests.kit.kubectl import Kubectl
from tests.kit.platform import Edge, Platform, command
from tests.kit.ports import free_port
from tests.kit.wait import eventually

NODE = "gw-1"
SCRIPT = "n=0; while true; do echo line $n; n=$((n+1)); sleep 0.1; done"


def pod(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": BUSYBOX_REF, "imagePullPolicy": "IfNotPresent", "command": list(command)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


class Site:
    def __init__(self, platform: Platform, edge: Edge, kubectl: Kubectl, folder: Path) -> None:
        self.platform, self.edge, self.kubectl, self.folder = platform, edge, kubectl, folder

    async def runs(self, name: str) -> bool:
        found = await self.platform.kube.find(f"/api/v1/namespaces/default/pods/{name}")
        return ((found or {}).get("status") or {}).get("phase") == "Running"

    async def say(self, command: str, stdin: str = "") -> str:
        done = await asyncio.to_thread(self.kubectl.run, command, stdin)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        async with gateway(platform, tmp_path / "h", NODE) as edge:
            await platform.kube.apply(pod("talks", "sh", "-c", SCRIPT), pod("waits", "sh", "-c", "cat; sleep 1000"))
            kubectl = Kubectl("1.31", platform.kubeconfig, tmp_path / "home")
            site = Site(platform, edge, kubectl, tmp_path)
            await eventually(lambda: site.runs("talks"), 30)
            await eventually(lambda: site.runs("waits"), 30)
            yield site


async def test_kubectl_reaches_containers_behind_the_link(site: Site) -> None:
    first = (await site.say("logs talks --tail=1")).strip()
    assert first.startswith("line ")
    assert await site.say("exec waits -- echo hello") == "hello\n"
    assert await site.say("exec -i waits -- cat", "through\n") == "through\n"
    refused = await asyncio.to_thread(site.kubectl.run, "exec waits -- sh -c 'exit 7'")
    assert refused.returncode == 7
    await copies_both_ways(site)
    await follows(site, "logs -f --tail=1 talks")
    await follows(site, "attach talks")
    await forwards(site)
    await figures(site)
    await doctors(site)
    await refusals(site)


async def doctors(site: Site) -> None:
    cloud = await command("cloudcore", "doctor", "--data-dir", str(site.platform.cloud_dir))
    assert f"the API server reaches {NODE}" in cloud
    assert (await site.edge.status())["link"]["streams"] == ""


async def copies_both_ways(site: Site) -> None:
    source, back = site.folder / "blob", site.folder / "back"
    source.write_bytes(os.urandom(5_000_000))
    await site.say(f"cp {source} waits:/tmp/blob")
    await site.say(f"cp waits:/tmp/blob {back}")
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()


async def follows(site: Site, command: str) -> None:
    argv = site.kubectl.argv(command)
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, env=site.kubectl.environment(None))
    assert process.stdout is not None
    async with asyncio.timeout(20):
        lines = [await process.stdout.readline() for _ in range(12)]
    numbers = [int(line.split()[1]) for line in lines if line.startswith(b"line ")][:10]
    assert numbers == list(range(numbers[0], numbers[0] + 10))
    process.terminate()
    await process.wait()


async def forwards(site: Site) -> None:
    await site.platform.kube.apply(pod("serves", "sh", "-c", "while true; do echo served | nc -l -p 8080; done"))
    await eventually(lambda: site.runs("serves"), 30)
    port = free_port()
    argv = site.kubectl.argv(f"port-forward serves {port}:8080")
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, env=site.kubectl.environment(None))
    assert process.stdout is not None
    async with asyncio.timeout(20):
        await process.stdout.readline()
    said = await asyncio.to_thread(ask, port)
    process.terminate()
    await process.wait()
    assert said == b"served\n"


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.settimeout(10)
        return sock.recv(100)


async def figures(site: Site) -> None:
    summary = json.loads(await site.say(f"get --raw /api/v1/nodes/{NODE}/proxy/stats/summary"))
    assert summary["node"]["nodeName"] == NODE
    assert {p["podRef"]["name"] for p in summary["pods"]} >= {"talks", "waits"}
    text = await site.say(f"get --raw /api/v1/nodes/{NODE}/proxy/metrics/resource")
    assert 'container_memory_working_set_bytes{container="main",namespace="default",pod="talks"}' in text
    top = await site.say("top pod")
    assert {line.split()[0] for line in top.splitlines()[1:]} >= {"talks", "waits"}
    assert NODE in await site.say("top node")


async def refusals(site: Site) -> None:
    previous = await asyncio.to_thread(site.kubectl.run, "logs -p talks")
    assert 'previous terminated container "main" in pod "talks" not found' in previous.stderr
    await site.edge.kill()
    await eventually(lambda: away(site), 30)


async def away(site: Site) -> bool:
    done = await asyncio.to_thread(site.kubectl.run, "logs talks --tail=1")
    return f"node {NODE} is not connected to the cloud" in done.stderr
