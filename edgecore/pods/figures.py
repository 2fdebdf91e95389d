"""What this node and its pods use: kubelet's Summary (`/stats/summary`) and Prometheus text (`/metrics/resource`)."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgecore.pods.marks import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID
from edgecore.pods.runtime import Container, ContainerRuntime, Filesystem, NoSuch, RuntimeRefused, State, Usage
from proto.kit.clock import Clock, rfc3339

Json = dict[str, Any]
BETWEEN_S = 0.5  # two samples make a rate; this far apart when nobody asked before
FRESH_NS = 90 * 1_000_000_000  # an older sample says nothing about now
LEAST_NS = 200_000_000  # closer ones only measure the clock
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Machine:
    """One look at the whole machine."""

    at_ns: int
    cpu_ns: int
    cpus: int
    memory_bytes: int
    memory_free_bytes: int
    booted_s: int


@dataclass(frozen=True, slots=True)
class Look:
    """Everything measured together."""

    machine: Machine
    usages: dict[str, Usage]
    containers: dict[str, Container]


class Figures:
    """Takes samples when somebody asks; remembers the last ones for rates."""

    def __init__(self, node: str, runtime: ContainerRuntime, disk: Path, clock: Clock, *, proc: Path = PROC) -> None:
        self._node = node
        self._runtime = runtime
        self._disk = disk
        self._clock = clock
        self._proc = proc
        self._samples: dict[str, tuple[int, int]] = {}  # id, or "" for the machine -> at_ns, cpu_ns
        self._rates: dict[str, int] = {}  # billionths of a CPU

    async def summary(self) -> Json:
        """Return kubelet's Summary. Raises RuntimeAway, RuntimeRefused."""
        look = await self._look()
        if "" not in self._rates:
            await self._clock.sleep(BETWEEN_S)
            look = await self._look()
        pods = [self._pod(look, uid, found) for uid, found in _by_pod(look).items()]
        return {"node": await self._node_stats(look.machine), "pods": pods}

    async def resource_metrics(self) -> str:
        """Return what kubelet shows at /metrics/resource. Raises RuntimeAway, RuntimeRefused."""
        return _text(await self._look())

    async def _look(self) -> Look:
        usages = {usage.container_id: usage for usage in await self._runtime.usage()}
        containers = {c.id: c for c in await self._runtime.containers() if c.state is State.RUNNING and c.id in usages}
        look = Look(machine(self._proc, self._now_ns()), usages, containers)
        self._sample("", look.machine.at_ns, look.machine.cpu_ns)
        for name in containers:
            self._sample(name, usages[name].at_ns, usages[name].cpu_ns)
        for gone in self._samples.keys() - usages.keys() - {""}:
            del self._samples[gone]
            self._rates.pop(gone, None)
        return look

    def _sample(self, name: str, at_ns: int, cpu_ns: int) -> None:
        before = self._samples.get(name)
        if before is not None and 0 <= at_ns - before[0] < LEAST_NS:
            return  # the rate of a moment ago still stands
        self._samples[name] = (at_ns, cpu_ns)
        self._rates.pop(name, None)
        if before is not None and 0 < at_ns - before[0] < FRESH_NS:
            self._rates[name] = max(0, (cpu_ns - before[1]) * 1_000_000_000 // (at_ns - before[0]))

    def _now_ns(self) -> int:
        return int(self._clock.wall().timestamp() * 1e9)

    async def _node_stats(self, m: Machine) -> Json:
        used = m.memory_bytes - m.memory_free_bytes
        at = _time(m.at_ns)
        return {
            "nodeName": self._node,
            "startTime": rfc3339(datetime.fromtimestamp(m.booted_s, UTC)),
            "cpu": self._cpu("", m.at_ns, m.cpu_ns),
            "memory": {
                "time": at,
                "availableBytes": m.memory_free_bytes,
                "usageBytes": used,
                "workingSetBytes": used,
            },
            "fs": disk_stats(self._disk, at),
            "runtime": {"imageFs": await self._image_stats(at)},
        }

    async def _image_stats(self, at: str) -> Json:
        try:
            images: Filesystem = await self._runtime.image_filesystem()
        except (NoSuch, RuntimeRefused):
            return {}
        try:
            stats = disk_stats(Path(images.path), at)
        except OSError:  # a path of the runtime's own world
            stats = disk_stats(self._disk, at)
        return {**stats, "usedBytes": images.used_bytes, "inodesUsed": images.inodes_used}

    def _cpu(self, name: str, at_ns: int, cpu_ns: int) -> Json:
        rate = {} if name not in self._rates else {"usageNanoCores": self._rates[name]}
        return {"time": _time(at_ns), **rate, "usageCoreNanoSeconds": cpu_ns}

    def _pod(self, look: Look, uid: str, containers: list[Container]) -> Json:
        stats = [self._container(c, look.usages[c.id]) for c in containers]
        usages = [look.usages[c.id] for c in containers]
        at_ns = max(usage.at_ns for usage in usages)
        rates = [self._rates[c.id] for c in containers if c.id in self._rates]
        cpu: Json = {"time": _time(at_ns), "usageCoreNanoSeconds": sum(usage.cpu_ns for usage in usages)}
        if rates:
            cpu["usageNanoCores"] = sum(rates)
        memory = sum(usage.memory_bytes for usage in usages)
        labels = containers[0].labels
        return {
            "podRef": {"name": labels.get(POD_NAME, ""), "namespace": labels.get(POD_NAMESPACE, ""), "uid": uid},
            "startTime": _time(min(c.created_at_ns for c in containers)),
            "containers": stats,
            "cpu": cpu,
            "memory": {"time": _time(at_ns), "usageBytes": memory, "workingSetBytes": memory},
            "ephemeral-storage": {"time": _time(at_ns), "usedBytes": sum(usage.writable_bytes for usage in usages)},
        }

    def _container(self, container: Container, usage: Usage) -> Json:
        at = _time(usage.at_ns)
        return {
            "name": container.labels.get(CONTAINER_NAME, container.name),
            "startTime": _time(container.created_at_ns),
            "cpu": self._cpu(container.id, usage.at_ns, usage.cpu_ns),
            "memory": {"time": at, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.memory_bytes},
            "rootfs": {"time": at, "usedBytes": usage.writable_bytes},
        }


def machine(proc: Path, at_ns: int) -> Machine:
    """Look at this machine's CPU and memory; ``cpu_ns`` is what all CPUs have worked since it started."""
    fields = {key: rest for key, _, rest in (line.partition(" ") for line in (proc / "stat").read_text().splitlines())}
    ticks = [int(number) for number in fields["cpu"].split()]
    busy = sum(ticks[:3]) + sum(ticks[5:8])  # without idle and waiting; guests are counted in user
    memory = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            memory[name] = int(rest.split()[0]) * 1024
    return Machine(
        at_ns,
        busy * (1_000_000_000 // os.sysconf("SC_CLK_TCK")),
        os.cpu_count() or 1,
        memory.get("MemTotal", 0),
        memory.get("MemAvailable", 0),
        int(fields.get("btime", "0")),
    )


def disk_stats(place: Path, at: str) -> Json:
    """Return kubelet's FsStats of the file system that holds ``place``."""
    disk = os.statvfs(place)
    return {
        "time": at,
        "availableBytes": disk.f_bavail * disk.f_frsize,
        "capacityBytes": disk.f_blocks * disk.f_frsize,
        "usedBytes": (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
        "inodesFree": disk.f_ffree,
        "inodes": disk.f_files,
        "inodesUsed": disk.f_files - disk.f_ffree,
    }


def _by_pod(look: Look) -> dict[str, list[Container]]:
    out: dict[str, list[Container]] = {}
    for container in look.containers.values():
        uid = container.labels.get(POD_UID, "")
        if uid:
            out.setdefault(uid, []).append(container)
    return out


def _time(at_ns: int) -> str:
    return rfc3339(datetime.fromtimestamp(at_ns / 1e9, UTC))


def _text(look: Look) -> str:
    m = look.machine
    out: list[str] = []

    def family(name: str, kind: str, about: str, rows: Iterable[tuple[str, float, int]]) -> None:
        listed = [f"{name}{labels} {value:.10g} {at_ns // 1_000_000}" for labels, value, at_ns in rows]
        if listed:
            out.extend([f"# HELP {name} [STABLE] {about}", f"# TYPE {name} {kind}", *listed])

    def of(c: Container) -> str:
        labels = c.labels
        name = labels.get(CONTAINER_NAME, c.name)
        return f'{{container="{name}",namespace="{labels.get(POD_NAMESPACE, "")}",pod="{labels.get(POD_NAME, "")}"}}'

    ours = [(c, look.usages[c.id]) for group in _by_pod(look).values() for c in group]
    pods = [
        (
            f'{{namespace="{group[0].labels.get(POD_NAMESPACE, "")}",pod="{group[0].labels.get(POD_NAME, "")}"}}',
            [look.usages[c.id] for c in group],
        )
        for group in _by_pod(look).values()
    ]
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        ((of(c), u.cpu_ns / 1e9, u.at_ns) for c, u in ours),
    )
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        ((of(c), u.memory_bytes, u.at_ns) for c, u in ours),
    )
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        ((of(c), c.created_at_ns / 1e9, u.at_ns) for c, u in ours),
    )
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        [("", m.cpu_ns / 1e9, m.at_ns)],
    )
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        [("", m.memory_bytes - m.memory_free_bytes, m.at_ns)],
    )
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        ((labels, sum(u.cpu_ns for u in us) / 1e9, us[0].at_ns) for labels, us in pods),
    )
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        ((labels, sum(u.memory_bytes for u in us), us[0].at_ns) for labels, us in pods),
    )
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        [("", 0, m.at_ns)],
    )
    return "\n".join(out) + "\n"
