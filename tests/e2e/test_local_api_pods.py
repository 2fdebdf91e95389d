"""The technician at a gateway without a link: a pod made there runs there and stays the same one when the cloud has it; its
own client works in it; logs, exec and port-forward need no cloud (LOCAL-1, LOCAL-2, LOCAL-8)."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.containerd import Host
from tests.kit.gateway import gateway
from tests.kit.images import BUSYBOX_REF
from tests.kit.kubectl import VERSIONS, Kubectl
from tests.kit.leftovers import ip
from tests.kit.platform import Edge, Platform, command
from tests.kit.terminal import open_terminal, work_at
from tests.kit.wait import eventually

NODE = "gw-1"
POD_ADDRESS = "169.254.20.1"
READER = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reader", "namespace": "default"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader", "namespace": "default"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    },
]
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
ASK = """
import json, ssl, sys, urllib.request
url, ca, token = sys.argv[1:]
asked = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
try:
    answer = urllib.request.urlopen(asked, context=ssl.create_default_context(cafile=ca), timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps({"status": answer.status, "body": json.loads(answer.read())}))
"""
SHAKE = """
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as sock, context.wrap_socket(sock):
        print("served")
except ConnectionError:
    print("refused")
"""


def pod(name: str, *words: str) -> dict[str, Any]:
    container = {"name": "main", "image": BUSYBOX_REF, "imagePullPolicy": "IfNotPresent", "command": list(words)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 1, "containers": [container]},
    }


class Site:
    def __init__(self, platform: Platform, edge: Edge, here: Kubectl) -> None:
        self.platform, self.edge, self.here = platform, edge, here

    async def ask(self, url: str, ca: Path, token: str) -> dict[str, Any]:
        """GET from the gateway's own network."""
        prefix = self.edge.process.argv[: self.edge.process.argv.index("--") + 1]
        argv = [*prefix, sys.executable, "-c", ASK, url, str(ca), token]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(process.communicate(), 20)
        found: dict[str, Any] = json.loads(out)
        return found

    async def say(self, words: str, stdin: str = "") -> str:
        done = await asyncio.to_thread(self.here.run, words, stdin)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    async def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.say(f"get pod {name} -o json"))
        return found

    async def runs(self, name: str) -> bool:
        return bool((await self.pod(name)).get("status", {}).get("phase") == "Running")

    async def in_cloud(self, name: str) -> dict[str, Any]:
        return await self.platform.kube.find(f"/api/v1/namespaces/default/pods/{name}") or {}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        async with gateway(platform, tmp_path / "h", NODE, f"local_api.pod_address={POD_ADDRESS}") as edge:
            await platform.kube.apply(*READER, pod("waits", "sleep", "1000"))
            config = tmp_path / "edge.kubeconfig"
            words = (
                "--data-dir",
                str(edge.data_dir),
                "--set",
                f"local_api.port={edge.local_port}",
                "--out",
                str(config),
            )
            await command("edgecore", "kubectl-config", *words)
            site = Site(platform, edge, Kubectl(VERSIONS[-1], config, tmp_path / "home"))
            await eventually(lambda: site.runs("waits"), 30)
            yield site


async def test_a_gateway_without_a_link_is_worked_with_as_a_cluster_is(site: Site, tmp_path: Path) -> None:
    site.edge.cut()
    first = await made_here(site)
    await reached(site, tmp_path)
    await asked_from_inside(site, tmp_path)
    await kept_from_neighbours(site, tmp_path)
    site.edge.mend()
    await site.edge.connected()
    await the_same_one_later(site, first)
    await deleted_here(site)


async def made_here(site: Site) -> dict[str, Any]:
    """It runs at once, with a token of its own."""
    await site.say("create -f -", json.dumps(pod("local", "sh", "-c", "echo begun; exec sleep 1000")))
    await eventually(lambda: site.runs("local"), 30)
    found = await site.pod("local")
    assert (found["status"]["containerStatuses"][0]["restartCount"], found["spec"]["nodeName"]) == (0, NODE)
    assert await site.in_cloud("local") == {}
    return found


async def reached(site: Site, folder: Path) -> None:
    await site.say("wait --for=condition=Ready pod/local --timeout=20s")
    assert await site.say("logs local") == "begun\n"
    assert await site.say("exec local -- echo hello") == "hello\n"
    assert await site.say("exec -i local -- cat", "through\n") == "through\n"
    assert "Started" in await site.say("get events")
    async with open_terminal(
        site.here.argv("exec -it local -- sh"), rows=33, columns=101, env=site.here.environment(None)
    ) as person:
        await work_at(person)
        person.type("exit 7\n")
        assert await asyncio.wait_for(person.process.wait(), 10) == 7
    (folder / "there").write_text("as it was")
    await site.say(f"cp {folder / 'there'} local:/tmp/copied")
    await site.say(f"cp local:/tmp/copied {folder / 'back'}")
    assert (folder / "back").read_text() == "as it was"


async def asked_from_inside(site: Site, folder: Path) -> None:
    """What InClusterConfig reads in the pod is enough, from the pod's network, for what its account may do and no more."""
    host, port, token, ca = [
        (await site.say(f"exec local -- {words}")).strip()
        for words in (
            "sh -c 'echo $KUBERNETES_SERVICE_HOST'",
            "sh -c 'echo $KUBERNETES_SERVICE_PORT'",
            f"cat {TOKEN_FOLDER}/token",
            f"cat {TOKEN_FOLDER}/ca.crt",
        )
    ]
    assert host == POD_ADDRESS
    await site.say(f"exec local -- sh -c 'echo | nc -w 5 {host} {port}'")
    (folder / "ca.crt").write_text(ca)
    pods = f"https://{host}:{port}/api/v1/namespaces/default"
    listed = await site.ask(f"{pods}/pods", folder / "ca.crt", token)
    assert {item["metadata"]["name"] for item in listed["body"]["items"]} == {"local", "waits"}
    assert (await site.ask(f"{pods}/secrets", folder / "ca.crt", token))["status"] == 403
    assert (await site.ask(f"{pods}/pods", folder / "ca.crt", token[:-4] + "AAAA"))["status"] == 401


async def kept_from_neighbours(site: Site, folder: Path) -> None:
    """A machine that routes the pods' address to the gateway is not served there; the pods and the gateway are (LOCAL-18)."""
    host = site.edge.host
    assert host is not None
    port = (await site.say("exec local -- sh -c 'echo $KUBERNETES_SERVICE_PORT'")).strip()
    next_door = Host(folder / "neighbour")
    await next_door.open()
    try:
        ip(
            "link",
            "add",
            "lan0",
            "netns",
            str(host.pid),
            "type",
            "veth",
            "peer",
            "name",
            "lan0",
            "netns",
            str(next_door.pid),
        )
        for each, address in ((host, "192.0.2.1/24"), (next_door, "192.0.2.2/24")):
            each.run("ip", "address", "add", address, "dev", "lan0")
            each.run("ip", "link", "set", "lan0", "up")
        next_door.run("ip", "route", "add", POD_ADDRESS, "via", "192.0.2.1")
        next_door.run("busybox", "ping", "-c", "1", "-W", "5", POD_ADDRESS)
        served = {who: await shakes_hands(pid, port) for who, pid in places(host, next_door).items()}
        assert served == {"a pod": "served", "the gateway": "served", "a neighbour": "refused"}
    finally:
        await next_door.close()


def places(host: Host, next_door: Host) -> dict[str, int]:
    """A process in the network of each."""
    waits = [pid for pid in host.processes() if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\0001000\0"]
    return {"a pod": waits[0], "the gateway": host.pid, "a neighbour": next_door.pid}


async def shakes_hands(pid: int, port: str) -> str:
    argv = ["nsenter", f"--target={pid}", "--net", "--", sys.executable, "-c", SHAKE, POD_ADDRESS, port]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    return out.decode().strip()


async def the_same_one_later(site: Site, first: dict[str, Any]) -> None:
    """The cloud gets the pod and its status under its own uid; the container is the one that was started offline."""

    async def known() -> bool:
        there = await site.in_cloud("local")
        return bool((there.get("status") or {}).get("phase") == "Running")

    await eventually(known, 30)
    here, there = await site.pod("local"), await site.in_cloud("local")
    assert here["metadata"]["uid"] == first["metadata"]["uid"] != there["metadata"]["uid"]
    containers = [each["status"]["containerStatuses"][0]["containerID"] for each in (first, here, there)]
    assert len(set(containers)) == 1
    assert here["status"]["containerStatuses"][0]["restartCount"] == 0


async def deleted_here(site: Site) -> None:
    await site.say("delete pod local")

    async def gone() -> bool:
        return not await site.in_cloud("local")

    await eventually(gone, 30)
