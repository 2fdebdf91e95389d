"""What time does to twins: silence, repeated deltas, coalesced statuses (TWIN-8, TWIN-15, TWIN-16)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kit.clock import ManualClock
from tests.kit.wait import eventually
from tests.unit.edgecore_devices.room import MODEL, Room, device, open_room

D = "$hw/events/device/default/kiln"


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Room, ManualClock]]:
    clock = ManualClock()
    async with open_room(folder, clock) as room, asyncio.TaskGroup() as group:
        task = group.create_task(room.controller.run())
        await eventually(lambda: room.broker.receive is not None)
        try:
            yield room, clock
        finally:
            task.cancel()


async def pass_time(room: Room, clock: ManualClock, seconds: float) -> None:
    for _ in range(int(seconds)):
        await asyncio.sleep(0)
        clock.advance(1.0)
        await room.controller.settled()


async def report(room: Room, value: str) -> None:
    await room.send(f"{D}/twin/update", {"twin": {"temperature": {"actual": {"value": value}}}})


async def test_a_device_that_misses_three_report_cycles_is_stale_until_it_reports(tmp_path: Path) -> None:
    """TWIN-15"""
    async with running(tmp_path) as (room, clock):
        spec = device()
        spec["spec"]["properties"][0]["reportCycle"] = 5000
        await room.put(MODEL, spec)
        await report(room, "1")
        await pass_time(room, clock, 14)
        assert room.condition("Stale")["status"] == "False"

        await pass_time(room, clock, 3)
        assert (room.condition("Stale")["status"], room.condition("Stale")["reason"]) == ("True", "Silent")

        await report(room, "2")
        assert room.condition("Stale")["status"] == "False"


async def test_going_stale_is_a_newer_version_for_the_cloud(tmp_path: Path) -> None:
    """TWIN-2, TWIN-15"""
    async with running(tmp_path) as (room, clock):
        await room.put(MODEL, device())
        await report(room, "1")
        before = room.status()["extensions"]["version"]

        await pass_time(room, clock, 302)

        assert room.condition("Stale")["status"] == "True"
        assert room.status()["extensions"]["version"] > before


async def test_a_pending_delta_is_said_again_every_minute(tmp_path: Path) -> None:
    """TWIN-8"""
    async with running(tmp_path) as (room, clock):
        await room.put(MODEL, device(desired={"setpoint": "900"}))
        assert len(room.broker.take(f"{D}/twin/update/delta")) == 1

        await pass_time(room, clock, 59)
        assert room.broker.take(f"{D}/twin/update/delta") == []
        await pass_time(room, clock, 3)
        assert len(room.broker.take(f"{D}/twin/update/delta")) == 1


async def test_a_flood_of_reports_coalesces_statuses_and_keeps_every_history_row(tmp_path: Path) -> None:
    """TWIN-16"""
    async with running(tmp_path) as (room, clock):
        await room.put(MODEL, device())
        before = room.outbox.state_writes
        room.outbox.on_their_way = 1_000  # the cloud is slower than the devices, or away

        for value in range(200):
            await report(room, str(value))

        assert len(room.outbox.messages) == 200
        assert room.outbox.state_writes - before < 100
        clock.advance(1.0)
        await eventually(lambda: room.twin("temperature").get("reported", {}).get("value") == "199")


async def test_a_status_that_waited_is_written_once_the_cloud_has_room_again(tmp_path: Path) -> None:
    """TWIN-16"""
    async with running(tmp_path) as (room, _):
        await room.put(MODEL, device())
        room.outbox.on_their_way = 1_000
        await report(room, "7")
        assert "reported" not in room.twin("temperature")

        room.outbox.on_their_way = 0
        await report(room, "8")

        assert room.twin("temperature")["reported"]["value"] == "8"


async def test_a_quiet_rooms_status_is_written_with_its_report(tmp_path: Path) -> None:
    async with running(tmp_path) as (room, _):
        await room.put(MODEL, device())
        before = room.db.transactions

        await report(room, "7")

        assert room.db.transactions == before + 1
        assert room.twin("temperature")["reported"]["value"] == "7"
