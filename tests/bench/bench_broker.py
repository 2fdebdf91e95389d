"""Our broker, durable, against in-memory Mosquitto in the same run: QoS 1, a persistent subscriber, ACL on.

    python -m tests.bench.bench_broker            # JSON on the last line, a table before it
    python -m tests.bench.bench_broker --idle     # memory per idle connection instead

Brokers and load generator are separate processes. A message counts when its PUBACK came and the subscriber has it.
"""

import argparse
import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import uvloop

from proto.mqtt.packets import Ack, Connack, Connect, Packet, Publish, Suback, Subscribe, Subscription, encode
from proto.mqtt.reader import Reader
from proto.mqtt.topics import TopicNames
from tests.kit.ports import free_port
from tests.unit.mqtt.certificates import Certificates

ROOT = Path(__file__).parents[2]
WINDOW = 20  # unacknowledged messages of one publisher
PAYLOAD = b"x" * 200
GOALS = {1: 0.2, 50: 0.5}  # ratio to Mosquitto by publishers
MOSQUITTO = """listener {port} 127.0.0.1
allow_anonymous true
persistence false
acl_file {acl}
max_inflight_messages 200
max_queued_messages 0
set_tcp_nodelay true
"""
AMQTT = """listeners: {{default: {{type: tcp, bind: "127.0.0.1:{port}"}}}}
plugins: {{amqtt.plugins.authentication.AnonymousAuthPlugin: {{allow_anonymous: true}}}}
"""


class Client(asyncio.Protocol):
    """A load client on our own codec; QoS 1 both ways."""

    def __init__(self, client_id: str, *, clean: bool = True, topic_filter: str = "", topic: str = "") -> None:
        self.connect = Connect(client_id, clean_start=clean, keep_alive_s=600)
        self.topic_filter, self.topic = topic_filter, topic
        self.reader = Reader(1 << 20, TopicNames(), version=4)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = self.acknowledged = self.sent = 0
        self.sending = False
        self.head = self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(encode(self.connect, 4))

    def connection_lost(self, exc: Exception | None) -> None:
        self.sending = False

    def data_received(self, data: bytes) -> None:
        acks = bytearray()
        for packet in self.reader.feed(data):
            if type(packet) is Publish:
                self.received += 1
                if packet.qos:
                    acks += b"\x40\x02" + packet.packet_id.to_bytes(2, "big")
            elif type(packet) is Ack:
                self.acknowledged += 1
            else:
                self._control(packet)
        if acks:
            self.transport.write(bytes(acks))
        if self.sending:
            self.fill()

    def _control(self, packet: Packet) -> None:
        if isinstance(packet, Connack) and self.topic_filter:
            self.transport.write(encode(Subscribe(1, [Subscription(self.topic_filter, 1)]), 4))
        elif isinstance(packet, Connack | Suback) and not self.ready.done():
            self.ready.set_result(None)

    def start(self) -> None:
        self.head, self.tail = Publish(self.topic, PAYLOAD, 1).parts(4, 2)
        self.sending = True
        self.fill()

    def fill(self) -> None:
        out = bytearray()
        while self.sent - self.acknowledged < WINDOW:
            self.sent += 1
            out += self.head + ((self.sent - 1) % 65535 + 1).to_bytes(2, "big") + self.tail
        if out:
            self.transport.write(bytes(out))


async def client(port: int, *args: Any, tls: ssl.SSLContext | None = None, **kwargs: Any) -> Client:
    loop = asyncio.get_running_loop()
    name = "localhost" if tls else None
    made = await loop.create_connection(
        lambda: Client(*args, **kwargs), "127.0.0.1", port, ssl=tls, server_hostname=name
    )
    await asyncio.wait_for(made[1].ready, 30)
    return made[1]


async def load(port: int, publishers: int, seconds: float) -> dict[str, Any]:
    subscriber = await client(port, "bench-sub", clean=False, topic_filter="bench/#")
    senders = [await client(port, f"bench-{n}", topic=f"bench/{n}/report") for n in range(publishers)]
    for sender in senders:
        sender.start()
    await asyncio.sleep(min(1.0, seconds / 4))
    started, first = time.monotonic(), subscriber.received
    await asyncio.sleep(seconds)
    rate = (subscriber.received - first) / (time.monotonic() - started)
    for sender in senders:
        sender.sending = False
    await asyncio.sleep(1.0)
    acknowledged = sum(sender.acknowledged for sender in senders)
    return {"per_s": round(rate), "acknowledged": acknowledged, "received": subscriber.received}


@contextmanager
def running(argv: list[str], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def broker_argv(name: str, port: int, folder: Path) -> list[str]:
    if name == "skerry":
        acl = folder / "acl"
        acl.write_text("".join(f"allow {verb} bench/#\n" for verb in ("publish", "subscribe", "receive")))
        return [sys.executable, "-m", "proto.mqtt", "--port", str(port), "--data-dir", str(folder), "--acl", str(acl)]
    config = folder / f"{name}.conf"
    if name == "mosquitto":
        acl = folder / "mosquitto.acl"
        acl.write_text("topic readwrite bench/#\n")
        acl.chmod(0o644)
        folder.chmod(0o755)
        config.write_text(MOSQUITTO.format(port=port, acl=acl))
        return [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(config)]
    config.write_text(AMQTT.format(port=port))
    return [str(Path(sys.executable).parent / "amqtt"), "-c", str(config)]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(name: str, publishers: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as tmp:
        port = free_port()
        with running(broker_argv(name, port, Path(tmp)), port) as process:
            before = cpu_s(process.pid)
            argv = [sys.executable, "-m", "tests.bench.bench_broker", "load", str(port), str(publishers), str(seconds)]
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=seconds + 60, check=True)
            result: dict[str, Any] = json.loads(done.stdout)
            spent = cpu_s(process.pid) - before
    result["broker_cpu_us"] = round(spent / max(1, result["received"]) * 1e6, 1)
    return result


def rss_kb(pid: int) -> int:
    line = next(one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1])


async def idle(count: int, port: int, pid: int, tls: ssl.SSLContext | None = None) -> float:
    """Return kB of broker memory per idle connection with one subscription."""
    warm = [await client(port, f"warm-{n}", topic_filter=f"bench/warm/{n}", tls=tls) for n in range(50)]
    before = rss_kb(pid)
    held = [await client(port, f"idle-{n}", topic_filter=f"bench/idle/{n}", tls=tls) for n in range(count)]
    await asyncio.sleep(1)
    grown = rss_kb(pid) - before
    for one in (*warm, *held):
        one.transport.abort()
    return grown / count


def bench_idle(count: int) -> dict[str, Any]:
    report: dict[str, Any] = {"bench": "broker idle", "connections": count}
    for name, goal in (("plain_kb", 10), ("tls_kb", 60)):
        with tempfile.TemporaryDirectory() as tmp:
            argv, tls = [], None
            if name == "tls_kb":
                certificates = Certificates(Path(tmp))
                argv = ["--certificate", str(certificates.pair("server")), "--client-ca", str(certificates.ca)]
                tls = certificates.client_context("client")
            port = free_port()
            with running([*broker_argv("skerry", port, Path(tmp)), *argv], port) as process:
                report[name] = round(uvloop.run(idle(count, port, process.pid, tls)), 1)
            print(f"{name:>10} {report[name]:>7} goal {goal}")
    return report


def bench(names: list[str], seconds: float) -> dict[str, Any]:
    report: dict[str, Any] = {
        "bench": "broker",
        "seconds": seconds,
        "window": WINDOW,
        "payload_bytes": len(PAYLOAD),
        "rows": [],
    }
    print(f"{'publishers':>10} {'broker':>10} {'msg/s':>9} {'CPU us':>7} {'ratio':>6} {'goal':>5}")
    for publishers, goal in GOALS.items():
        base = 0
        for name in names:
            row = {"publishers": publishers, "broker": name, **measure(name, publishers, seconds)}
            base = base or row["per_s"]
            row["ratio"] = round(row["per_s"] / base, 3)
            row["goal"] = goal if name == "skerry" else None
            report["rows"].append(row)
            print(
                f"{publishers:>10} {name:>10} {row['per_s']:>9} {row['broker_cpu_us']:>7} {row['ratio']:>6} {row['goal'] or '':>5}"
            )
    return report


def main() -> None:
    if sys.argv[1:2] == ["load"]:
        print(json.dumps(uvloop.run(load(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--amqtt", action="store_true", help="measure amqtt too")
    parser.add_argument("--idle", action="store_true", help="memory per idle connection")
    parsed = parser.parse_args()
    names = ["mosquitto", "skerry"] + ["amqtt"] * parsed.amqtt
    print(json.dumps(bench_idle(1000) if parsed.idle else bench(names, parsed.seconds)))


if __name__ == "__main__":
    main()
