"""Writes that coalesce: never an older state last, and everybody who waited is told."""

import asyncio

from cloudcore.hub.writes import CoalescedWrites
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.errors import Retryable
from tests.kit.wait import eventually


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
