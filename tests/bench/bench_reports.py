"""Reports end to end on these cores: MQTT device -> edge -> link -> cloud history and DeviceStatus at an API watch.

    python -m tests.bench.bench_reports [--seconds 60] [--rate 2000] [--devices 100]

Open loop: a fixed rate, every report in the history, nothing at the watch older than a second. Closed loop: each device
reports again when its last report is visible. One at a time: latency. Desired: PATCH at the API to MQTT delta.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.devices import Meter, Sight, device_object, fleet, quantile
from tests.kit.platform import Platform
from tests.kit.wait import eventually

NODE = "gw-1"
TICK_S = 0.01


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def open_loop(meters: list[Meter], sight: Sight, rate: float, seconds: float) -> dict[str, Any]:
    """Publish ``rate`` reports/s over all devices for ``seconds``; lateness at the watch while it runs and until drained."""
    sight.worst_s, sight.latencies_s, events = 0.0, [], sight.events
    began_s, given = time.monotonic(), 0
    before = sum(m.sent for m in meters)
    while (elapsed := time.monotonic() - began_s) < seconds:
        for _ in range(int(elapsed * rate) - given):
            meters[given % len(meters)].report()
            given += 1
        await asyncio.sleep(TICK_S)
    await eventually(lambda: all(not m.unseen for m in meters), 60.0)
    took_s = time.monotonic() - began_s
    sent = sum(m.sent for m in meters) - before
    return {
        "reports": sent,
        "reports_per_s": round(sent / took_s, 1),
        "watch_events_per_s": round((sight.events - events) / took_s, 1),
        "watch_worst_s": round(sight.worst_s, 3),
        "watch_p50_s": round(quantile(sight.latencies_s, 0.5), 4),
        "confirmed": sum(m.confirmed for m in meters),
    }


async def closed_loop(meters: list[Meter], sight: Sight, seconds: float) -> dict[str, Any]:
    """Each device reports again when its last report is visible at the watch."""
    seen = 0

    def again(meter: Meter) -> None:
        nonlocal seen
        seen += 1
        meter.report()

    for meter in meters:
        meter.report()
    sight.on_seen = again
    await asyncio.sleep(1.0)
    first, began_s = seen, time.monotonic()
    await asyncio.sleep(seconds)
    rate = (seen - first) / (time.monotonic() - began_s)
    sight.on_seen = None
    await eventually(lambda: all(not m.unseen for m in meters), 60.0)
    return {"reports_per_s": round(rate, 1)}


async def one_at_a_time(meter: Meter, sight: Sight, count: int) -> dict[str, Any]:
    sight.latencies_s = []
    for _ in range(count):
        done = asyncio.get_running_loop().create_future()
        sight.on_seen = lambda m, d=done: d.set_result(None) if m is meter and not d.done() else None
        meter.report()
        await asyncio.wait_for(done, 10)
        await asyncio.sleep(0.02)
    sight.on_seen = None
    return {
        "p50_ms": round(1000 * quantile(sight.latencies_s, 0.5), 2),
        "p99_ms": round(1000 * quantile(sight.latencies_s, 0.99), 2),
    }


async def desired_latency(platform: Platform, meter: Meter, count: int) -> dict[str, Any]:
    """From sending the change to the API until the device hears the delta."""
    latencies: list[float] = []
    for number in range(1, count + 1):
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_delta(delta: dict[str, str], n: int = number, f: "asyncio.Future[None]" = heard) -> None:
            if delta.get("limit") == str(n) and not f.done():
                f.set_result(None)

        meter.on_delta = on_delta
        began_s = time.monotonic()
        await platform.kube.apply(device_object(meter.name, NODE, number))
        await asyncio.wait_for(heard, 10)
        latencies.append(time.monotonic() - began_s)
        await asyncio.sleep(0.02)
    return {"p50_ms": round(1000 * quantile(latencies, 0.5), 2), "p99_ms": round(1000 * quantile(latencies, 0.99), 2)}


async def measure(folder: Path, seconds: float, rate: float, devices: int) -> dict[str, Any]:
    async with Platform(folder) as platform:
        await platform.start_cloud()
        edge = await platform.add_edge(NODE)
        meters = await fleet(platform, NODE, edge.mqtt_port, devices)
        sight = Sight(platform.kube, meters)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(sight.run())
            await eventually(lambda: sight.events >= devices, 30.0)
            result: dict[str, Any] = {"one_at_a_time": await one_at_a_time(meters[0], sight, 200)}
            result["desired_to_delta"] = await desired_latency(platform, meters[0], 100)
            result["closed_loop"] = await closed_loop(meters, sight, min(seconds, 15.0))
            pids = {"cloudcore": platform.cloud.pid, "edgecore": edge.process.pid, "load": os.getpid()}
            before = {name: cpu_s(pid) for name, pid in pids.items()}
            result["open_loop"] = await open_loop(meters, sight, rate, seconds)
            await edge.drained(60.0)
            reports = result["open_loop"]["reports"]
            result["cpu_us_per_report"] = {n: round((cpu_s(p) - before[n]) / reports * 1e6) for n, p in pids.items()}
            sent = sum(m.sent for m in meters)
            result["sent"], result["refused"] = sent, sum(m.refused for m in meters)
            result["rss_mb"] = {
                "cloudcore": round(platform.cloud.rss_bytes() / 1e6, 1),
                "edgecore": round(edge.process.rss_bytes() / 1e6, 1),
            }
            watching.cancel()
        result["history_count"] = counted(platform, meters)
        return result


def counted(platform: Platform, meters: list[Meter]) -> dict[str, int]:
    """Compare the history with what every device sent: each count once, in order of the link's sequence."""
    query = "SELECT value FROM device_report WHERE device = ? AND property = 'count' ORDER BY seq"
    missing = repeated = disordered = 0
    with contextlib.closing(sqlite3.connect(f"file:{platform.cloud_dir}/cloud.db?mode=ro", uri=True)) as db:
        for meter in meters:
            values = [int(value) for (value,) in db.execute(query, (meter.name,))]
            missing += len(set(range(1, meter.sent + 1)) - set(values))
            repeated += len(values) - len(set(values))
            disordered += sum(b < a for a, b in itertools.pairwise(values))
    return {"missing": missing, "repeated": repeated, "out_of_order": disordered}


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2200.0)
    parser.add_argument("--devices", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as folder:
        result: dict[str, Any] = uvloop.run(measure(Path(folder), args.seconds, args.rate, args.devices))
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
