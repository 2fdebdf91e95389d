"""What 20 pods cost a gateway that does nothing: memory, CPU and bytes on the wire, with every part in use.

    python -m tests.bench.bench_pods_footprint [--pods 20] [--seconds 600] [--more 180]

edgecore in a network namespace of its own with containerd, devices, the node-local API and a link over a cable to the cloud.
Bytes are those of IP packets in both directions: what the cable counts less the Ethernet header of each packet; only IPv4
goes over it. Status and keep-alive go once a minute, so a measurement of some minutes times what is left of an hour is an hour's;
that a silent device turns Stale is said once in its silence and not each hour, so it waits until the measurement is over.
``--more``: pods of a second node, for the cloud's memory.
"""

import argparse
import asyncio
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.bench_pods import PODS, pod
from tests.bench.bench_reports import cpu_s
from tests.bench.devices import fleet
from tests.kit.gateway import gateway
from tests.kit.platform import Edge, Platform
from tests.kit.wait import eventually

NODE, OTHER = "gw-1", "gw-2"
DEVICES = 5
SETTLE_S = 15.0
PATIENCE_S = 120.0
ETHERNET_BYTES = 14
EACH_MINUTE = ("link.keep_alive_s=60", "link.anti_entropy_s=60", "node_options.lease_every_s=60")
NO_NEWS = ("devices.stale_after_s=86400",)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a node has used until now."""

    at_s: float
    cpu_s: float
    bytes_up: int
    bytes_down: int
    packets: int

    @classmethod
    def of(cls, edge: Edge) -> "Counts":
        assert edge.host is not None
        files = ("tx_bytes", "tx_packets", "rx_bytes", "rx_packets")
        said = edge.host.run("ip", "-s", "-j", "link", "show", "dev", "up0")
        found = json.loads(said)[0]["stats64"]
        up, up_packets, down, down_packets = (int(found[f[:2]][f[3:]]) for f in files)
        return cls(
            time.monotonic(),
            cpu_s(edge.process.pid),
            up - ETHERNET_BYTES * up_packets,
            down - ETHERNET_BYTES * down_packets,
            up_packets + down_packets,
        )

    def since(self, before: "Counts") -> dict[str, float]:
        seconds = self.at_s - before.at_s
        per_hour = 3600.0 / seconds
        up, down = self.bytes_up - before.bytes_up, self.bytes_down - before.bytes_down
        return {
            "seconds": round(seconds),
            "cpu_percent": round(100 * (self.cpu_s - before.cpu_s) / seconds, 3),
            "ip_kib_per_hour": round((up + down) * per_hour / 1024, 1),
            "ip_bytes_up": up,
            "ip_bytes_down": down,
            "packets": self.packets - before.packets,
        }


async def running(platform: Platform) -> int:
    found = await platform.kube.list(PODS)
    return sum((one.get("status") or {}).get("phase") == "Running" for one in found)


async def onto_cable(platform: Platform, edge: Edge) -> float:
    """Let the link go over a cable from now on; return the seconds that edgecore took to start with its pods."""
    assert edge.host is not None
    outside, _ = edge.host.uplink()
    quiet = ("sysctl", "-q", "-w")  # the kernel asks for neighbours of IPv6
    edge.host.run(*quiet, "net.ipv6.conf.up0.disable_ipv6=1")
    await asyncio.to_thread(subprocess.run, [*quiet, f"net.ipv6.conf.sk{edge.host.pid}.disable_ipv6=1"], check=True)
    before, now = f"127.0.0.1:{edge.relay.port}", f"{outside}:{platform.broker_port}"
    edge.process.argv = [word.replace(before, now) for word in edge.process.argv]
    await edge.stop()
    began_s = time.monotonic()
    await edge.start()
    took_s = time.monotonic() - began_s
    await edge.connected()
    return took_s


def rss_mb(platform: Platform, edge: Edge) -> dict[str, float]:
    sizes = {"cloudcore": platform.cloud.rss_bytes(), "edgecore": edge.process.rss_bytes()}
    return {name: round(size / 1e6, 1) for name, size in sizes.items()}


async def make(platform: Platform, node: str, count: int) -> None:
    for number in range(count):
        made = pod(f"{node}-{number}")
        await platform.kube.create(PODS, {**made, "spec": {**made["spec"], "nodeName": node}})


async def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"pods": args.pods}
    async with Platform(folder) as platform:
        await platform.start_cloud()
        async with gateway(platform, folder / "h", NODE, *EACH_MINUTE, *NO_NEWS) as edge:
            await fleet(platform, NODE, edge.mqtt_port, DEVICES)
            result["rss_mb_without_pods"] = rss_mb(platform, edge)
            await make(platform, NODE, args.pods)

            async def all_run() -> bool:
                return bool(await running(platform) == args.pods)

            await eventually(all_run, PATIENCE_S)
            await asyncio.sleep(SETTLE_S)
            result["rss_mb_once_started"] = rss_mb(platform, edge)
            result["start_s"] = round(await onto_cable(platform, edge), 3)
            await edge.drained(60.0)
            await asyncio.sleep(SETTLE_S)
            before = Counts.of(edge)
            await asyncio.sleep(args.seconds)
            result["idle"] = Counts.of(edge).since(before)
            result["rss_mb"] = rss_mb(platform, edge)
            if args.more:
                result["cloudcore_rss_mb_200"] = await crowded(platform, args.more)
    result["edgecore_rss_mb"] = max(result["rss_mb"]["edgecore"], result["rss_mb_once_started"]["edgecore"])
    return result


async def crowded(platform: Platform, more: int) -> float:
    """Memory of a cloud with ``more`` pods at a node that cannot run them."""
    await platform.add_edge(OTHER, "pods.runtime=none")
    await make(platform, OTHER, more)

    async def told() -> bool:
        found = await platform.kube.list(PODS)
        return bool(sum(one["spec"].get("nodeName") == OTHER for one in found) == more)

    await eventually(told, PATIENCE_S)
    await asyncio.sleep(SETTLE_S)
    return round(platform.cloud.rss_bytes() / 1e6, 1)


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long CPU and bytes are counted")
    parser.add_argument("--more", type=int, default=180, help="pods of another node; 0: none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as folder:
        result: dict[str, Any] = uvloop.run(measure(Path(folder), args))
    return result


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
