"""Byte streams over every kind of broker: memory, ours in process and by socket, Mosquitto; MQTT 3.1.1 and 5."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest

from proto.calls import Call, CallRefused
from proto.kit.channels import STDIN, STDOUT, ChannelsClosed
from proto.kit.clock import SystemClock
from proto.kit.errors import Retryable
from proto.link.broker import Broker
from proto.link.client import PahoBroker
from proto.link.memory import MemoryBroker
from proto.link.streams import NodeAway
from proto.mqtt.limits import BrokerSettings
from proto.mqtt.local import LocalBroker
from tests.kit.link import Cloud, Edge, running, start_cloud, start_edge
from tests.kit.mosquitto import Mosquitto
from tests.kit.streams import Calls, all_of, flood
from tests.kit.wait import eventually

CLOCK = SystemClock()
PING = Call(kind="ping")
Version = Literal[4, 5]


class StreamConformance:
    """A subclass supplies ``sides``: the brokers as the edge and the cloud see them."""

    async def sides(self, stack: AsyncExitStack, directory: Path) -> tuple[Broker, Broker]:
        raise NotImplementedError

    @pytest.fixture
    async def link(self, tmp_path: Path) -> AsyncIterator[tuple[Edge, Cloud]]:
        self.calls = Calls()
        async with AsyncExitStack() as stack:
            edge_side, cloud_side = await self.sides(stack, tmp_path)
            cloud = start_cloud(tmp_path / "cloud.db", cloud_side)
            edge = start_edge(tmp_path / "edge.db", edge_side, calls=self.calls.open)
            async with running(edge, cloud):
                await eventually(lambda: cloud.link.sessions().get("gw-1") and cloud.link.sessions()["gw-1"].connected)
                yield edge, cloud

    async def test_what_is_written_comes_back_and_the_end_is_orderly(self, link: tuple[Edge, Cloud]) -> None:
        """STREAM-3"""
        _, cloud = link
        channels = await cloud.link.streams.open("gw-1", PING)
        await channels.write(STDIN, b"hello")
        assert await channels.read() == (STDOUT, b"hello")
        await channels.finish(STDIN)
        assert await channels.read() is None
        await eventually(lambda: self.calls.open_now == 0)

    async def test_megabytes_arrive_whole_and_in_order(self, link: tuple[Edge, Cloud]) -> None:
        _, cloud = link
        channels = await cloud.link.streams.open("gw-1", Call(kind="logs", limit_bytes=5_000_001))
        assert await all_of(channels) == flood(0, 5_000_001)

    async def test_megabytes_go_both_ways_at_once(self, link: tuple[Edge, Cloud]) -> None:
        _, cloud = link
        channels = await cloud.link.streams.open("gw-1", PING)

        async def send() -> None:
            for start in range(0, 2_000_000, 50_000):
                await channels.write(STDIN, flood(start, 50_000))
            await channels.finish(STDIN)

        _, got = await asyncio.gather(send(), all_of(channels))
        assert got == flood(0, 2_000_000)

    async def test_a_refusal_has_the_node_s_own_words(self, link: tuple[Edge, Cloud]) -> None:
        """STREAM-3"""
        _, cloud = link
        with pytest.raises(CallRefused, match='pods "web" not found') as caught:
            await cloud.link.streams.open("gw-1", Call(kind="exec", pod="web"))
        assert (caught.value.status, caught.value.reason) == (404, "NotFound")

    async def test_a_slow_reader_stops_nobody_else(self, link: tuple[Edge, Cloud]) -> None:
        """STREAM-5"""
        _, cloud = link
        slow = [await cloud.link.streams.open("gw-1", Call(kind="logs", limit_bytes=1_000_000)) for _ in range(5)]
        for channels in slow:
            await channels.read()
        fast = await cloud.link.streams.open("gw-1", Call(kind="logs", limit_bytes=1_000_000))
        assert await all_of(fast) == flood(0, 1_000_000)
        for channels in slow:
            await channels.close()
        await eventually(lambda: self.calls.open_now == 0)

    async def test_many_streams_at_once_are_kept_apart(self, link: tuple[Edge, Cloud]) -> None:
        _, cloud = link

        async def one(number: int) -> None:
            size = 10_000 + number * 997
            channels = await cloud.link.streams.open("gw-1", Call(kind="logs", limit_bytes=size))
            assert await all_of(channels) == flood(0, size)

        await asyncio.gather(*(one(number) for number in range(60)))

    async def test_a_session_that_ends_breaks_its_streams_with_a_reason_at_both_ends(
        self, link: tuple[Edge, Cloud]
    ) -> None:
        """STREAM-10"""
        edge, cloud = link
        channels = await cloud.link.streams.open("gw-1", PING)
        edge.link.reconnect()
        with pytest.raises(ChannelsClosed, match="gw-1"):
            await channels.read()
        await eventually(lambda: self.calls.open_now == 0)
        assert "link to the cloud was lost" in self.calls.ends[0]
        await eventually(lambda: cloud.link.sessions()["gw-1"].connected and edge.link.status().connected)
        await eventually(lambda: self.works(cloud))

    async def works(self, cloud: Cloud) -> bool:
        try:
            again = await cloud.link.streams.open("gw-1", Call(kind="logs", limit_bytes=3))
        except Retryable:
            return False
        return await all_of(again) == flood(0, 3)

    async def test_a_node_that_is_away_is_said_to_be(self, link: tuple[Edge, Cloud]) -> None:
        _, cloud = link
        with pytest.raises(NodeAway, match="gw-9 is not connected"):
            await cloud.link.streams.open("gw-9", PING)


class TestMemory(StreamConformance):
    async def sides(self, stack: AsyncExitStack, directory: Path) -> tuple[Broker, Broker]:
        broker = MemoryBroker()
        return broker, broker


class TestOurs(StreamConformance):
    """As deployed: the cloud in process, the edge by socket."""

    version: Version = 5

    async def sides(self, stack: AsyncExitStack, directory: Path) -> tuple[Broker, Broker]:
        server = LocalBroker(BrokerSettings(connects_per_s=0))
        port = await server.listen("127.0.0.1", 0)
        stack.push_async_callback(server.close)
        return PahoBroker(f"mqtt://127.0.0.1:{port}", version=self.version, clock=CLOCK), server


class TestOurs311(TestOurs):
    version: Version = 4


class TestMosquitto(StreamConformance):
    version: Version = 5

    async def sides(self, stack: AsyncExitStack, directory: Path) -> tuple[Broker, Broker]:
        server = Mosquitto(directory)
        await server.start()
        stack.callback(server.kill)
        url = f"mqtt://127.0.0.1:{server.port}"
        return PahoBroker(url, version=self.version, clock=CLOCK), PahoBroker(url, version=self.version, clock=CLOCK)


class TestMosquitto311(TestMosquitto):
    version: Version = 4
