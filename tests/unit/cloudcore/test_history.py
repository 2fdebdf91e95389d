"""Device history: rows and high-water mark in one transaction, exactly once, on both databases."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cloudcore import history as room
from cloudcore.history import History, Query
from cloudcore.link_log import SqlLog
from cloudcore.sql import Sql
from proto.kit.clock import wall_ms
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow
from tests.kit.clock import ManualClock

NODE, DISK = "gw-1", "disk-1"


def report(seq: int, *, at_ms: int = 0, name: str = "kiln", **values: Any) -> MessageRow:
    body = msgspec.json.encode(["default", name, "uid-1", at_ms or seq, seq, values or {"temp": str(seq)}])
    return MessageRow(seq, "history", body)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def history(sql: Sql, clock: ManualClock, metrics: Metrics) -> History:
    return History(sql, clock=clock, metrics=metrics)


async def values(sql: Sql, **query: Any) -> list[str]:
    return await sql.read(lambda conn: [r["value"] for r in room.read(conn, Query("default", "kiln", **query))])


async def test_reports_are_stored_in_order_with_all_their_fields(sql: Sql, history: History) -> None:
    await history.apply(NODE, DISK, [report(1, temp="20", label="a"), report(2, temp="21")])

    rows = await sql.read(lambda conn: list(room.read(conn, Query("default", "kiln"))))
    assert [(r["seq"], r["property"], r["value"]) for r in rows] == [
        (1, "temp", "20"),
        (1, "label", "a"),
        (2, "temp", "21"),
    ]
    assert rows[0] | {"id": 0} == {
        "id": 0,
        "node": NODE,
        "incarnation": DISK,
        "seq": 1,
        "namespace": "default",
        "device": "kiln",
        "uid": "uid-1",
        "at_ms": 1,
        "version": 1,
        "property": "temp",
        "value": "20",
    }


async def test_rows_received_again_are_skipped_and_counted(sql: Sql, history: History, metrics: Metrics) -> None:
    await history.apply(NODE, DISK, [report(1), report(2)])

    new = await history.apply(NODE, DISK, [report(2), report(3)])

    assert [row.seq for row in new] == [3]
    assert await values(sql) == ["1", "2", "3"]
    assert metrics.counter("skerry_cloud_history_repeated_total", "").value() == 1


async def test_another_disk_of_the_node_counts_for_itself(sql: Sql, history: History) -> None:
    await history.apply(NODE, DISK, [report(1)])
    await history.apply(NODE, "disk-2", [report(1)])

    assert await values(sql) == ["1", "1"]


async def test_the_mark_is_what_the_link_reads(sql: Sql, history: History) -> None:
    await history.apply(NODE, DISK, [report(1), report(7)])

    assert await SqlLog(sql).mark(NODE, DISK) == 7
    assert await SqlLog(sql).mark(NODE, "other") == 0


async def test_a_malformed_message_is_counted_and_does_not_hold_up_the_others(
    sql: Sql, history: History, metrics: Metrics
) -> None:
    await history.apply(NODE, DISK, [MessageRow(1, "history", b"{"), report(2)])

    assert await values(sql) == ["2"]
    assert await SqlLog(sql).mark(NODE, DISK) == 2
    assert metrics.counter("skerry_cloud_messages_malformed_total", "", ("kind",)).value("history") == 1


async def test_gaps_are_kept_for_people(sql: Sql, history: History) -> None:
    await history.apply(NODE, DISK, [MessageRow(9, "gap", b'{"from":1,"to":8,"count":8,"reason":"quota"}')])

    (found,) = await sql.read(lambda conn: room.gaps(conn, NODE))
    assert (found["first"], found["last"], found["reason"]) == (1, 8, "quota")


async def test_a_gap_that_reaches_below_the_mark_is_counted_once(sql: Sql, history: History) -> None:
    await history.apply(NODE, DISK, [report(1), report(2), report(3)])
    await history.apply(NODE, DISK, [MessageRow(9, "gap", b'{"from":2,"to":9,"count":8,"reason":"bytes"}'), report(10)])

    (found,) = await sql.read(lambda conn: room.gaps(conn, NODE))
    assert (found["first"], found["last"]) == (4, 9)
    assert await values(sql) == ["1", "2", "3", "10"]


async def test_events_and_registrations_wait_for_the_api_in_order(history: History) -> None:
    await history.apply(NODE, DISK, [MessageRow(1, "register", b"{}"), MessageRow(2, "event", b"{}"), report(3)])

    waiting = await history.effects()
    assert [(node, row.seq, row.kind) for _, node, row in waiting] == [(NODE, 1, "register"), (NODE, 2, "event")]
    await history.effects_done([number for number, _, _ in waiting])
    assert await history.effects() == []


async def test_queries_select_by_property_age_and_number(sql: Sql, history: History) -> None:
    await history.apply(NODE, DISK, [report(i, temp=str(i), load=str(-i)) for i in range(1, 6)])

    assert await values(sql, property="temp", since_ms=3) == ["3", "4", "5"]
    assert await values(sql, property="temp", limit=2) == ["4", "5"]


async def test_values_that_are_no_text_are_stored_as_json(sql: Sql, history: History) -> None:
    await history.apply(NODE, DISK, [report(1, temp=20.5), report(2, temp=None), report(3, temp="a\0b")])

    assert await values(sql) == ["20.5", "null", "a\\u0000b"]


async def test_old_reports_are_pruned_and_newer_ones_stay(sql: Sql, history: History, clock: ManualClock) -> None:
    now_ms = wall_ms(clock)
    day = int(timedelta(days=1).total_seconds() * 1000)
    await history.apply(NODE, DISK, [report(i, at_ms=now_ms - (10 - i) * day) for i in range(1, 10)])

    assert await history.prune(keep_days=3.5) == 6
    assert await values(sql) == ["7", "8", "9"]


@pytest.mark.parametrize("at_ms", [1 << 63, -(1 << 63) - 1, 1 << 64])
async def test_a_number_that_no_database_holds_is_malformed(
    sql: Sql, history: History, metrics: Metrics, at_ms: int
) -> None:
    body = msgspec.json.encode(["default", "kiln", "uid-1", "AT", 1, {"temp": "1"}]).replace(b'"AT"', b"%d" % at_ms)

    await history.apply(NODE, DISK, [MessageRow(1, "history", body), report(2)])

    assert await values(sql) == ["2"]
    assert metrics.counter("skerry_cloud_messages_malformed_total", "", ("kind",)).value("history") == 1


@pytest.mark.parametrize("place", range(4))
async def test_a_zero_character_in_a_name_is_malformed(
    sql: Sql, history: History, metrics: Metrics, place: int
) -> None:
    names = [f"a{chr(0)}b" if i == place else word for i, word in enumerate(("default", "kiln", "uid-1", "temp"))]
    body = msgspec.json.encode([*names[:3], 1, 1, {names[3]: "1"}])

    await history.apply(NODE, DISK, [MessageRow(1, "history", body), report(2)])

    assert await values(sql) == ["2"]
    assert metrics.counter("skerry_cloud_messages_malformed_total", "", ("kind",)).value("history") == 1
