"""Load: many MQTT devices on our own codec, and a watch that knows how old everything it shows is."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import msgspec

from proto.mqtt.packets import Ack, Connack, Connect, Publish, Suback, Subscribe, Subscription, encode
from proto.mqtt.reader import Reader
from proto.mqtt.topics import TopicNames
from tests.kit.kube import DEVICES, Kube
from tests.kit.platform import Platform
from tests.kit.wait import eventually

MODEL = {
    "apiVersion": "devices.kubeedge.io/v1beta1",
    "kind": "DeviceModel",
    "metadata": {"name": "meter", "namespace": "default"},
    "spec": {
        "properties": [
            {"name": "count", "type": "INT", "accessMode": "ReadOnly"},
            {"name": "limit", "type": "INT", "accessMode": "ReadWrite"},
        ]
    },
}


def device_object(name: str, node: str, limit: int | None = None) -> dict[str, Any]:
    """A Device with one reported and one writable property."""
    writable: dict[str, Any] = {"name": "limit"}
    if limit is not None:
        writable["desired"] = {"value": str(limit)}
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"deviceModelRef": {"name": "meter"}, "nodeName": node, "properties": [{"name": "count"}, writable]},
    }


class Meter(asyncio.Protocol):
    """One device on one connection: reports a growing count at QoS 1, hears results and deltas."""

    def __init__(self, name: str) -> None:
        self.name = name
        topic = f"$hw/events/device/default/{name}"
        self._filters = [f"{topic}/twin/update/result", f"{topic}/twin/update/delta"]
        self._head, self._topic = b"", f"{topic}/twin/update"
        self._reader = Reader(1 << 20, TopicNames(), version=4)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = self.pubacks = self.confirmed = self.refused = 0
        self.on_delta: Callable[[dict[str, str]], None] | None = None
        self.unseen: deque[tuple[int, float]] = deque()  # (count, when it was published), not yet seen at the watch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(encode(Connect(f"meter-{self.name}", clean_start=True, keep_alive_s=600), 4))

    def data_received(self, data: bytes) -> None:
        acks = bytearray()
        for packet in self._reader.feed(data):
            if type(packet) is Publish:
                if packet.qos:
                    acks += b"\x40\x02" + packet.packet_id.to_bytes(2, "big")
                self._heard(packet)
            elif type(packet) is Ack:
                self.pubacks += 1
            elif isinstance(packet, Connack):
                self.transport.write(encode(Subscribe(1, [Subscription(f, 1) for f in self._filters]), 4))
            elif isinstance(packet, Suback) and not self.ready.done():
                self.ready.set_result(None)
        if acks:
            self.transport.write(bytes(acks))

    def _heard(self, packet: Publish) -> None:
        if packet.topic.endswith("/delta"):
            if self.on_delta is not None:
                self.on_delta(msgspec.json.decode(packet.payload)["delta"])
        elif b'"code"' in packet.payload:
            self.refused += 1
        else:
            self.confirmed += 1

    def report(self) -> None:
        """Publish the next count."""
        self.sent += 1
        body = b'{"event_id":"%d","twin":{"count":{"actual":{"value":"%d"},"metadata":{"type":"int"}}}}'
        head, tail = Publish(self._topic, body % (self.sent, self.sent), 1).parts(4, 2)
        self.unseen.append((self.sent, time.monotonic()))
        self.transport.write(head + ((self.sent - 1) % 65535 + 1).to_bytes(2, "big") + tail)


async def connect(name: str, port: int) -> Meter:
    loop = asyncio.get_running_loop()
    _, meter = await loop.create_connection(lambda: Meter(name), "127.0.0.1", port)
    await asyncio.wait_for(meter.ready, 30)
    return meter


class Sight:
    """A watch on all DeviceStatuses: when each report was first visible, and how late the latest came."""

    def __init__(self, kube: Kube, meters: list[Meter]) -> None:
        self._kube = kube
        self._meters = {meter.name: meter for meter in meters}
        self.worst_s = 0.0
        self.latencies_s: list[float] = []
        self.events = 0
        self.on_seen: Callable[[Meter], None] | None = None

    async def run(self) -> None:
        async for event in self._kube.watch(f"{DEVICES}/devicestatuses"):
            self.events += 1
            obj = event["object"]
            meter = self._meters.get(obj["metadata"]["name"])
            if meter is not None:
                self._seen(meter, obj.get("status", {}).get("twins") or [])

    def _seen(self, meter: Meter, twins: list[dict[str, Any]]) -> None:
        shown = next(
            (int(t["reported"]["value"]) for t in twins if t["propertyName"] == "count" and "reported" in t), 0
        )
        now_s, news = time.monotonic(), False
        while meter.unseen and meter.unseen[0][0] <= shown:
            _, at_s = meter.unseen.popleft()
            self.worst_s = max(self.worst_s, now_s - at_s)
            self.latencies_s.append(now_s - at_s)
            news = True
        if news and self.on_seen is not None:
            self.on_seen(meter)


async def fleet(platform: Platform, node: str, port: int, count: int) -> list[Meter]:
    """Declare ``count`` devices and connect one client for each."""
    names = [f"meter-{n:04d}" for n in range(count)]
    await platform.kube.apply(MODEL, *(device_object(name, node) for name in names))
    edge = platform.edges[node]

    async def known() -> bool:
        return f"{count}" in str((await edge.status()).get("devices", {}).get("total", ""))

    await eventually(known, 60.0)
    return [await connect(name, port) for name in names]


def quantile(values: list[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
