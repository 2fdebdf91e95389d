"""Writes at once while load is light, at intervals while it is heavy, and never an older state last."""

import asyncio

from cloudcore.hub.pace import Pace
from cloudcore.hub.writes import CoalescedWrites
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.errors import Retryable
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually


def run_for(pace: Pace, clock: ManualClock, seconds: float, per_s: int) -> None:
    for _ in range(int(seconds * 100)):
        clock.advance(0.01)
        pace.note(per_s // 100)


def test_pace_slows_under_load_and_recovers() -> None:
    clock = ManualClock()
    pace = Pace(clock, busy_reports_per_s=900, busy_interval_s=0.4)

    run_for(pace, clock, 3, 800)
    assert pace.interval_s() == 0.0
    run_for(pace, clock, 3, 2000)
    assert pace.interval_s() == 0.4
    run_for(pace, clock, 3, 700)
    assert pace.interval_s() == 0.4
    run_for(pace, clock, 3, 300)
    assert pace.interval_s() == 0.0


def test_pace_recovers_when_reports_stop() -> None:
    clock = ManualClock()
    pace = Pace(clock, busy_reports_per_s=900, busy_interval_s=0.4)
    run_for(pace, clock, 3, 2000)

    clock.advance(2)

    assert pace.interval_s() == 0.0


async def test_only_the_newest_body_of_a_key_is_written_and_all_its_waiters_wake() -> None:
    written: list[int] = []
    gate = asyncio.Event()

    async def write(_key: str, body: int) -> None:
        await gate.wait()
        written.append(body)

    writes = CoalescedWrites(write, workers=4, clock=SystemClock(), rng=Rng(1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(writes.run())
        first = writes.put("a", 0)
        await eventually(lambda: len(writes) == 1)
        await asyncio.sleep(0)
        futures = [writes.put("a", n) for n in range(1, 100)]
        gate.set()
        await asyncio.gather(first, *futures)
        task.cancel()

    assert written[-1] == 99
    assert len(written) <= 2


async def test_a_write_that_fails_is_told_to_its_waiters_and_the_key_goes_on() -> None:
    calls: list[int] = []

    async def write(_key: str, body: int) -> None:
        calls.append(body)
        if body == 1:
            raise Retryable("away", retry_after_s=0.001)

    writes = CoalescedWrites(write, workers=1, clock=SystemClock(), rng=Rng(1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(writes.run())
        failed, _ = await asyncio.gather(writes.put("a", 1), asyncio.sleep(0), return_exceptions=True)
        await writes.put("a", 2)
        task.cancel()

    assert isinstance(failed, Retryable)
    assert calls == [1, 2]
