"""A thousand edges after a cloud restart: all embedded, real TLS, MQTT and link; edges simulated in one process.

    python -m tests.bench.bench_storm [--edges 1000]

Each edge has a certificate of its own, one Device with a desired value, and one report made while the cloud is away. An
edge is synced when its new session is live, nothing of it waits, and the cloud's digest of its statuses is its own.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from sqlalchemy import Connection

from cloudcore import certs, revocation
from cloudcore.certs import Authority
from cloudcore.hub.scope_bodies import downward
from cloudcore.kube.resources import DEVICE
from cloudcore.sql import Sql
from proto.kit import canonical, files, tls
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.x509 import read_pem
from proto.link.settings import LinkSettings
from tests.bench.devices import MODEL, device_object
from tests.bench.edges import BenchEdge, register, run_all
from tests.kit.kube import DEVICES
from tests.kit.platform import Platform
from tests.kit.wait import eventually

DESIRED = 5
FIRST_S, AGAIN_S = 300.0, 180.0  # patience; the goal is another matter
SETTLE_S = 5.0
AWAY_S = 2.0
TELL_S = 2.0  # progress on standard error


async def admit(cloud_dir: Path, nodes: list[str], clock: SystemClock) -> dict[str, tuple[bytes, bytes]]:
    """Sign a certificate for every node and let it in, as the join endpoint does; returns (certificate, key) PEM."""
    files.make_dir(cloud_dir)
    authority = Authority.open_or_create(cloud_dir / "pki", clock)
    issued = {node: authority.issue(certs.node_user(node), (certs.NODE_GROUP,)) for node in nodes}

    def work(connection: Connection) -> None:
        now = clock.wall()
        for node, (cert, _) in issued.items():
            facts = read_pem(cert)
            key_hash = certs.key_hash(x509.load_pem_x509_certificate(cert).public_key())
            revocation.admit(connection, node, key_hash, now)
            revocation.record(
                connection, node, serial=facts.serial, key_hash=key_hash, not_after=facts.not_after, now=now
            )

    sql = Sql.open(f"sqlite:///{cloud_dir / 'cloud.db'}")
    await sql.tx(work)
    await sql.close()
    return issued


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """``VmRSS`` now, or ``VmHWM``: the most that the process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tell(edges: list[BenchEdge], at_s: float, done: int) -> None:
    states = Counter(edge.session.state.value for edge in edges)
    words = " ".join(f"{name} {count}" for name, count in sorted(states.items()))
    reasons = Counter(edge.last_error for edge in edges if edge.last_error)
    sys.stderr.write(f"{at_s:5.1f} s  done {done}  {words}  {dict(reasons.most_common(3))}\n")


async def progress(edges: list[BenchEdge], began_s: float, timeout_s: float, done: Callable[[BenchEdge], bool]) -> Any:
    """Wait until every edge is ``done``; returns seconds since ``began_s`` until half, 99 % and all were."""
    marks: dict[str, float] = {}
    levels = {"half_s": 0.5, "p99_s": 0.99, "synced_s": 1.0}
    told_s = began_s

    def all_done() -> bool:
        nonlocal told_s
        count = sum(map(done, edges))
        if time.monotonic() - told_s >= TELL_S:
            told_s = time.monotonic()
            tell(edges, told_s - began_s, count)
        for name, share in levels.items():
            if name not in marks and count >= share * len(edges):
                marks[name] = round(time.monotonic() - began_s, 2)
        return "synced_s" in marks

    try:
        await eventually(all_done, timeout_s)
    except AssertionError:
        lacking = [edge for edge in edges if not done(edge)]
        states = {edge.session.state.value for edge in lacking}
        raise AssertionError(
            f"{len(lacking)} of {len(edges)} edges are not synced after {timeout_s:g} s, e.g. {lacking[0].node}: "
            f"{states}, waiting {list(lacking[0].room.dirty)} {lacking[0].room.rows[:3]}"
        ) from None
    return marks


async def check(platform: Platform, edges: list[BenchEdge], count: int) -> None:
    """The API shows every edge's last report, and each edge holds what the API says."""
    statuses = await platform.kube.list(f"{DEVICES}/devicestatuses")
    shown = {s["metadata"]["name"]: s["status"]["twins"][0]["reported"]["value"] for s in statuses}
    wrong = [e.node for e in edges if shown.get(f"meter-{e.node}") != str(count)]
    assert not wrong, f"{len(wrong)} edges' last report is not at the API, e.g. {wrong[0]}"
    devices = {d["metadata"]["name"]: d for d in await platform.kube.list(f"{DEVICES}/devices")}
    for edge in edges:
        name = f"meter-{edge.node}"
        held = edge.room.held()[f"devices.kubeedge.io/devices/default/{name}"]
        assert held == canonical.digest(downward(DEVICE, devices[name])), (
            f"{edge.node} holds another Device than the API"
        )


async def measure(folder: Path, count: int, settle_s: float = SETTLE_S) -> dict[str, Any]:
    clock, rng, settings = SystemClock(), Rng(7), LinkSettings()
    nodes = [f"edge-{n:04d}" for n in range(count)]
    async with Platform(folder) as platform:
        identities = await admit(platform.cloud_dir, nodes, clock)
        await platform.start_cloud()
        empty_mb = memory_mb(platform.cloud.pid)
        objects = [device_object(f"meter-{node}", node, DESIRED) for node in nodes]
        await platform.kube.apply(MODEL, *objects)
        ca = (platform.cloud_dir / "pki" / "ca.crt").read_bytes()
        address = ("127.0.0.1", platform.broker_port)
        edges = [
            BenchEdge(node, address, tls.client_context(cert, key, ca), settings, clock, rng)
            for node, (cert, key) in identities.items()
        ]
        for edge in edges:
            register(edge.room)
        result: dict[str, Any] = {"edges": count}
        async with asyncio.TaskGroup() as group:
            running = group.create_task(run_all(edges, clock))
            try:
                result |= await storm(platform, edges, settle_s)
            finally:
                running.cancel()
        result["rss_empty_mb"] = round(empty_mb, 1)
    return result


async def storm(platform: Platform, edges: list[BenchEdge], settle_s: float) -> dict[str, Any]:
    first = await progress(edges, time.monotonic(), FIRST_S, lambda e: e.synced)
    await check(platform, edges, 0)
    await asyncio.sleep(settle_s)
    steady_mb = memory_mb(platform.cloud.pid)
    before = {edge.node: edge.sessions for edge in edges}
    idle = cpu_s(platform.cloud.pid)
    await asyncio.sleep(settle_s)
    idle = (cpu_s(platform.cloud.pid) - idle) / settle_s
    await platform.kill_cloud()
    for edge in edges:
        edge.report(1)
    await asyncio.sleep(AWAY_S)
    began_s = time.monotonic()
    await platform.start_cloud()
    ready_s = time.monotonic() - began_s
    marks = await progress(edges, began_s, AGAIN_S, lambda e: e.synced and e.sessions > before[e.node])
    peak_mb = memory_mb(platform.cloud.pid, "VmHWM")
    busy_s = cpu_s(platform.cloud.pid)
    await check(platform, edges, 1)
    await asyncio.sleep(settle_s)
    peak_mb, after_mb = max(peak_mb, memory_mb(platform.cloud.pid, "VmHWM")), memory_mb(platform.cloud.pid)
    lower_mb = min(steady_mb, after_mb)
    return {
        "first_sync_s": first["synced_s"],
        "ready_s": round(ready_s, 2),
        **marks,
        "rss_steady_mb": round(steady_mb, 1),
        "rss_peak_mb": round(peak_mb, 1),
        "rss_after_mb": round(after_mb, 1),
        "ratio": round(peak_mb / lower_mb, 2),
        "dials": sum(edge.dials for edge in edges),
        "sessions_in_storm": sum(edge.sessions - before[edge.node] for edge in edges),
        "cloud_cpu_s": round(busy_s, 1),
        "cloud_cpu_idle_share": round(idle, 3),
    }


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as folder:
        result: dict[str, Any] = uvloop.run(measure(Path(folder), args.edges))
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
