"""Messages whose work is in the API: each node's in its order, and no node's before everybody's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cloudcore.history import History
from cloudcore.hub.effects import Effects
from cloudcore.kube.errors import ApiUnavailable
from cloudcore.sql import Sql
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow
from tests.kit.wait import eventually

KIND = "register"


class Bench:
    """Effects with one kind, whose work fails for some nodes."""

    def __init__(self, sql: Sql) -> None:
        clock, metrics = SystemClock(), Metrics()
        self.history = History(sql, clock=clock, metrics=metrics)
        self.done: list[tuple[str, int]] = []
        self.failing: set[str] = set()
        given: Any = None  # neither the API nor the scope is asked here
        self.effects = Effects(self.history, given, given, {KIND: self.carry}, clock=clock, rng=Rng(1), metrics=metrics)

    async def carry(self, node: str, row: MessageRow, _body: dict[str, Any]) -> None:
        if node in self.failing:
            raise ApiUnavailable("the API server answers this one with 500")
        self.done.append((node, row.seq))

    async def say(self, node: str, *seqs: int) -> None:
        await self.history.apply(node, "disk", [MessageRow(seq, KIND, b"{}") for seq in seqs])
        self.effects.wake()


@asynccontextmanager
async def working(effects: Effects) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (effects.run(), effects.run_stuck())]
        yield
        for task in tasks:
            task.cancel()


@pytest.fixture
def bench(sql: Sql) -> Bench:
    return Bench(sql)


async def test_what_fails_for_one_node_holds_up_no_other(bench: Bench) -> None:  # HUB-14
    bench.failing = {"a"}
    await bench.say("a", 1, 2)
    await bench.say("b", 1)
    async with working(bench.effects):
        await eventually(lambda: bench.done == [("b", 1)])
        await bench.say("b", 2)
        await eventually(lambda: bench.done == [("b", 1), ("b", 2)])

        bench.failing = set()

        await eventually(lambda: bench.done[2:] == [("a", 1), ("a", 2)])


async def test_a_node_that_says_much_lets_the_others_have_their_turn(bench: Bench) -> None:  # HUB-14
    await bench.say("a", *range(1, 2001))
    await bench.say("b", 1)
    async with working(bench.effects):
        await eventually(lambda: len(bench.done) == 2001)
    assert bench.done.index(("b", 1)) < 512
    assert [seq for node, seq in bench.done if node == "a"] == list(range(1, 2001))
