from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgecore import machine, node
from edgecore.machine import Facts
from edgecore.settings import NodeOptions
from proto.kit import canonical
from proto.kit.database import Database, Tx
from proto.kit.errors import StorageFull
from proto.link.edge import LinkStatus
from proto.link.outbox import PRIORITY
from tests.kit.clock import ManualClock

FACTS = Facts(
    hostname="gateway",
    address="192.0.2.7",
    architecture="arm64",
    kernel="6.1.0",
    os_image="Debian GNU/Linux 12 (bookworm)",
    machine_id="m",
    boot_id="b",
    cpus=4,
    memory_bytes=(1 << 30) + 5,
    memory_free_bytes=1 << 29,
    disk_bytes=1 << 34,
    disk_free_bytes=1 << 33,
)


class Outbox:
    def __init__(self) -> None:
        self.states: list[tuple[str, Any]] = []
        self.messages: list[tuple[str, Any]] = []
        self.full = False

    def put_state(self, tx: Tx, key: str, body: bytes, *, priority: int) -> None:
        assert priority < PRIORITY, "the node's own status goes before those of its devices"
        if self.full:
            raise StorageFull("no room")
        tx.after_commit(lambda: self.states.append((key, canonical.decode(body))))

    def put_message(self, tx: Tx, kind: str, body: bytes) -> None:
        tx.after_commit(lambda: self.messages.append((kind, canonical.decode(body))))


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database.open(tmp_path / "edge.db", [node.SCHEMA])
    yield db
    await db.close()


def status_of(db: Database, outbox: Outbox, clock: ManualClock) -> node.NodeStatus:
    out = node.NodeStatus("gw-1", db, outbox, NodeOptions(), disk=db.path.parent, cloud_host="", clock=clock)
    out.look = lambda: out.facts
    out.facts = FACTS
    return out


async def test_a_status_is_sent_on_change_only_and_its_version_grows(db: Database) -> None:
    outbox = Outbox()
    status = status_of(db, outbox, ManualClock())

    assert await status.refresh()
    assert not await status.refresh()
    status.facts = msgspec.structs.replace(FACTS, disk_free_bytes=1)
    assert await status.refresh()

    assert [key for key, _ in outbox.states] == ["core/nodes/-/gw-1"] * 2
    assert [body["version"] for _, body in outbox.states] == [1, 2]
    assert [body["uid"] for _, body in outbox.states] == ["", ""]


async def test_after_a_restart_the_version_goes_on_and_nothing_is_repeated(db: Database) -> None:
    outbox, clock = Outbox(), ManualClock()
    await status_of(db, outbox, clock).refresh()

    again = status_of(db, outbox, clock)

    assert not await again.refresh()
    again.facts = msgspec.structs.replace(FACTS, kernel="6.2.0")
    await again.refresh()
    assert outbox.states[-1][1]["version"] == 2


async def test_only_the_condition_that_changed_gets_a_new_transition_time(db: Database) -> None:
    outbox, clock = Outbox(), ManualClock()
    status = status_of(db, outbox, clock)
    await status.refresh()
    clock.advance(60)
    status.facts = msgspec.structs.replace(FACTS, memory_free_bytes=1)
    await status.refresh()

    conditions = {item["type"]: item for item in outbox.states[-1][1]["status"]["conditions"]}
    assert conditions["MemoryPressure"]["status"] == "True"
    assert conditions["MemoryPressure"]["lastTransitionTime"] == "2026-01-01T00:01:00Z"
    assert conditions["Ready"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"


async def test_a_condition_that_changes_and_a_reboot_are_events(db: Database) -> None:
    outbox = Outbox()
    status = status_of(db, outbox, ManualClock())
    await status.refresh()
    status.facts = msgspec.structs.replace(FACTS, disk_free_bytes=1)
    await status.refresh()
    status.facts = msgspec.structs.replace(FACTS, boot_id="c")
    await status.refresh()

    said = [(body["type"], body["reason"]) for kind, body in outbox.messages if kind == "event"]
    assert said == [
        ("Warning", "EdgeHasDiskPressure"),
        ("Normal", "EdgeHasNoDiskPressure"),
        ("Warning", "Rebooted"),
    ]
    assert outbox.messages[0][1]["involvedObject"] == {"kind": "Node", "name": "gw-1", "uid": "gw-1"}


async def test_registration_is_sent_once_per_content_and_again_while_the_cloud_does_not_know_us(db: Database) -> None:
    outbox = Outbox()
    status = status_of(db, outbox, ManualClock())

    assert await status.register(known_to_cloud=False)
    assert not await status.register(known_to_cloud=True)
    assert await status.register(known_to_cloud=False)
    assert not await status_of(db, outbox, ManualClock()).register(known_to_cloud=True)

    kind, body = outbox.messages[0]
    assert (kind, body["kind"], body["metadata"]["labels"]["kubernetes.io/hostname"]) == ("register", "Node", "gw-1")
    assert len(outbox.messages) == 2


async def test_a_lease_is_a_small_message(db: Database) -> None:
    outbox = Outbox()

    await status_of(db, outbox, ManualClock()).lease()

    assert outbox.messages == [("lease", {})]


class Link:
    """The link as the node room sees it."""

    def __init__(self) -> None:
        self.connected, self.epoch, self.known = False, 0, False

    def status(self) -> LinkStatus:
        return LinkStatus(
            connected=self.connected,
            epoch=self.epoch,
            since_s=0.0,
            pending_states=0,
            pending_messages=0,
            pending_bytes=0,
            fenced=False,
            last_error="",
        )


def room_of(db: Database, outbox: Outbox, clock: ManualClock, link: Link) -> node.NodeRoom:
    status = status_of(db, outbox, clock)
    return node.NodeRoom(status, NodeOptions(), link=link.status, known=lambda: link.known, clock=clock)


async def test_a_node_that_is_away_queues_one_registration_and_no_lease(db: Database) -> None:
    outbox, clock = Outbox(), ManualClock()
    for _ in range(2):  # a restart
        room = room_of(db, outbox, clock, Link())
        for _ in range(5):
            await room.turn()
            clock.advance(100)

    assert [kind for kind, _ in outbox.messages] == ["register"]


async def test_a_connected_node_renews_its_lease_each_minute_and_at_each_session(db: Database) -> None:
    outbox, clock, link = Outbox(), ManualClock(), Link()
    link.connected, link.known, link.epoch = True, True, 1
    room = room_of(db, outbox, clock, link)
    for _ in range(121):
        await room.turn()
        clock.advance(1)
    link.epoch = 2
    await room.turn()

    assert [kind for kind, _ in outbox.messages].count("lease") == 4


async def test_a_cloud_that_forgot_this_node_is_told_again(db: Database) -> None:
    outbox, clock, link = Outbox(), ManualClock(), Link()
    link.connected, link.epoch = True, 1
    room = room_of(db, outbox, clock, link)
    for _ in range(int(node.REGISTER_AGAIN_S) + 2):
        await room.turn()
        clock.advance(1)
    link.known = True
    for _ in range(100):
        await room.turn()
        clock.advance(1)

    assert [kind for kind, _ in outbox.messages].count("register") == 2


async def test_a_full_disk_is_trouble_until_there_is_room(db: Database) -> None:
    outbox, clock = Outbox(), ManualClock()
    room = room_of(db, outbox, clock, Link())
    outbox.full = True
    await room.turn()
    assert "no room" in room.trouble

    outbox.full = False
    clock.advance(20)
    await room.turn()
    assert not room.trouble
    assert len(outbox.states) == 1


def test_node_info_has_all_that_clients_require() -> None:
    status = node.status("gw-1", FACTS, NodeOptions())

    assert all(isinstance(value, str) for value in status["nodeInfo"].values())
    assert len(status["nodeInfo"]) == 10
    assert status["capacity"]["memory"] == "1048576Ki"
    assert status["addresses"][0] == {"type": "InternalIP", "address": "192.0.2.7"}


def test_this_machine_has_real_values(tmp_path: Path) -> None:
    facts = machine.observe(tmp_path, "192.0.2.1")

    assert facts.memory_bytes > facts.memory_free_bytes > 0
    assert facts.disk_bytes > facts.disk_free_bytes > 0
    assert facts.boot_id
    assert facts.cpus >= 1
    assert facts.architecture in {"amd64", "arm64", "arm"}


def test_a_machine_without_proc_is_described_with_zeros(tmp_path: Path) -> None:
    assert machine.observe(tmp_path, proc=tmp_path).memory_bytes == 0


async def test_a_start_is_no_news_until_the_runtime_was_asked_and_its_going_is_told_at_once(db: Database) -> None:
    outbox, clock = Outbox(), ManualClock()
    room = room_of(db, outbox, clock, Link())
    asked, said = False, node.Workloads(ready=False, reason="ContainerRuntimeDown", message="not looked at yet")
    room._status.asked, room._status.workloads = lambda: asked, lambda: said
    await room.turn()
    before = list(outbox.states)
    asked, said = True, node.Workloads(pods=110)
    clock.advance(1)
    await room.turn()
    ready = ready_of(outbox)
    said = node.Workloads(ready=False, reason="ContainerRuntimeDown", message="gone")
    clock.advance(1)
    await room.turn()

    assert (before, ready, ready_of(outbox)) == ([], "True", "False")


def ready_of(outbox: Outbox) -> str:
    """The status of the condition Ready in what was put last."""
    conditions = outbox.states[-1][1]["status"]["conditions"]
    return next(str(c["status"]) for c in conditions if c["type"] == "Ready")
