"""Whole links over the memory broker: faults that need both runners."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from proto import gap, topics
from proto.kit.database import Tx
from proto.kit.errors import StorageFull
from proto.link.log import NodeRecord
from proto.link.memory import MemoryBroker
from proto.session import EdgeState
from tests.kit.link import FAST, Cloud, Edge, running, start_cloud, start_edge, status, thing
from tests.kit.wait import eventually

KEY = "devices.kubeedge.io/devices/default/kiln"


async def settled(cloud: Cloud, edge: Edge, history: list[bytes]) -> None:
    await eventually(lambda: cloud.replica.history(edge.node) == history)
    await eventually(lambda: edge.link.status().pending_messages == 0)


async def test_a_broker_that_loses_and_doubles_changes_nothing(tmp_path: Path) -> None:
    count = Counter[str]()

    def fate(topic: str, _payload: bytes) -> int:
        count[topic] += 1
        return (1, 0, 2, 1)[count[topic] % 4]

    broker = MemoryBroker(fate=fate)
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        bodies = [str(i).encode() for i in range(60)]
        for number, body in enumerate(bodies):
            await edge.put(body)
            cloud.put("gw-1", KEY, thing("kiln", limit=number))
        await settled(cloud, edge, bodies)
        await eventually(lambda: edge.replica.bodies() == {KEY: thing("kiln", limit=59)})


async def test_a_half_open_connection_is_noticed_in_one_and_a_half_keep_alives(tmp_path: Path) -> None:
    """LINK-11"""
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        await eventually(lambda: edge.link.status().connected)
        first = edge.link.status().epoch
        broker.connections["gw-1"].paused = True
        await edge.put(b"1")
        await eventually(lambda: edge.link.status().epoch > first, 1.5 * FAST.keep_alive_s + 1.5)
        await settled(cloud, edge, [b"1"])


async def test_a_restart_of_both_ends_loses_and_repeats_nothing(tmp_path: Path) -> None:
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    await edge.put(*(str(i).encode() for i in range(500)))
    await edge.stop()
    await cloud.stop()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        await edge.put(b"500")
        await settled(cloud, edge, [str(i).encode() for i in range(501)])


async def test_a_copied_disk_is_fenced_and_both_sides_know(tmp_path: Path) -> None:
    """LINK-6 and LINK-7"""
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    await eventually(lambda: edge.link.status().connected)
    await edge.stop()
    shutil.copy(tmp_path / "edge.db", tmp_path / "copy.db")
    edge = start_edge(tmp_path / "edge.db", broker)
    await eventually(lambda: edge.link.status().connected)
    await edge.put(b"mine")
    await settled(cloud, edge, [b"mine"])
    copy = start_edge(tmp_path / "copy.db", broker, seed=9)
    async with running(copy, edge, cloud):
        await copy.put(b"theirs")
        await eventually(lambda: copy.link.status().fenced)
        assert "copy" in copy.link.status().last_error
        await eventually(lambda: [node for node, _ in cloud.replica.alarms] == ["gw-1"])
        await eventually(lambda: edge.link.status().connected)
        await edge.put(b"more")
        await settled(cloud, edge, [b"mine", b"more"])


async def test_a_wiped_edge_that_joined_again_counts_from_one_without_duplicates(tmp_path: Path) -> None:
    """LINK-15 and LINK-27"""
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    await edge.put(b"1", b"2")
    await settled(cloud, edge, [b"1", b"2"])
    await cloud.link.send_message("gw-1", "command", b"first")
    await eventually(lambda: edge.replica.got() == [("command", b"first")])
    await edge.stop()
    edge = start_edge(tmp_path / "new.db", broker)
    async with running(edge, cloud):
        await edge.put(b"3")
        await settled(cloud, edge, [b"1", b"2", b"3"])
        await cloud.link.send_message("gw-1", "command", b"second")
        await eventually(lambda: edge.replica.got() == [("command", b"second")])


async def test_what_only_the_lost_cloud_knew_becomes_a_gap_row(tmp_path: Path) -> None:
    """LINK-9 and LINK-19"""
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    await edge.put(b"1")
    await settled(cloud, edge, [b"1"])
    await cloud.db.backup(tmp_path / "backup.db")
    await edge.put(b"2", b"3")
    await settled(cloud, edge, [b"1", b"2", b"3"])
    await cloud.stop()
    cloud = start_cloud(tmp_path / "backup.db", MemoryBroker())
    await cloud.log.renew()
    await cloud.stop()
    cloud = start_cloud(tmp_path / "backup.db", broker)
    async with running(edge, cloud):
        await edge.put(b"4")
        await settled(cloud, edge, [b"1", b"4"])
        (body,) = cloud.replica.history("gw-1", "gap")
        assert gap.decode(body) == gap.Gap(2, 3, "restored")


async def test_no_delete_is_sent_while_informers_list(tmp_path: Path) -> None:
    """LINK-23"""
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    cloud.put("gw-1", KEY, thing("kiln"))
    await eventually(lambda: KEY in edge.replica.bodies())
    await cloud.stop()
    cloud = start_cloud(tmp_path / "cloud.db", broker)
    cloud.replica.synced = False
    async with running(edge, cloud):
        await eventually(lambda: cloud.link.sessions().get("gw-1") and cloud.link.sessions()["gw-1"].connected)
        cloud.link.changed("gw-1", KEY)
        await edge.put(b"1")
        await settled(cloud, edge, [b"1"])
        assert KEY in edge.replica.bodies()
        cloud.replica.synced = True
        await eventually(lambda: edge.replica.bodies() == {})


async def test_a_status_that_the_api_lost_is_sent_again(tmp_path: Path) -> None:
    """LINK-22, LINK-25 and LINK-28"""
    broker = MemoryBroker()
    often = msgspec.structs.replace(FAST, anti_entropy_s=0.3)
    cloud = start_cloud(tmp_path / "cloud.db", broker, settings=often)
    edge = start_edge(tmp_path / "edge.db", broker, settings=often)
    async with running(edge, cloud):
        await edge.report(KEY, status(3))
        await eventually(lambda: cloud.replica.statuses("gw-1") == {KEY: status(3)})
        await cloud.db.tx(lambda tx: tx.execute("DELETE FROM t_api"))
        await eventually(lambda: cloud.replica.statuses("gw-1") == {KEY: status(3)})


async def test_a_full_disk_gets_the_reserve_and_then_takes_nothing_new(tmp_path: Path) -> None:
    """LINK-18"""
    held = msgspec.structs.replace(FAST, reserve_bytes=1 << 16)
    edge = start_edge(tmp_path / "edge.db", MemoryBroker(), settings=held)
    async with running(edge):
        await eventually(lambda: edge.link.session)
        fails = iter([True, False])

        def work(_tx: Tx) -> str:
            if next(fails):
                raise StorageFull("full")
            return "done"

        assert await edge.link.store.tx(work) == "done"
        assert edge.link.outbox.closed
        await eventually(lambda: not edge.link.outbox.closed)
        await edge.put(b"1")


async def test_an_unknown_kind_and_malformed_frames_do_not_stop_the_lane(tmp_path: Path) -> None:
    """LINK-29 and WIRE-8"""
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        await eventually(lambda: edge.link.status().connected)
        for junk in (b"\xff" * 20, b"x" * 300_000):
            broker.route(topics.up("gw-1"), junk, retain=False)
            broker.route(topics.down("gw-1"), junk, retain=False)
        await edge.put(b"?", kind="never heard of")
        await edge.put(b"1")
        await settled(cloud, edge, [b"1"])


async def test_hellos_are_judged_a_few_at_a_time(tmp_path: Path) -> None:
    """LINK-38"""
    broker = MemoryBroker()
    few = msgspec.structs.replace(FAST, hello_concurrency=3)
    cloud = start_cloud(tmp_path / "cloud.db", broker, settings=few)
    running_now, most = 0, 0
    update = cloud.log.update

    async def slow(node: str, change: Any) -> NodeRecord:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        record = await update(node, change)
        running_now -= 1
        return record

    object.__setattr__(cloud.log, "update", slow)
    edges = [start_edge(tmp_path / f"{i}.db", broker, node=f"gw-{i}", seed=i) for i in range(15)]
    async with running(*edges, cloud):
        await eventually(lambda: all(edge.link.status().connected for edge in edges))
        assert most <= 2 * few.hello_concurrency  # hellos, and confirmations of those judged before


async def test_a_command_of_a_restored_cloud_waits_for_older_ones(tmp_path: Path) -> None:
    """LINK-16"""
    broker = MemoryBroker()
    cloud = start_cloud(tmp_path / "cloud.db", broker)
    for number in range(5):
        await cloud.link.send_message("gw-1", "command", f"old {number}".encode())
    await cloud.log.renew()
    await cloud.stop()
    cloud = start_cloud(tmp_path / "cloud.db", broker)
    await cloud.link.send_message("gw-1", "command", b"new")
    edge = start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        expected = [("command", f"old {n}".encode()) for n in range(5)] + [("command", b"new")]
        await eventually(lambda: edge.replica.got() == expected)
        await eventually(lambda: edge.link.session is not None and edge.link.session.state is EdgeState.LIVE)


async def test_a_replica_that_fails_ends_its_session_and_nothing_else(tmp_path: Path) -> None:
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    other = start_edge(tmp_path / "other.db", broker, node="gw-2", seed=5)
    async with running(edge, other, cloud):
        await eventually(lambda: edge.link.status().connected and other.link.status().connected)
        first, second = edge.link.status().epoch, other.link.status().epoch
        fails = iter([True])
        body = cloud.replica.body

        def failing(node: str, key: str) -> bytes | None:
            if node == "gw-1" and next(fails, False):
                raise ValueError("a bug")
            return body(node, key)

        object.__setattr__(cloud.replica, "body", failing)
        cloud.put("gw-1", KEY, thing("kiln"))
        await eventually(lambda: edge.replica.bodies() == {KEY: thing("kiln")})
        assert edge.link.status().epoch > first
        assert other.link.status().epoch == second


async def test_a_kicked_node_says_hello_again(tmp_path: Path) -> None:
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        await eventually(lambda: edge.link.status().connected and cloud.replica.told)
        first = edge.link.status().epoch
        await cloud.link.kick("gw-1", "maintenance")
        await eventually(lambda: edge.link.status().connected and edge.link.status().epoch > first)
        await eventually(lambda: [what for what, _, _ in cloud.replica.told][:2] == ["connected", "lost"])
