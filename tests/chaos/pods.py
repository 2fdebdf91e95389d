"""Seeded outages around a gateway with pods: whatever is cut or killed, no pod is restarted by the platform.

The judge asks the runtime itself (ids and pids of what runs) and compares what the cloud shows with what the node has.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from edgecore.pods.cri import CriRuntime
from edgecore.pods.runtime import State
from kubeapi.kinds import POD
from proto.kit.clock import SystemClock
from tests.kit import fleet
from tests.kit.containerd import Host
from tests.kit.gateway import gateway
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

Json = dict[str, Any]
NODE = "gw-1"
HEAL_S = 45.0  # after the last fault, everything must be equal within this
KEEP_ALIVE_S = 2  # a half-open link is noticed in 3 s
TASKS = "io.containerd.runtime.v2.task/k8s.io"  # where containerd keeps each task's pid
CHECK = {"exec": {"command": ["test", "-e", "/notes/here"]}, "periodSeconds": 1, "failureThreshold": 2}
NOTES = [{"name": "notes", "mountPath": "/notes"}]
WRITES = "touch /notes/here; while true; do date > /notes/now; sleep 0.2; done"
LISTENS = "while true; do echo here | nc -l -p 8080; done"


def objects() -> list[Json]:
    """Pods of several kinds, all of which run until somebody stops them, but for one that has ended."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pin"}, "stringData": {"pin": "1234"}}
    reads = [{"name": "pin", "mountPath": "/pin"}]
    probed = fleet.container("main", "sh", "-c", WRITES, volumeMounts=NOTES, livenessProbe=CHECK, readinessProbe=CHECK)
    listens = fleet.container(
        "main", "sh", "-c", LISTENS, startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    )
    from_secret = {"name": "PIN", "valueFrom": {"secretKeyRef": {"name": "pin", "key": "pin"}}}
    made = [
        fleet.pod("plain"),
        fleet.pod("probed", probed, volumes=[{"name": "notes", "emptyDir": {}}]),
        fleet.pod("listens", listens),
        fleet.pod(
            "secretive",
            fleet.container(volumeMounts=reads, env=[from_secret]),
            volumes=[{"name": "pin", "secret": {"secretName": "pin"}}],
        ),
        fleet.pod("sidecar", initContainers=[fleet.container("side", restartPolicy="Always")]),
        fleet.pod("host", hostNetwork=True),
        fleet.pod("ended", fleet.container("main", "true"), restartPolicy="Never"),
    ]
    for each in made:
        each["spec"]["nodeName"] = NODE
    web = fleet.workload("Deployment", "web", fleet.template("web"), replicas=3)
    return [secret, *made, web, fleet.workload("DaemonSet", "agent", fleet.template("agent"))]


PODS = 7 + 3 + 1


@dataclass(frozen=True)
class Life:
    """One running container: what changes when it is restarted."""

    container_id: str
    pid: int


@dataclass
class PodVerdict:
    """What was found after the cycles."""

    cycles: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.restarted


@dataclass
class PodSite:
    """Cloud, gateway and pods that run there."""

    platform: Platform
    edge: Edge
    host: Host
    stack: AsyncExitStack
    lives: dict[str, Life] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    async def build(cls, folder: Path) -> Self:
        """Start everything and wait until each pod is as it shall stay."""
        async with AsyncExitStack() as stack:
            keep_alive = f"link.keep_alive_s={KEEP_ALIVE_S}"
            platform = await stack.enter_async_context(Platform(folder, cloud_sets=(keep_alive,)))
            await platform.start_cloud()
            edge = await stack.enter_async_context(gateway(platform, folder / "h", NODE, keep_alive))
            assert edge.host is not None
            site = cls(platform, edge, edge.host, stack)
            await platform.kube.apply(*map(in_default, objects()))
            await site.settled()
            site.lives = await site.living()
            site.stack = stack.pop_all()
            return site

    async def close(self) -> None:
        await self.stack.aclose()

    async def living(self) -> dict[str, Life]:
        """Every running container by ``pod/container``, as the runtime and the kernel know it."""
        runtime = CriRuntime(self.host.socket, SystemClock())
        try:
            found = [one for one in await runtime.containers() if one.state == State.RUNNING]
        finally:
            await runtime.close()
        return {
            f"{one.labels['io.kubernetes.pod.name']}/{one.name}": Life(
                one.id, int((self.host.folder / "run" / TASKS / one.id / "init.pid").read_text())
            )
            for one in found
        }

    async def settled(self) -> None:
        """Wait until every pod is well and the cloud shows what the node has."""
        last = ""

        async def equal() -> bool:
            nonlocal last
            last = await self._differs()
            return not last

        try:
            await eventually(equal, HEAL_S)
        except AssertionError as error:
            tails = f"{self.edge.process.tail(20)}\n{self.platform.cloud.tail(10)}"
            raise AssertionError(f"after {self.faults}: {last}\n{tails}") from error

    async def _differs(self) -> str:
        """What is not as it shall be; "" for nothing."""
        try:
            node = await self.platform.kube.get(f"/api/v1/nodes/{NODE}")
            shown = {pod["metadata"]["name"]: pod for pod in await self.platform.kube.list(path())}
        except Exception as error:  # noqa: BLE001  a cloud that is just coming up is asked again
            return f"the cloud does not answer: {error}"
        if not is_ready(node):
            return f"the node is not Ready: {node['status']['conditions'][-1]}"
        held = {pod["metadata"]["name"]: pod for pod in await asyncio.to_thread(self.edge.objects, POD)}
        if len(shown) != PODS or set(shown) != set(held):
            return f"the cloud has {sorted(shown)}, the node {sorted(held)}"
        for name, pod in shown.items():
            if plain(pod) != plain(held[name]):
                return f"{name}: the cloud shows {plain(pod)}, the node has {plain(held[name])}"
            if not (is_ready(pod) or pod["status"]["phase"] == "Succeeded"):
                return f"{name} is not well: {pod['status']}"
        return ""

    async def judge(self, verdict: PodVerdict) -> None:
        """Count every container that is not the one it was, by the runtime, and every restart that the cloud shows."""
        now = await self.living()
        changed = {name for name in {*now, *self.lives} if now.get(name) != self.lives.get(name)}
        for pod in await self.platform.kube.list(path()):
            statuses = [*pod["status"]["containerStatuses"], *pod["status"].get("initContainerStatuses", [])]
            changed |= {f"{pod['metadata']['name']}/{s['name']} shown" for s in statuses if s["restartCount"]}
        verdict.restarted += [f"{name} after {self.faults}" for name in sorted(changed)]
        self.lives = now


def plain(pod: Json) -> Json:
    """What the node says of a pod: without what only the cloud says, in an order of its own."""
    status = pod.get("status") or {}
    conditions = {c["type"]: {k: v for k, v in c.items() if v is not None} for c in status.get("conditions") or []}
    return {**status, "qosClass": "", "conditions": {k: v for k, v in conditions.items() if k != "PodScheduled"}}


def path() -> str:
    return "/api/v1/namespaces/default/pods"


def in_default(one: Json) -> Json:
    return {**one, "metadata": {**one["metadata"], "namespace": "default"}}


def is_ready(one: Json) -> bool:
    conditions = (one.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def cut(site: PodSite, for_s: float) -> None:
    site.edge.cut()
    await asyncio.sleep(for_s)
    site.edge.mend()


async def half_open(site: PodSite, for_s: float) -> None:
    site.edge.pause_link()
    await asyncio.sleep(for_s)
    site.edge.mend()


async def cloud_killed(site: PodSite, for_s: float) -> None:
    await site.platform.kill_cloud()
    await asyncio.sleep(for_s)
    await site.platform.start_cloud()


async def edge_killed(site: PodSite, for_s: float) -> None:
    await site.edge.kill()
    await asyncio.sleep(for_s)
    await site.edge.start()


async def runtime_killed(site: PodSite, for_s: float) -> None:
    await site.host.kill()
    await asyncio.sleep(for_s)
    await site.host.start()


async def runtime_hangs(site: PodSite, for_s: float) -> None:
    await site.host.pause()
    await asyncio.sleep(for_s)
    site.host.resume()


async def all_killed(site: PodSite, for_s: float) -> None:
    """Nothing but the containers is left; the edge comes back first, and its cloud last."""
    site.edge.cut()
    await site.edge.kill()
    await site.host.kill()
    await site.platform.kill_cloud()
    await asyncio.sleep(for_s)
    await site.edge.start()
    await site.host.start()
    await site.platform.start_cloud()
    site.edge.mend()


Fault = Callable[[PodSite, float], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (cut, half_open, cloud_killed, edge_killed, runtime_killed, runtime_hangs, all_killed)
}


async def cycle(site: PodSite, seed: int, least_s: float, most_s: float, verdict: PodVerdict) -> None:
    """One outage, or two after each other, by the seed; then everything heals and is judged. Raises on no convergence.

    The first cycles take one fault after the other, so that few of them have met every kind.
    """
    rng = random.Random(seed)
    names = sorted(FAULTS)
    site.faults = [names[seed % len(names)], *rng.sample(names, rng.randint(0, 1))]
    for name in site.faults:
        await FAULTS[name](site, rng.uniform(least_s, most_s) / len(site.faults))
        verdict.faults[name] = verdict.faults.get(name, 0) + 1
    await site.edge.connected(HEAL_S)
    await site.settled()
    await site.judge(verdict)
    verdict.cycles += 1
