"""Memory, start-up, reconnect and idle traffic of the real daemons.

python -m tests.bench.bench_footprint [--idle-seconds 60] [--cuts 20]
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.devices import MODEL, device_object, quantile
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

NODE = "gw-1"
DEVICES = 1000
SETTLE_S = 5.0  # after start, before memory is read


async def reconnects(edge: Edge, cuts: int) -> dict[str, float]:
    """Seconds from the link's return to a live session, over ``cuts`` outages of 3 s."""
    took: list[float] = []
    for _ in range(cuts):
        edge.cut()
        await eventually(lambda: disconnected(edge), 30.0)
        await asyncio.sleep(3.0)
        began_s = time.monotonic()
        edge.mend()
        await edge.connected(30.0)
        took.append(time.monotonic() - began_s)
    return {"p50_s": round(quantile(took, 0.5), 3), "p99_s": round(quantile(took, 0.99), 3), "cuts": cuts}


async def disconnected(edge: Edge) -> bool:
    return not (await edge.status()).get("link", {}).get("connected", True)


async def idle_traffic(edge: Edge, seconds: float) -> dict[str, float]:
    """Bytes through the relay (TLS records, without TCP and IP headers) of a node with nothing to say, per hour."""
    await asyncio.sleep(SETTLE_S)
    up, down = edge.relay.bytes_up, edge.relay.bytes_down
    await asyncio.sleep(seconds)
    per_hour = 3600.0 / seconds
    return {
        "up_bytes_per_hour": round((edge.relay.bytes_up - up) * per_hour),
        "down_bytes_per_hour": round((edge.relay.bytes_down - down) * per_hour),
    }


async def measure(folder: Path, idle_s: float, cuts: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    async with Platform(folder) as platform:
        await platform.start_cloud()
        await platform.stop_cloud()
        began_s = time.monotonic()
        await platform.start_cloud()
        result["cloudcore_start_s"] = round(time.monotonic() - began_s, 3)
        edge = await platform.add_edge(NODE)
        await edge.stop()
        began_s = time.monotonic()
        await edge.start()
        result["edgecore_start_s"] = round(time.monotonic() - began_s, 3)
        await edge.connected()
        await asyncio.sleep(SETTLE_S)
        result["edgecore_idle_rss_mb"] = round(edge.process.rss_bytes() / 1e6, 1)
        result["cloudcore_rss_mb"] = round(platform.cloud.rss_bytes() / 1e6, 1)
        result["idle_traffic"] = await idle_traffic(edge, idle_s)
        result["reconnect"] = await reconnects(edge, cuts)
        await platform.kube.apply(MODEL, *(device_object(f"meter-{n:04d}", NODE, 5) for n in range(DEVICES)))
        await eventually(lambda: has_devices(edge, DEVICES), 120.0)
        await edge.drained(60.0)
        await asyncio.sleep(SETTLE_S)
        result["edgecore_1000_devices_rss_mb"] = round(edge.process.rss_bytes() / 1e6, 1)
        result["cloudcore_1000_devices_rss_mb"] = round(platform.cloud.rss_bytes() / 1e6, 1)
    return result


async def has_devices(edge: Edge, count: int) -> bool:
    return bool((await edge.status()).get("devices", {}).get("total") == count)


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--cuts", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as folder:
        result: dict[str, Any] = uvloop.run(measure(Path(folder), args.idle_seconds, args.cuts))
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
