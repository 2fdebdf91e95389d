"""Every file in deploy/examples does what it says, on two gateways with containerd and without a registry."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit import images
from tests.kit.gateway import gateway
from tests.kit.kubectl import VERSIONS, Kubectl
from tests.kit.platform import Edge, Platform, command
from tests.kit.wait import eventually

EXAMPLES = Path(__file__).parents[2] / "deploy/examples"
STATIC = "28-static-pod"  # its place is a folder of the gateway
SOON_S = 40.0
Json = dict[str, Any]


class Site:
    """What the checks use."""

    def __init__(self, platform: Platform, edge: Edge, home: Path) -> None:
        self.platform, self.edge = platform, edge
        self._kubectl = Kubectl(VERSIONS[-1], platform.kubeconfig, home)

    async def say(self, words: str) -> str:
        done = await asyncio.to_thread(self._kubectl.run, words)
        assert done.returncode == 0, f"kubectl {words}: {done.stdout}{done.stderr}{await self._around()}"
        return done.stdout

    async def _around(self) -> str:
        shown = [(await asyncio.to_thread(self._kubectl.run, f"get {what}")).stdout for what in ("pods", "events")]
        return "\n".join([*shown, *(edge.process.tail() for edge in self.platform.edges.values())])

    async def shows(self, words: str, text: str) -> None:
        """Wait until a command says something."""

        async def said() -> bool:
            done = await asyncio.to_thread(self._kubectl.run, words)
            return text in done.stdout

        try:
            await eventually(said, SOON_S)
        except AssertionError as error:
            raise AssertionError(f"kubectl {words} never says {text!r}\n{await self._around()}") from error

    async def reports(self, device: str, name: str) -> None:
        await eventually(lambda: self.edge.reported(device, name) is not None, SOON_S)

    async def inside(self, url: str) -> str:
        """GET from the gateway's own network."""
        code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
        process = await asyncio.create_subprocess_exec(
            *prefix(self.edge), sys.executable, "-c", code, url, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode()


def prefix(edge: Edge) -> list[str]:
    """What comes before a command that shall run on the gateway."""
    return edge.process.argv[: edge.process.argv.index("--") + 1]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Platform(tmp_path) as platform, AsyncExitStack() as stack:
        await platform.start_cloud()
        for name in ("gw-1", "gw-2"):
            opened = gateway(platform, tmp_path / f"host-{name}", name, "local_api.pod_address=169.254.20.1")
            edge = await stack.enter_async_context(opened)
            await bring_images(edge)
        yield Site(platform, platform.edges["gw-1"], tmp_path)


async def bring_images(edge: Edge) -> None:
    """As a person without a registry does."""
    socket = next(word for word in edge.process.argv if word.startswith("pods.cri_socket="))
    archives = [str(images.archive(f"{name}-example")) for name in ("busybox", "python")]
    await command("edgecore", "images", "import", "--data-dir", str(edge.data_dir), "--set", socket, *archives)


async def boiler(site: Site) -> None:
    await site.reports("boiler", "temperature")


async def host_gateway(site: Site) -> None:
    await site.reports("gateway", "load1")


async def press(site: Site) -> None:
    await site.shows("get device press -o jsonpath={.spec.nodeName}", "gw-1")


async def faults(site: Site) -> None:
    await site.reports("pressure", "pressure")


async def pod(site: Site) -> None:
    await site.say("wait --for=condition=Ready pod/web --timeout=40s")
    assert "hello from the edge" in await site.say("exec web -- cat /www/index.html")
    assert (await site.say("exec web -- sh -c 'echo $PASSWORD $NODE'")).split() == ["change-me", "gw-1"]


async def deployment(site: Site) -> None:
    await site.shows("get events", "didn't match Pod's node affinity/selector")
    await site.say("label node gw-1 skerry.example/line=north")
    await site.say("rollout status deployment/counter --timeout=40s")
    assert await nodes_of(site, "app=counter") == ["gw-1", "gw-1"]


async def node_groups(site: Site) -> None:
    for hall, nodes in {"north": ["gw-1", "gw-1"], "south": ["gw-2"]}.items():
        await site.shows("get deployments -o name", f"deployment.apps/greeter-hall-{hall}")
        await site.say(f"rollout status deployment/greeter-hall-{hall} --timeout=40s")
        await site.shows(f"logs -l hall={hall}", f"hello hall {hall}")
        assert await nodes_of(site, f"hall={hall}") == nodes


async def daemon_set(site: Site) -> None:
    await site.say("rollout status daemonset/watch-load --timeout=40s")
    assert await nodes_of(site, "app=watch-load") == ["gw-1", "gw-2"]
    await site.shows("logs -l app=watch-load --prefix", "gw-2 load")


async def stateful_set(site: Site) -> None:
    await site.say("rollout status statefulset/journal --timeout=40s")
    before = await nodes_of(site, "app=journal")
    await site.say("delete pod journal-0")
    await site.shows("exec journal-0 -- wc -l /data/starts", "2 /data/starts")
    assert await nodes_of(site, "app=journal") == before


async def job(site: Site) -> None:
    await site.say("wait --for=condition=Complete job/checksum --timeout=40s")
    said = await site.say("logs -l app=checksum --tail=-1")
    assert sorted(line.split()[1] for line in said.splitlines()) == ["0", "1", "2"]


async def cron_job(site: Site) -> None:
    await site.say("create job --from=cronjob/rotate rotate-now")
    await site.say("wait --for=condition=Complete job/rotate-now --timeout=40s")
    assert "rotated" in await site.say("logs job/rotate-now")
    assert set(await nodes_of(site, "app=rotate")) == {"gw-1"}


async def service(site: Site) -> None:
    await site.say("rollout status deployment/panel --timeout=40s")
    (name,) = (item["metadata"]["name"] for item in await pods_of(site, "app=panel"))
    await site.shows("get --raw /api/v1/namespaces/default/services/panel:http/proxy/", name)
    bridge = (await pods_of(site, "app=panel"))[0]["status"]["podIP"].rpartition(".")[0] + ".1"
    assert name in await site.inside(f"http://{bridge}:8088/")


async def static_pod(site: Site) -> None:
    await site.shows("logs lamp-gw-1", "on")
    (site.edge.data_dir / "manifests" / f"{STATIC}.yaml").unlink()
    await site.say("wait --for=delete pod/lamp-gw-1 --timeout=40s")


async def device_and_app(site: Site) -> None:
    await site.shows("logs thermostat", "kiln at")
    site.edge.cut()
    await eventually(lambda: newest_log(site.edge, "thermostat").count("kiln at") > 5, SOON_S)
    site.edge.mend()
    await site.edge.connected()


def newest_log(edge: Edge, pod_name: str) -> str:
    return "".join(file.read_text() for file in (edge.data_dir / "logs").glob(f"default_{pod_name}_*/*/*.log"))


async def pods_of(site: Site, selector: str) -> list[Json]:
    found: list[Json] = json.loads(await site.say(f"get pods -l {selector} -o json"))["items"]
    return found


async def nodes_of(site: Site, selector: str) -> list[str]:
    return sorted(item["spec"]["nodeName"] for item in await pods_of(site, selector))


CHECKS: dict[str, Callable[[Site], Awaitable[None]]] = {
    "01-simulated-boiler": boiler,
    "02-host-gateway": host_gateway,
    "03-mqtt-press": press,
    "10-simulated-faults": faults,
    "20-pod": pod,
    "21-deployment": deployment,
    "22-node-groups": node_groups,
    "23-daemonset": daemon_set,
    "24-statefulset": stateful_set,
    "25-job": job,
    "26-cronjob": cron_job,
    "27-service": service,
    STATIC: static_pod,
    "29-device-and-app": device_and_app,
}


def test_every_example_has_a_check() -> None:
    assert sorted(CHECKS) == sorted(file.stem for file in EXAMPLES.glob("*.yaml"))


@pytest.mark.timeout(180)
async def test_every_example_does_what_it_says(site: Site) -> None:
    for name in CHECKS:
        if name == STATIC:
            shutil.copy(EXAMPLES / f"{name}.yaml", site.edge.data_dir / "manifests")
        else:
            await site.say(f"apply -f {EXAMPLES / name}.yaml")
    for check in CHECKS.values():
        await check(site)
