from pathlib import Path

from proto.link.memory import MemoryBroker
from tests.kit.link import running, start_cloud, start_edge, status, thing
from tests.kit.wait import eventually

KEY = "devices.kubeedge.io/devices/default/kiln"


async def test_objects_go_down_and_statuses_and_messages_go_up(tmp_path: Path) -> None:
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        cloud.put("gw-1", KEY, thing("kiln", limit=1))
        await edge.put(b"1", b"2", b"3")
        await edge.report(KEY, status(1, t=20))
        await eventually(lambda: cloud.replica.history("gw-1") == [b"1", b"2", b"3"])
        await eventually(lambda: edge.replica.bodies() == {KEY: thing("kiln", limit=1)})
        await eventually(lambda: cloud.replica.statuses("gw-1") == {KEY: status(1, t=20)})
        await eventually(lambda: edge.link.status().pending_messages == 0 and edge.link.status().pending_states == 0)
        cloud.put("gw-1", KEY, thing("kiln", limit=2))
        await eventually(lambda: edge.replica.bodies() == {KEY: thing("kiln", limit=2)})
        cloud.put("gw-1", KEY, None)
        await eventually(lambda: edge.replica.bodies() == {})
        await cloud.link.send_message("gw-1", "command", b"go")
        await eventually(lambda: edge.replica.got() == [("command", b"go")])


async def test_changes_on_both_sides_of_a_cut_meet_after_it(tmp_path: Path) -> None:
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        await eventually(lambda: edge.link.status().connected)
        broker.stop()
        await eventually(lambda: not edge.link.status().connected)
        cloud.put("gw-1", KEY, thing("kiln", limit=7))
        await edge.put(*(str(i).encode() for i in range(2000)))
        await edge.report(KEY, status(4, t=1))
        broker.start(forget=True)
        await eventually(lambda: cloud.replica.history("gw-1") == [str(i).encode() for i in range(2000)])
        await eventually(lambda: edge.replica.bodies() == {KEY: thing("kiln", limit=7)})
        await eventually(lambda: cloud.replica.statuses("gw-1") == {KEY: status(4, t=1)})


async def test_an_object_larger_than_a_frame_arrives_whole(tmp_path: Path) -> None:
    broker = MemoryBroker()
    cloud, edge = start_cloud(tmp_path / "cloud.db", broker), start_edge(tmp_path / "edge.db", broker)
    async with running(edge, cloud):
        large = thing("kiln", blob="x" * 1_500_000)
        cloud.put("gw-1", KEY, large)
        await edge.put(b"y" * 1_900_000, b"z")
        await eventually(lambda: edge.replica.bodies() == {KEY: large})
        await eventually(lambda: [len(b) for b in cloud.replica.history("gw-1")] == [1_900_000, 1])
