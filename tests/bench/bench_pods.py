"""From ``POST`` of a pod to Running at a watch, against the bare CRI calls of the same pod; one at a time and fifty at once.

    python -m tests.bench.bench_pods [--single 30] [--pods 50] [--rounds 5]

Real cloudcore, edgecore and containerd on one machine. Both sides take turns, so that whatever else runs here hits both.
``stages`` says where the time of one pod goes, in milliseconds at the median.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from edgecore.pods.settings import PodsSettings
from tests.bench.bare_cri import BareCri
from tests.bench.bench_reports import cpu_s
from tests.kit.gateway import gateway
from tests.kit.images import BUSYBOX_REF
from tests.kit.kube import Kube
from tests.kit.platform import Edge, Platform, command
from tests.kit.wait import eventually

NODE = "gw-1"
PODS = "/api/v1/namespaces/default/pods"
PATIENCE_S = 120.0
PARALLEL = PodsSettings().parallel
Seen = dict[str, dict[str, float]]  # name -> what was first seen -> wall clock


def pod(name: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": BUSYBOX_REF,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "100000"],
    }
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Watch:
    """What a watch of pods has shown, and when."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.seen: Seen = defaultdict(dict)
        self.writes: dict[str, int] = defaultdict(int)
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        async for event in self._kube.watch(PODS):
            now_s, found = time.time(), event["object"]
            name = found["metadata"]["name"]
            marks = {"added", *self._marks(found)} if event["type"] != "DELETED" else {"deleted"}
            for mark in marks:
                self.seen[name].setdefault(mark, now_s)
            self.writes[name] += 1
            async with self._changed:
                self._changed.notify_all()

    def _marks(self, found: Mapping[str, Any]) -> set[str]:
        status, out = found.get("status") or {}, set()
        if (found.get("spec") or {}).get("nodeName"):
            out.add("bound")
        if status.get("containerStatuses"):
            out.add("told")
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or [])
        if status.get("phase") == "Running" and ready:
            out.add("running")
        return out

    async def until(self, names: list[str], mark: str) -> None:
        """Wait until each of ``names`` was seen so."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: all(mark in self.seen[name] for name in names))


class Bench:
    """One gateway, its cloud, and both ways to a pod."""

    def __init__(self, platform: Platform, edge: Edge, local: Kube, bare: BareCri) -> None:
        self.kube, self.bare, self.platform, self.edge = platform.kube, bare, platform, edge
        self.above, self.below, self.below_watched = Watch(platform.kube), Watch(local), True

    def cpu(self) -> dict[str, float]:
        return {"cloudcore": cpu_s(self.platform.cloud.pid), "edgecore": cpu_s(self.edge.process.pid)}

    async def post(self, name: str) -> tuple[float, float]:
        began_s = time.time()
        await self.kube.create(PODS, pod(name))
        return began_s, time.time()

    async def remove(self, names: list[str]) -> None:
        for name in names:
            await self.kube.delete(f"{PODS}/{name}?gracePeriodSeconds=0")
        await self.above.until(names, "deleted")
        if self.below_watched:
            await self.below.until(names, "deleted")

        def gone() -> bool:
            return self.bare.sandboxes(NODE) == 1  # the pattern's

        await eventually(gone, PATIENCE_S)

    async def one(self, name: str) -> tuple[float, dict[str, float]]:
        """Make one pod; return the seconds to Running, and its stages."""
        began_s, answered_s = await self.post(name)
        await self.above.until([name], "running")
        above, below = self.above.seen[name], self.below.seen[name]
        uid = (await self.kube.get(f"{PODS}/{name}"))["metadata"]["uid"]
        made = await asyncio.to_thread(self.bare.stamps, uid)
        at = {
            "api answers": answered_s,
            "scheduler binds": above["bound"],
            "hub, link, edge stores": below["added"],
            "sandbox": made["sandbox"],
            "container made": made["created"],
            "container started": made["started"],
            "edge commits": below["running"],
            "status at the watch": above["running"],
        }
        stages, last_s = {}, began_s
        for stage, at_s in at.items():
            stages[stage] = at_s - last_s
            last_s = at_s
        return above["running"] - began_s, stages

    async def many(self, names: list[str]) -> float:
        """Make all at once; return the seconds until the last one was seen running."""
        began_s = time.time()
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self.post(name))
        await self.above.until(names, "running")
        return max(self.above.seen[name]["running"] for name in names) - began_s


async def singles(bench: Bench, count: int) -> dict[str, Any]:
    bare: list[dict[str, float]] = []
    ours: list[float] = []
    stages: dict[str, list[float]] = defaultdict(list)
    for number in range(-1, count):  # the first pair warms up
        made = await asyncio.to_thread(bench.bare.start)
        await asyncio.to_thread(bench.bare.remove_all)
        name = f"one-{number}"
        took_s, parts = await bench.one(name)
        await bench.remove([name])
        if number >= 0:
            bare.append(made)
            ours.append(took_s)
            for stage, part_s in parts.items():
                stages[stage].append(part_s)
    bare_ms = {call: _ms([one[call] for one in bare]) for call in bare[0]}
    return {
        "ratio": round(statistics.median(ours) / statistics.median(one["all"] for one in bare), 3),
        "bare_p50_ms": bare_ms.pop("all"),
        "p50_ms": _ms(ours),
        "bare_calls_ms": bare_ms,
        "stages_ms": {stage: _ms(parts) for stage, parts in stages.items()},
        "watch_events_per_pod": round(statistics.median(n for p, n in bench.above.writes.items() if p[:4] == "one-")),
        "samples": count,
    }


async def bursts(bench: Bench, pods: int, rounds: int) -> dict[str, Any]:
    bare, ours, ratios = [], [], []
    cpu: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        bare.append(await asyncio.to_thread(bench.bare.start_many, pods, PARALLEL))
        await asyncio.to_thread(bench.bare.remove_all)
        names = [f"burst-{number}-{one}" for one in range(pods)]
        before = bench.cpu()
        ours.append(await bench.many(names))
        for who, used_s in bench.cpu().items():
            cpu[who].append((used_s - before[who]) / pods)
        await bench.remove(names)
        ratios.append(ours[-1] / bare[-1])
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "bare_s": [round(one, 3) for one in bare],
        "s": [round(one, 3) for one in ours],
        "cpu_ms_per_pod": {who: _ms(used) for who, used in cpu.items()},
        "pods": pods,
        "parallel": PARALLEL,
    }


def _ms(seconds: list[float]) -> float:
    return round(1000 * statistics.median(seconds), 1)


async def local_kube(edge: Edge, folder: Path) -> Kube:
    """The technician at the node-local API."""
    config = folder / "edge.kubeconfig"
    port = f"local_api.port={edge.local_port}"
    await command("edgecore", "kubectl-config", "--data-dir", str(edge.data_dir), "--set", port, "--out", str(config))
    return Kube(config)


async def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {}
    async with Platform(folder) as platform:
        await platform.start_cloud()
        async with gateway(platform, folder / "h", NODE) as edge:
            assert edge.host is not None
            bare, local = BareCri(edge.host.socket), await local_kube(edge, folder)
            bench = Bench(platform, edge, local, bare)
            async with asyncio.TaskGroup() as group:
                watching = [group.create_task(watch.run()) for watch in (bench.above, bench.below)]
                await bench.post("pattern")
                await bench.above.until(["pattern"], "running")
                await bench.below.until(["pattern"], "running")
                found = await platform.kube.get(f"{PODS}/pattern")
                bare.learn(found["metadata"]["uid"])
                if args.single:
                    result["single"] = await singles(bench, args.single)
                watching.pop().cancel()  # the stages are known; fifty at once share two cores with whoever looks on
                bench.below_watched = False
                if args.rounds:
                    result["burst"] = await bursts(bench, args.pods, args.rounds)
                for task in watching:
                    task.cancel()
            await local.close()
            bare.close()
    return result


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--single", type=int, default=30, help="pods one at a time; 0: none")
    parser.add_argument("--pods", type=int, default=50, help="pods at once")
    parser.add_argument("--rounds", type=int, default=5, help="times that ``--pods`` start at once; 0: none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as folder:
        result: dict[str, Any] = uvloop.run(measure(Path(folder), args))
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
