"""Streams beside twins: 50 ``logs -f`` and 10 ``exec`` through one MQTT connection while desired values go to a device.

    python -m tests.bench.bench_streams [--runs 5] [--seconds 8] [--logs 50] [--execs 10] [--copy 100]

Real cloudcore with its embedded API and broker, edgecore with containerd on a host of its own. Each run measures twin
latency (PATCH at the API to MQTT delta) idle and then with 1 MiB/s of logs. At the end a file goes both ways by kubectl cp.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from cloudcore.kube import config
from kubeapi.streaming.websocket import WebSocket
from tests.bench.bench_reports import cpu_s
from tests.bench.devices import Meter, device_object, fleet, quantile
from tests.kit.gateway import gateway
from tests.kit.images import BUSYBOX_REF
from tests.kit.kubectl import Kubectl
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

NODE = "gw-1"
POD = "/api/v1/namespaces/default/pods/talks"
LINE = 200
PATCHES_PER_S = 20.0


def talking_pod() -> dict[str, Any]:
    """A container whose log grows by some 23 KB/s, 50 readers of which are more than 1 MiB/s."""
    text = "x" * (LINE - 1)
    script = f"while true; do i=0; while [ $i -lt 12 ]; do echo {text}; i=$((i+1)); done; sleep 0.1; done"
    container = {
        "name": "main",
        "image": BUSYBOX_REF,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    }
    metadata = {"name": "talks", "namespace": "default"}
    spec = {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Load:
    """The readers: plain HTTPS for logs, WebSockets for exec, all to the embedded API."""

    def __init__(self, kubeconfig: Path) -> None:
        self._access = config.load(kubeconfig)
        self.log_bytes: list[int] = []
        self.echoes_s: list[float] = []
        self.broken = 0

    async def _ask(self, path: str, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        at = urlsplit(self._access.server)
        context = self._access.context() if self._access.context is not None else None
        reader, writer = await asyncio.open_connection(
            at.hostname, at.port, ssl=context, server_hostname=self._access.server_hostname or at.hostname
        )
        head = [f"GET {path} HTTP/1.1", f"Host: {at.netloc}", *headers, "", ""]
        writer.write("\r\n".join(head).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        return reader, writer, answer

    async def follow(self) -> None:
        number = len(self.log_bytes)
        self.log_bytes.append(0)
        reader, writer, answer = await self._ask(f"{POD}/log?follow=true&tailLines=0")
        assert b" 200 " in answer, answer
        try:
            while piece := await reader.read(65536):
                self.log_bytes[number] += len(piece)
            self.broken += 1
        finally:
            writer.close()

    async def echo(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        reader, writer, answer = await self._ask(
            f"{POD}/exec?command=cat&stdin=true&stdout=true",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Protocol: v5.channel.k8s.io",
        )
        assert b" 101 " in answer, answer
        wire = WebSocket(client=True)
        try:
            while True:
                began_s = time.monotonic()
                wire.send(b"\x00" + b"echo %.6f\n" % began_s)
                writer.write(wire.take())
                while not await _heard(reader, wire):
                    continue
                self.echoes_s.append(time.monotonic() - began_s)
                await asyncio.sleep(0.1)
        finally:
            writer.close()


async def _heard(reader: asyncio.StreamReader, wire: WebSocket) -> bool:
    data = await reader.read(65536)
    if not data:
        raise ConnectionError("exec ended")
    return any(b"echo" in getattr(event, "data", b"") for event in wire.receive(data))


@asynccontextmanager
async def under(load: Load, logs: int, execs: int) -> AsyncIterator[None]:
    """Run the readers until the block ends, which begins once all of them have heard something."""
    work: list[Coroutine[Any, Any, None]] = [load.follow() for _ in range(logs)] + [load.echo() for _ in range(execs)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        await eventually(lambda: len(load.log_bytes) == logs and all(load.log_bytes), 60.0)
        await eventually(lambda: len(load.echoes_s) >= execs, 60.0)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def twin_latencies(platform: Platform, meter: Meter, seconds: float, first: int) -> list[float]:
    """From sending a desired value to the API until the device hears the delta; one at a time."""
    out: list[float] = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        value = str(first + len(out))
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_delta(delta: dict[str, str], v: str = value, f: "asyncio.Future[None]" = heard) -> None:
            if delta.get("limit") == v and not f.done():
                f.set_result(None)

        meter.on_delta = on_delta
        began_s = time.monotonic()
        await platform.kube.apply(device_object(meter.name, NODE, int(value)))
        await asyncio.wait_for(heard, 20)
        out.append(time.monotonic() - began_s)
        await asyncio.sleep(max(0.0, 1 / PATCHES_PER_S - out[-1]))
    return out


async def one_run(platform: Platform, edge: Edge, meter: Meter, args: argparse.Namespace, first: int) -> dict[str, Any]:
    idle = await twin_latencies(platform, meter, args.seconds, first)
    load = Load(platform.kubeconfig)
    async with under(load, args.logs, args.execs):
        began_s, before = time.monotonic(), sum(load.log_bytes)
        pids = {"cloudcore": platform.cloud.pid, "edgecore": edge.process.pid, "bench": os.getpid()}
        cpu = {name: cpu_s(pid) for name, pid in pids.items()}
        loaded = await twin_latencies(platform, meter, args.seconds, first + len(idle))
        took_s, read = time.monotonic() - began_s, sum(load.log_bytes) - before
        shares = {name: round((cpu_s(pid) - cpu[name]) / took_s, 2) for name, pid in pids.items()}
    return {
        "idle_p95_ms": round(1000 * quantile(idle, 0.95), 2),
        "loaded_p95_ms": round(1000 * quantile(loaded, 0.95), 2),
        "ratio": round(quantile(loaded, 0.95) / quantile(idle, 0.95), 2),
        "idle_p50_ms": round(1000 * quantile(idle, 0.5), 2),
        "loaded_p50_ms": round(1000 * quantile(loaded, 0.5), 2),
        "samples": len(idle) + len(loaded),
        "logs_mib_per_s": round(read / took_s / (1 << 20), 3),
        "slowest_log_share": round(min(load.log_bytes) / max(load.log_bytes), 3),
        "exec_echo_p95_ms": round(1000 * quantile(load.echoes_s, 0.95), 1),
        "broken": load.broken,
        "cpu": shares,
        "rss_mb": _rss_mb(platform, edge),
    }


def _rss_mb(platform: Platform, edge: Edge) -> dict[str, float]:
    sizes = {"cloudcore": platform.cloud.rss_bytes(), "edgecore": edge.process.rss_bytes()}
    return {name: round(size / 1e6, 1) for name, size in sizes.items()}


async def copy(platform: Platform, folder: Path, mib: int) -> dict[str, Any]:
    """A file there and back by kubectl cp, with equal hashes."""
    source, back = folder / "there", folder / "back"
    source.write_bytes(os.urandom(mib << 20))
    kubectl = Kubectl("1.31", platform.kubeconfig, folder / "home")
    rates = []
    for command in (f"cp {source} talks:/tmp/blob", f"cp talks:/tmp/blob {back}"):
        began_s = time.monotonic()
        done = await asyncio.to_thread(_run, kubectl, command)
        if done:
            return {"error": done, "equal": 0}
        rates.append(round(mib / (time.monotonic() - began_s), 1))
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (source, back)]
    return {"up_mib_per_s": rates[0], "down_mib_per_s": rates[1], "equal": int(digests[0] == digests[1])}


def _run(kubectl: Kubectl, command: str) -> str:
    done = kubectl.run(command)
    return "" if done.returncode == 0 else f"{command}: {done.stderr[-500:]}"


async def runs_now(platform: Platform) -> bool:
    return (((await platform.kube.find(POD)) or {}).get("status") or {}).get("phase") == "Running"


async def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    async with Platform(folder) as platform:
        await platform.start_cloud()
        async with gateway(platform, folder / "h", NODE) as edge:
            (meter,) = await fleet(platform, NODE, edge.mqtt_port, 1)
            await platform.kube.apply(talking_pod())
            await eventually(lambda: runs_now(platform), 60.0)
            runs, first = [], 1
            for _ in range(args.runs):
                runs.append(await one_run(platform, edge, meter, args, first))
                first += runs[-1]["samples"]
            copied = await copy(platform, folder, args.copy) if args.copy else {}
            rss = _rss_mb(platform, edge)
    return {
        "ratio": statistics.median(run["ratio"] for run in runs),
        "logs_mib_per_s": statistics.median(run["logs_mib_per_s"] for run in runs),
        "broken": sum(run["broken"] for run in runs),
        "runs": runs,
        "copy": copied,
        "rss_mb": rss,
    }


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--logs", type=int, default=50)
    parser.add_argument("--execs", type=int, default=10)
    parser.add_argument("--copy", type=int, default=100, help="MiB that kubectl cp carries each way; 0: none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as folder:
        result: dict[str, Any] = uvloop.run(measure(Path(folder), args))
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
