"""The whole link over real brokers in between: ours, Mosquitto, and amqtt's, which forgets."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proto.kit.clock import SystemClock
from proto.link.broker import Broker
from proto.link.client import PahoBroker
from proto.mqtt.limits import BrokerSettings
from proto.mqtt.local import LocalBroker
from tests.kit.link import running, start_cloud, start_edge, status, thing
from tests.kit.mosquitto import Mosquitto
from tests.kit.ports import free_port
from tests.kit.wait import eventually

CLOCK = SystemClock()
KEY = "devices.kubeedge.io/devices/default/kiln"
AMQTT = """
import asyncio, sys
from amqtt.broker import Broker

async def main():
    listener = {"type": "tcp", "bind": "127.0.0.1:" + sys.argv[1]}
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    await Broker({"listeners": {"default": listener}, "plugins": plugins}).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


class LinkConformance:
    """A subclass supplies the two ends' brokers, and how the broker dies and comes back."""

    edge_side: Broker
    cloud_side: Broker

    async def kill(self) -> None:
        raise NotImplementedError

    async def revive(self) -> None:
        raise NotImplementedError

    @pytest.fixture
    async def served(self, tmp_path: Path) -> AsyncIterator[None]:
        self.directory = tmp_path
        self.port = free_port()
        await self.revive()
        yield
        await self.kill()

    def brokers(self, version: int) -> None:
        self.edge_side = PahoBroker(f"mqtt://127.0.0.1:{self.port}", version=version, clock=CLOCK)
        self.cloud_side = PahoBroker(f"mqtt://127.0.0.1:{self.port}", version=version, clock=CLOCK)

    async def test_nothing_is_lost_twice_or_out_of_order_while_the_broker_dies(
        self, served: None, tmp_path: Path
    ) -> None:
        cloud = start_cloud(tmp_path / "cloud.db", self.cloud_side)
        edge = start_edge(tmp_path / "edge.db", self.edge_side)
        async with running(edge, cloud):
            await eventually(lambda: edge.link.status().connected)
            bodies = [str(i).encode() for i in range(1500)]
            for number in range(0, 1500, 50):
                await edge.put(*bodies[number : number + 50])
                if number == 700:
                    await self.kill()
                    cloud.put("gw-1", KEY, thing("kiln", limit=number))
                    await edge.report(KEY, status(number))
                    await eventually(lambda: not edge.link.status().connected)
                    await self.revive()
            await cloud.link.send_message("gw-1", "command", b"go")
            await eventually(lambda: cloud.replica.history("gw-1") == bodies, 20)
            await eventually(lambda: edge.replica.bodies() == {KEY: thing("kiln", limit=700)})
            await eventually(lambda: cloud.replica.statuses("gw-1") == {KEY: status(700)})
            await eventually(lambda: edge.replica.got() == [("command", b"go")])

    async def test_a_large_object_and_a_burst_share_the_line(self, served: None, tmp_path: Path) -> None:
        cloud = start_cloud(tmp_path / "cloud.db", self.cloud_side)
        edge = start_edge(tmp_path / "edge.db", self.edge_side)
        async with running(edge, cloud):
            large = thing("kiln", blob="x" * 1_000_000)
            cloud.put("gw-1", KEY, large)
            await edge.put(*(b"y" * 300 for _ in range(3000)))
            await eventually(lambda: edge.replica.bodies() == {KEY: large}, 20)
            await eventually(lambda: len(cloud.replica.history("gw-1")) == 3000, 20)


class TestMosquitto5(LinkConformance):
    version = 5

    async def kill(self) -> None:
        self.server.kill()

    async def revive(self) -> None:
        self.server = Mosquitto(self.directory, port=self.port)
        await self.server.start()
        self.brokers(self.version)


class TestMosquitto311(TestMosquitto5):
    version = 4


class TestOurs(LinkConformance):
    async def kill(self) -> None:
        await self.server.close()

    async def revive(self) -> None:
        first = not hasattr(self, "server")
        self.server = LocalBroker(BrokerSettings(connects_per_s=0))
        await self.server.listen("127.0.0.1", self.port)
        if first:
            self.brokers(5)


class TestAmqtt(LinkConformance):
    """In its own process: its shutdown waits for clients that do not leave, so it is killed."""

    async def kill(self) -> None:
        self.server.kill()
        self.server.wait()

    async def revive(self) -> None:
        self.server = subprocess.Popen([sys.executable, "-c", AMQTT, str(self.port)], stderr=subprocess.DEVNULL)  # noqa: ASYNC220
        await eventually(self.answers)
        self.brokers(4)

    async def answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
