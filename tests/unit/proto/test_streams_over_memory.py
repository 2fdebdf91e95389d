"""Streams beside a whole link over the memory broker: what the machine alone cannot show."""

import asyncio
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from proto import topics
from proto.calls import Call
from proto.kit.channels import STDIN, STDOUT, Channels, ChannelsClosed
from proto.kit.errors import Retryable
from proto.link.memory import MemoryBroker
from proto.link.streams import NodeAway
from tests.kit.link import Cloud, Edge, running, start_cloud, start_edge, thing
from tests.kit.streams import Calls, all_of, flood
from tests.kit.wait import eventually

PING = Call(kind="ping")
KEY = "devices.kubeedge.io/devices/default/kiln"


class World:
    def __init__(self, broker: MemoryBroker, calls: Calls, cloud: Cloud, edge: Edge) -> None:
        self.broker, self.calls, self.cloud, self.edge = broker, calls, cloud, edge

    async def open(self, call: Call = PING) -> Channels:
        return await self.cloud.link.streams.open("gw-1", call)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    broker, calls = MemoryBroker(), Calls()
    cloud = start_cloud(tmp_path / "cloud.db", broker)
    edge = start_edge(tmp_path / "edge.db", broker, calls=calls.open)
    async with running(edge, cloud):
        await eventually(lambda: live(cloud))
        yield World(broker, calls, cloud, edge)


def live(cloud: Cloud) -> bool:
    found = cloud.link.sessions().get("gw-1")
    return found is not None and found.connected


async def test_a_lost_frame_breaks_its_stream_and_neither_another_nor_the_link(world: World) -> None:
    """STREAM-4"""
    broken, whole = await world.open(), await world.open()
    gone: list[str] = []

    def fate(topic: str, payload: bytes) -> int:
        if not gone and topic.endswith("/up") and b"first" in payload:
            gone.append(topic)
            return 0
        return 1

    world.broker.fate = fate
    await broken.write(STDIN, b"first")
    await eventually(lambda: gone)
    await broken.write(STDIN, b"second")
    with pytest.raises(ChannelsClosed, match="lost"):
        await broken.read()
    await whole.write(STDIN, b"more")
    assert await whole.read() == (STDOUT, b"more")
    await eventually(lambda: world.calls.open_now == 1)
    assert world.edge.link.status().connected


async def test_a_cloud_that_loses_only_its_own_connection_ends_streams_at_edges_whose_session_goes_on(
    world: World,
) -> None:
    """STREAM-10"""
    channels = await world.open()
    epoch = world.edge.link.status().epoch
    world.broker.cut("cloudcore")
    with pytest.raises(ChannelsClosed, match="broker"):
        await channels.read()
    await eventually(lambda: world.calls.open_now == 0)
    assert world.edge.link.status().epoch == epoch
    assert await all_of(await world.open(Call(kind="logs", limit_bytes=9))) == flood(0, 9)


async def test_a_broker_that_refuses_streams_to_the_cloud_ends_nothing_else(tmp_path: Path) -> None:
    """STREAM-12"""
    broker = MemoryBroker(allow=lambda _client, _verb, topic: "/s/" not in topic)
    cloud = start_cloud(tmp_path / "cloud.db", broker)
    edge = start_edge(tmp_path / "edge.db", broker, calls=Calls().open)
    async with running(edge, cloud):
        cloud.put("gw-1", KEY, thing("kiln", limit=1))
        await eventually(lambda: edge.replica.bodies() == {KEY: thing("kiln", limit=1)})
        with pytest.raises(NodeAway, match="the broker refuses streams"):
            await cloud.link.streams.open("gw-1", PING)


async def test_noise_on_a_stream_s_topic_is_counted_and_dropped(world: World) -> None:
    """STREAM-2"""
    channels = await world.open()
    stranger = await world.broker.connect("stranger")
    for number in (0, 5):
        await stranger.publish(topics.stream("gw-1", number, "up"), b"\xff\xff\xff")
        await stranger.publish(topics.stream("gw-1", number, "down"), b"\xff\xff\xff")
    await channels.write(STDIN, b"still")
    assert await channels.read() == (STDOUT, b"still")


async def test_an_opener_that_gives_up_leaves_nothing_at_the_node(world: World) -> None:
    """STREAM-9"""
    world.broker.fate = lambda topic, _payload: 0 if "/s/" in topic and topic.endswith("/up") else 1
    waiting = world.cloud.tasks.spawn(open_quietly(world), "opener")
    await eventually(lambda: world.calls.open_now == 1)
    waiting.cancel()
    await eventually(lambda: world.calls.open_now == 0)


async def open_quietly(world: World) -> None:
    await world.open()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_cut_a_reader_gets_everything_or_a_beginning_and_an_error(world: World, seed: int) -> None:
    """STREAM-4, STREAM-10"""
    rng = random.Random(seed)
    size, outcomes = 400_000, list[str]()

    async def one() -> None:
        try:
            channels = await world.open(Call(kind="logs", limit_bytes=size))
        except Retryable as error:
            outcomes.append(str(error))
            return
        got = bytearray()
        try:
            while (chunk := await channels.read()) is not None:
                got += chunk.data
        except ChannelsClosed as error:
            outcomes.append(str(error))
        else:
            outcomes.append("")
            assert len(got) == size
        assert flood(0, size).startswith(bytes(got))

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            await eventually(lambda: live(world.cloud) and world.edge.link.status().connected)
            for _ in range(3):
                group.create_task(one())
            enough = world.broker.published + rng.randrange(1, 60)
            started = 3 * number + 3
            await eventually(partial(lambda a, b: world.broker.published >= a or len(outcomes) == b, enough, started))
            world.broker.cut(rng.choice(["gw-1", "cloudcore"]))
    assert len(outcomes) == 36
    assert any(outcomes)
    await eventually(lambda: world.calls.open_now == 0)
