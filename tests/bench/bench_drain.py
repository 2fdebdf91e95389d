"""An edge that collected reports while its link was cut: how soon all are in the cloud's history, reconnecting included.

python -m tests.bench.bench_drain [--reports 50000]
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.bench_footprint import disconnected
from tests.bench.bench_reports import counted
from tests.bench.devices import Meter, fleet
from tests.kit.platform import Platform
from tests.kit.wait import eventually

NODE = "gw-1"
DEVICES = 10
WINDOW = 20  # unconfirmed reports of one device
TICK_S = 0.005


async def collect(meters: list[Meter], reports: int) -> float:
    """Let the devices report ``reports`` times in all; returns reports/s, each confirmed to its device."""
    began_s = time.monotonic()
    share = reports // len(meters)
    while not all(meter.confirmed >= share for meter in meters):
        for meter in meters:
            while meter.sent < min(share, meter.confirmed + WINDOW):
                meter.report()
        await asyncio.sleep(TICK_S)
    return reports / (time.monotonic() - began_s)


async def measure(folder: Path, reports: int) -> dict[str, Any]:
    async with Platform(folder) as platform:
        await platform.start_cloud()
        edge = await platform.add_edge(NODE)
        meters = await fleet(platform, NODE, edge.mqtt_port, DEVICES)
        edge.cut()
        await eventually(lambda: disconnected(edge), 30.0)
        taken_per_s = await asyncio.wait_for(collect(meters, reports), 300.0)
        waiting = (await edge.status())["link"]["pending_messages"]
        assert waiting >= reports, f"only {waiting} of {reports} reports wait: the link was not cut"
        began_s = time.monotonic()
        edge.mend()
        await edge.drained(300.0)
        drained_s = time.monotonic() - began_s
        return {
            "reports": reports,
            "taken_offline_per_s": round(taken_per_s, 1),
            "drained_s": round(drained_s, 2),
            "drained_per_s": round(reports / drained_s, 1),
            "history_count": counted(platform, meters),
        }


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=50_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as folder:
        result: dict[str, Any] = uvloop.run(measure(Path(folder), args.reports))
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
