"""Who is here and who is away: a short reconnect is no news, and just after a start nobody is judged."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cloudcore.hub.sessions import Sessions
from tests.kit.clock import ManualClock

KNOWN = ("gw-1", "gw-2")


class Room:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sessions = Sessions(self.clock, away_after_s=4.0, settle_s=15.0)
        self.told: list[str] = []
        self.sessions.listen(self.told.append)

    async def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            for _ in range(3):
                await asyncio.sleep(0)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    made = Room()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.sessions.run(lambda: KNOWN))
        await asyncio.sleep(0)
        yield made
        task.cancel()


async def test_a_short_reconnect_is_no_absence(room: Room) -> None:
    room.sessions.connected("gw-1", 1)
    room.sessions.lost("gw-1", 1)
    await room.pass_time(3)
    assert not room.sessions.is_away("gw-1")

    room.sessions.connected("gw-1", 2)
    await room.pass_time(10)

    assert not room.sessions.is_away("gw-1")


async def test_a_lost_node_is_away_after_a_while_and_it_is_told(room: Room) -> None:
    room.sessions.connected("gw-1", 1)
    room.sessions.lost("gw-1", 1)
    room.told.clear()

    await room.pass_time(5)

    assert room.sessions.is_away("gw-1")
    assert room.told == ["gw-1"]


async def test_the_end_of_an_older_session_changes_nothing(room: Room) -> None:
    room.sessions.connected("gw-1", 2)

    room.sessions.lost("gw-1", 1)

    assert room.sessions.is_connected("gw-1")


async def test_after_a_start_nodes_may_say_hello_before_they_count_as_away(room: Room) -> None:
    room.sessions.connected("gw-1", 7)
    await room.pass_time(10)
    assert not room.sessions.is_known("gw-2")
    assert not room.sessions.is_away("gw-2")

    await room.pass_time(6)

    assert room.sessions.is_away("gw-2")
    assert "gw-2" in room.told
    assert not room.sessions.is_away("gw-1")
