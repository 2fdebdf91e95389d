"""What waits of one node is bounded: the rest stays at the node, and comes once and in order."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import func, select

from cloudcore.commands.status import render
from cloudcore.doctor import Patient, check_links
from cloudcore.history import Backlog, History
from cloudcore.hub.effects import Effects
from cloudcore.hub.replica import Replica
from cloudcore.hub.sessions import Sessions
from cloudcore.kube.errors import ApiUnavailable
from cloudcore.link_log import SqlLog
from cloudcore.sql import Sql
from cloudcore.tables import PendingEffect
from proto.kit.backoff import Rng
from proto.kit.clock import SystemClock
from proto.kit.daemon import Supervisor
from proto.kit.metrics import Metrics
from proto.link.cloud import CloudLink
from proto.link.memory import MemoryBroker
from proto.link.replica import MessageRow
from tests.kit.link import FAST, running, start_edge
from tests.kit.wait import eventually

KIND = "register"
ROWS, SENT = 100, 1_000
SMALL = msgspec.structs.replace(FAST, window_bytes=64 << 10, frame_bytes=16 << 10)
_effect: Any = PendingEffect.__table__  # type: ignore[attr-defined]


class Api:
    """An API server that takes Events and registrations, unless it is away."""

    def __init__(self) -> None:
        self.away = True
        self.events: list[dict[str, Any]] = []
        self.done: dict[str, list[int]] = {"flood": [], "calm": []}

    async def create(self, _kind: Any, _namespace: str, event: dict[str, Any]) -> None:
        self.events.append(event)

    async def carry(self, node: str, _row: MessageRow, body: dict[str, Any]) -> None:
        if self.away and node == "flood":
            raise ApiUnavailable("away")
        self.done[node].append(body["n"])

    def has_done(self, node: str, count: int) -> bool:
        return self.done[node] == list(range(count))


class Nothing:
    """A scope and an upstream of nodes that shall hold nothing and report no status."""

    def wanted(self, _node: str) -> Mapping[str, bytes]:
        return {}

    def digests(self, _node: str) -> Mapping[str, bytes]:
        return {}

    def session_started(self, _node: str) -> None:
        return


class Bench:
    def __init__(self, sql: Sql) -> None:
        clock, nothing = SystemClock(), Nothing()
        scope: Any = nothing
        client: Any
        self.sql, self.metrics = sql, Metrics()
        self.api = client = Api()
        self.broker = MemoryBroker()
        history = History(sql, clock=clock, metrics=self.metrics, backlog=Backlog(rows=ROWS))
        kinds = {KIND: self.api.carry}
        self.effects = Effects(history, client, scope, kinds, clock=clock, rng=Rng(1), metrics=self.metrics)
        sessions = Sessions(clock, away_after_s=0.0, settle_s=0.0)
        self.leases: list[str] = []
        self.replica = Replica(
            scope, scope, history, sessions, self.effects, renew_lease=self.leases.append, metrics=self.metrics
        )
        self.link = CloudLink(
            self.broker, SqlLog(sql), self.replica, SMALL, clock=clock, rng=random.Random(2), metrics=self.metrics
        )

    async def held(self) -> int:
        return int(await self.sql.read(lambda conn: conn.execute(select(func.count(_effect.c.id))).scalar() or 0))


@asynccontextmanager
async def serving(sql: Sql) -> AsyncIterator[Bench]:
    bench, tasks = Bench(sql), Supervisor(SystemClock())
    for number, work in enumerate((bench.link.run(), bench.effects.run(), bench.effects.run_stuck())):
        tasks.spawn(work, str(number))
    try:
        yield bench
    finally:
        await tasks.close()


async def test_a_node_that_floods_while_the_api_is_away_keeps_the_rest_and_all_is_done_once_in_order(
    sql: Sql, tmp_path: Path
) -> None:  # HUB-17
    async with serving(sql) as bench:
        flood = start_edge(tmp_path / "flood.db", bench.broker, node="flood", settings=SMALL)
        calm = start_edge(tmp_path / "calm.db", bench.broker, node="calm", settings=SMALL)
        async with running(flood, calm):
            await eventually(lambda: flood.link.status().connected and calm.link.status().connected)
            bodies = [msgspec.json.encode({"n": n, "pad": "x" * 1000}) for n in range(SENT)]
            await flood.put(*bodies, kind=KIND)
            await eventually(lambda: "flood" in bench.replica.backlogged)
            for n in range(3):  # each when the one before it is through: nothing holds them up
                await calm.put(msgspec.json.encode({"n": n}), kind=KIND)
                await eventually(partial(bench.api.has_done, "calm", n + 1))

            windows = 3 * SMALL.window_bytes // 1000
            assert ROWS <= await bench.held() <= ROWS + windows < SENT
            assert flood.link.status().pending_messages >= SENT - ROWS - windows
            assert list(bench.replica.backlogged) == ["flood"]
            await eventually(lambda: bool(bench.api.events))

            bench.api.away = False
            await eventually(lambda: len(bench.api.done["flood"]) >= SENT)
            await eventually(lambda: flood.link.status().pending_messages == 0)
            assert bench.api.done["flood"] == list(range(SENT))
            assert bench.replica.backlogged == {}
            assert await bench.held() == 0
            told = Counter((e["reason"], e["involvedObject"]["name"]) for e in bench.api.events)
            assert set(told) == {("MessagesDeferred", "flood")}
            assert len({e["metadata"]["name"] for e in bench.api.events}) == 1


def test_status_and_doctor_name_the_node_whose_messages_are_not_taken(tmp_path: Path) -> None:  # HUB-17
    node = {"connected": True, "epoch": 1, "since_s": 1.0, "last_seen_s": 0.0, "devices": 0, "pods": 0}
    live: dict[str, Any] = {
        "version": "1", "ready": True, "started_at": "now", "addresses": {}, "database": "sqlite", "informers": {},
        "waiting": {}, "nodes": {"flood": {**node, "backlogged": "100 messages of node flood wait"}, "calm": {**node, "backlogged": ""}},
    }  # fmt: skip
    assert "not taken now: 100 messages of node flood wait" in render(live)

    found = check_links(Patient(tmp_path, None, "", running=True, live=live, now=SystemClock().wall()))

    assert [(c.name, c.level) for c in found if c.name.startswith("backlog")] == [("backlog flood", "Warning")]
