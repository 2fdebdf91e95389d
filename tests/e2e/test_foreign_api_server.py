"""cloudcore at an API server that is not its own, with the documented rights: pods, the ways into them, offline writes and twins.

That server is another process with a CA, an order of address types and a client certificate as kubeadm's have them; it
places no pods.
"""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudcore.certs import Authority
from cloudcore.kubelet.access import API_SERVER
from cloudcore.settings import Api
from kubeapi.kubelet import KubeletAccess
from proto.kit import daemon
from proto.kit.clock import SystemClock
from tests.e2e.test_cloud_on_other_parts import grant_documented_rights, reported
from tests.kit.cloud import bare_api
from tests.kit.devices import MODEL, oven, report
from tests.kit.gateway import gateway
from tests.kit.images import BUSYBOX_REF
from tests.kit.kube import Kube
from tests.kit.kubectl import Kubectl
from tests.kit.platform import Edge, Platform, command
from tests.kit.ports import free_port
from tests.kit.process import Daemon
from tests.kit.wait import eventually

NODE = "gw-1"
SUBNET = "10.93.0.0/16"
ORDER = ("InternalIP", "ExternalIP", "Hostname")  # kubeadm's
SCRIPT = "cat /etc/menu/dish; echo; while true; do echo served | nc -l -p 8080; done"
Json = dict[str, Any]
MENU: Json = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "menu", "labels": {"edge.skerry.io/node": NODE}},
    "data": {"dish": "soup", "price": "4", "waiter": "none"},
}


def pod(name: str, **spec: Any) -> Json:
    mount = {"name": "menu", "mountPath": "/etc/menu"}
    container = {"name": "main", "image": BUSYBOX_REF, "command": ["sh", "-c", SCRIPT], "volumeMounts": [mount]}
    volumes = [{"name": "menu", "configMap": {"name": "menu"}}]
    fields = {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": fields}


# The foreign API server


async def serve(folder: Path) -> None:
    """Serve until killed; the administrator's kubeconfig and one without rights are in ``folder``."""
    authority = Authority.open_or_create(folder / "pki", SystemClock())
    pair = authority.client_certificate("kubelet-client", API_SERVER, groups=())
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as most API servers ask kubelets
    context.load_cert_chain(pair.cert, pair.key)
    options = Api(host="127.0.0.1", port=0, controllers=False)
    async with bare_api(folder, options, KubeletAccess(context, ORDER)) as kubeconfig:
        daemon.ready("foreign", {"kubeconfig": str(kubeconfig)})
        await asyncio.Event().wait()


@asynccontextmanager
async def foreign_api(folder: Path) -> AsyncIterator[Path]:
    """Run that server; yields the administrator's kubeconfig."""
    server = Daemon("foreign", ["tests.e2e.test_foreign_api_server", str(folder)], folder.with_suffix(".log"))
    try:
        await server.start()
        yield Path(server.addresses["kubeconfig"])
    finally:
        await server.kill()


# The site


@dataclass
class Site:
    platform: Platform
    edge: Edge
    office: Kubectl  # the administrator at the foreign API server
    here: Kubectl  # the technician at the gateway's own API
    folder: Path

    async def pod(self, name: str = "web") -> Json:
        found = await self.platform.kube.find(f"/api/v1/namespaces/default/pods/{name}")
        return found or {}


async def said(kubectl: Kubectl, words: str, *docs: Json) -> str:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": docs})
    done = await asyncio.to_thread(kubectl.run, words, text)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@asynccontextmanager
async def cloud_with_documented_rights(folder: Path, kubeconfig: Path) -> AsyncIterator[Platform]:
    sets = ("kubelet.advertise=localhost", f"kubelet.client_ca={kubeconfig.parent / 'pki' / 'ca.crt'}")
    plain = ("--kubeconfig", str(kubeconfig.with_name("plain.kubeconfig")))
    async with Platform(folder, cloud_sets=sets, cloud_args=plain) as platform:
        platform._kube = Kube(kubeconfig)
        await command("cloudcore", "crds", "apply", "--kubeconfig", str(kubeconfig))
        await grant_documented_rights(kubeconfig)
        await platform.start_cloud()
        yield platform


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with (
        foreign_api(tmp_path / "cluster") as kubeconfig,
        cloud_with_documented_rights(tmp_path, kubeconfig) as platform,
        gateway(platform, tmp_path / "h", NODE, subnet=SUBNET) as edge,
    ):
        config = tmp_path / "edge.kubeconfig"
        words = ("--data-dir", str(edge.data_dir), "--set", f"local_api.port={edge.local_port}", "--out", str(config))
        await command("edgecore", "kubectl-config", *words)
        office = Kubectl("1.31", kubeconfig, tmp_path / "home-office")
        here = Kubectl("1.31", config, tmp_path / "home-here")
        yield Site(platform, edge, office, here, tmp_path)


@pytest.mark.timeout(180)
async def test_a_foreign_api_server_has_pods_with_all_ways_into_them_offline_writes_and_twins(site: Site) -> None:
    await said(site.office, "apply -f -", MENU, pod("web", nodeName=NODE), pod("nowhere"), MODEL, oven())
    await said(site.office, "wait --for=condition=Ready pod/web --timeout=40s")
    await status_is_told(site)
    await events_are_told(site)
    await containers_are_reached(site)
    await a_port_is_forwarded(site)
    await a_twin_works_both_ways(site)
    await writes_of_an_outage_are_applied(site)
    await the_conflict_has_both_versions(site)
    await a_deleted_pod_leaves(site)
    log = await asyncio.to_thread(site.platform.cloud.log.read_text)
    assert "forbidden" not in log.lower()


async def status_is_told(site: Site) -> None:
    status = (await site.pod())["status"]
    (main,) = status["containerStatuses"]
    assert (status["phase"], main["ready"], main["restartCount"]) == ("Running", True, 0)
    assert main["containerID"].startswith("containerd://")
    assert status["podIP"].startswith("10.93.")
    assert (await site.pod("nowhere"))["spec"].get("nodeName") is None  # nobody places pods here
    node = await site.platform.kube.get(f"/api/v1/nodes/{NODE}")
    assert node["status"]["addresses"] == [{"type": "Hostname", "address": "localhost"}]
    kubelet = site.platform.cloud.addresses["kubelet"]
    assert kubelet.endswith(f":{node['status']['daemonEndpoints']['kubeletEndpoint']['Port']}")


async def events_are_told(site: Site) -> None:
    async def told() -> bool:
        events = await said(site.office, "events --for pod/web")
        return all(reason in events for reason in ("Pulled", "Created", "Started"))

    await eventually(told, 20)


async def containers_are_reached(site: Site) -> None:
    assert await said(site.office, "logs web") == "soup\n"
    assert await said(site.office, "exec web -- cat /etc/menu/price") == "4"
    refused = await asyncio.to_thread(site.office.run, "exec web -- sh -c 'exit 7'")
    assert refused.returncode == 7
    source, back = site.folder / "source", site.folder / "back"
    source.write_bytes(bytes(range(256)) * 400)
    await said(site.office, f"cp {source} web:/tmp/blob")
    await said(site.office, f"cp web:/tmp/blob {back}")
    assert back.read_bytes() == source.read_bytes()


async def a_port_is_forwarded(site: Site) -> None:
    port = free_port()
    argv = site.office.argv(f"port-forward web {port}:8080")
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, env=site.office.environment(None))
    assert process.stdout is not None
    async with asyncio.timeout(20):
        await process.stdout.readline()
    answer = await asyncio.to_thread(ask, port)
    process.terminate()
    await process.wait()
    assert answer == b"served\n"


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.settimeout(10)
        return sock.recv(100)


async def a_twin_works_both_ways(site: Site) -> None:
    await said(site.office, "apply -f -", oven(target="900"))
    await eventually(lambda: site.edge.desired("kiln", "target") == "900", 20)
    await report(site.edge.mqtt_port, temperature="812")

    async def arrived() -> bool:
        return await reported(site.platform) == "812"

    await eventually(arrived, 20)


async def writes_of_an_outage_are_applied(site: Site) -> None:
    """One object is made at the gateway, one is changed; there the office changes another key and one of the same."""
    before = (await site.pod())["status"]["containerStatuses"]
    site.edge.cut()
    await said(site.here, 'patch configmap menu --type=merge -p \'{"data":{"dish":"stew"}}\'')
    await said(site.here, 'patch configmap menu --type=merge -p \'{"data":{"waiter":"bob"}}\'')
    await said(site.here, "create configmap shift --from-literal=who=ann")
    await said(site.office, 'patch configmap menu --type=merge -p \'{"data":{"price":"5","waiter":"eve"}}\'')
    assert await said(site.office, "get configmap menu -o jsonpath={.data.dish}") == "soup"
    site.edge.mend()
    await site.edge.connected(30)
    await eventually(lambda: both_have_both(site), 30)
    assert (await site.pod())["status"]["containerStatuses"] == before  # nothing was restarted


async def the_conflict_has_both_versions(site: Site) -> None:
    (conflict,) = json.loads(await said(site.office, "get writeconflicts -A -o json"))["items"]
    spec = conflict["spec"]
    assert (spec["outcome"], spec["target"]["name"]) == ("conflict", "menu")
    assert (spec["mine"]["data"]["waiter"], spec["theirs"]["data"]["waiter"]) == ("bob", "eve")


async def both_have_both(site: Site) -> bool:
    words = "get configmap menu shift --ignore-not-found -o jsonpath={.items[*].data}"
    wanted = [{"dish": "stew", "price": "5", "waiter": "eve"}, {"who": "ann"}]
    shown = [await said(kubectl, words) for kubectl in (site.office, site.here)]
    return shown == [" ".join(json.dumps(each, separators=(",", ":")) for each in wanted)] * 2


async def a_deleted_pod_leaves(site: Site) -> None:
    await said(site.office, "delete pod web --timeout=30s")
    assert await site.pod() == {}

    async def gone_here() -> bool:
        return await said(site.here, "get pod web --ignore-not-found -o name") == ""

    await eventually(gone_here, 20)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
