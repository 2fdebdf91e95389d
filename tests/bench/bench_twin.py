"""CPU per device report in the device room: parse, merge, persist (history row, outbox, status), answer.

``python -m tests.bench.bench_twin [--reports N]`` prints microseconds per report at three loads.
"""

import argparse
import asyncio
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from devicetwin.model import API_VERSION
from edgecore.devices.controller import SCHEMA, DeviceController
from edgecore.kinds import DEVICE, DEVICE_MODEL, registry
from kubeapi.store import Store
from proto.kit.clock import SystemClock
from proto.kit.database import Database, Tx
from proto.kit.metrics import Metrics
from proto.link.outbox import SCHEMA as OUTBOX_SCHEMA
from proto.link.outbox import Outbox
from proto.link.settings import LinkSettings
from tests.unit.edgecore_devices.room import NODE, RecordingBroker

MODEL = {
    "apiVersion": API_VERSION,
    "kind": "DeviceModel",
    "metadata": {"name": "meter", "namespace": "default", "uid": "m"},
    "spec": {
        "properties": [
            {"name": "temperature", "type": "DOUBLE", "minimum": "-40", "maximum": "1400"},
            {"name": "count", "type": "INT"},
            {"name": "setpoint", "type": "INT"},
            {"name": "mode", "type": "STRING"},
        ]
    },
}


def device(number: int) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "Device",
        "metadata": {"name": f"d{number}", "namespace": "default", "uid": f"u{number}", "generation": 1},
        "spec": {
            "deviceModelRef": {"name": "meter"},
            "nodeName": NODE,
            "properties": [
                {"name": "temperature", "reportCycle": 1000},
                {"name": "setpoint", "desired": {"value": "5"}},
            ],
        },
    }


class Bench:
    def __init__(self, folder: Path, devices: int) -> None:
        self.folder, self.devices = folder, devices

    async def open(self) -> None:
        clock, metrics = SystemClock(), Metrics()
        self.db = Database.open(self.folder / "edge.db", [OUTBOX_SCHEMA, SCHEMA])
        self.store = await Store.open(self.db, registry(), clock, decoded_objects=256)
        outbox = Outbox(LinkSettings(), clock=clock, metrics=metrics, read=self.db.read)
        self.broker = RecordingBroker()
        self.broker.deaf = {f"$hw/events/device/default/d{n}/twin/update/document" for n in range(self.devices)}
        self.room = DeviceController(NODE, self.db, self.store, outbox, self.broker, clock=clock, metrics=metrics)

        def write(tx: Tx) -> None:
            self.store.put(tx, DEVICE_MODEL, MODEL)
            for number in range(self.devices):
                self.store.put(tx, DEVICE, device(number))

        await self.db.tx(write)
        await self.room.settled()
        for number in range(self.devices):
            await self._one(number, 0)
        self.broker.sent.clear()

    def _one(self, number: int, value: int) -> "asyncio.Future[None]":
        payload = (
            b'{"event_id":"%d","timestamp":1700000000000,"twin":{"temperature":{"actual":{"value":"%d.25"}},'
            b'"count":{"actual":{"value":"%d"}},"setpoint":{"actual":{"value":"5"}}}}' % (value, value % 1000, value)
        )
        return self.room.receive(f"$hw/events/device/default/d{number}/twin/update", payload)

    async def one_at_a_time(self, reports: int) -> dict[str, float]:
        took = []
        for value in range(reports):
            began = time.perf_counter()
            await self._one(value % self.devices, value)
            took.append((time.perf_counter() - began) * 1000)
        return {"p50_ms": statistics.median(took), "p99_ms": statistics.quantiles(took, n=100)[98]}

    async def burst(self, reports: int, together: int) -> dict[str, float]:
        commits, began, cpu = self.db.commits, time.perf_counter(), time.process_time()
        for value in range(0, reports, together):
            await asyncio.gather(*[self._one((value + i) % self.devices, value + i) for i in range(together)])
        wall, used = time.perf_counter() - began, time.process_time() - cpu
        self.broker.sent.clear()
        return {
            "reports_per_s": reports / wall,
            "cpu_us_per_report": used / reports * 1e6,
            "reports_per_commit": reports / max(1, self.db.commits - commits),
        }

    async def paced(self, reports: int, per_s: float) -> dict[str, float]:
        """Reports at a steady rate, as 100 independent devices make them."""
        loop = asyncio.get_running_loop()
        commits, began, cpu = self.db.commits, loop.time(), time.process_time()
        latest: list[float] = []
        waiting = []
        for value in range(reports):
            due = began + value / per_s
            if loop.time() < due:
                await asyncio.sleep(due - loop.time())
            sent = time.perf_counter()
            future = self._one(value % self.devices, value)
            future.add_done_callback(lambda _, sent=sent: latest.append((time.perf_counter() - sent) * 1000))  # type: ignore[misc]
            waiting.append(future)
        await asyncio.gather(*waiting)
        self.broker.sent.clear()
        return {
            "reports_per_s": reports / (loop.time() - began),
            "cpu_us_per_report": (time.process_time() - cpu) / reports * 1e6,
            "reports_per_commit": reports / max(1, self.db.commits - commits),
            "p50_ms": statistics.median(latest),
            "p99_ms": statistics.quantiles(latest, n=100)[98],
        }


async def measure(reports: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), 100)
        await bench.open()
        out["one at a time"] = await bench.one_at_a_time(min(reports, 1000))
        for together in (1, 10, 100):
            out[f"{together} together"] = await bench.burst(reports, together)
        out["2000/s"] = await bench.paced(reports, 2000)
        await bench.db.close()
    out["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=10_000)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(parser.parse_args().reports)), indent=2))


if __name__ == "__main__":
    main()
