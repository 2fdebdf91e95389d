"""PORT MessageLog of the cloud: one suite, every implementation (LINK-3, LINK-15, LINK-26)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloudcore.link_log import SqlLog
from cloudcore.sql import Sql
from proto.kit.database import Database
from proto.kit.errors import StorageFull, Terminal
from proto.link.log import CloudLog, NodeRecord
from proto.link.sqlite_log import SCHEMA, SqliteLog


class MessageLogConformance:
    """What CloudLink relies on. A subclass supplies ``log``."""

    async def test_the_incarnation_stays_until_it_is_renewed(self, log: CloudLog) -> None:
        first = await log.incarnation()
        assert first
        assert await log.incarnation() == first
        renewed = await log.renew()
        assert renewed != first
        assert await log.incarnation() == renewed

    async def test_a_node_never_seen_has_the_empty_record(self, log: CloudLog) -> None:
        seen: list[NodeRecord] = []

        def change(record: NodeRecord) -> NodeRecord:
            seen.append(record)
            return NodeRecord("disk", "cloud", 3, 2)

        assert await log.update("gw-1", change) == NodeRecord("disk", "cloud", 3, 2)
        await log.update("gw-1", change)
        assert seen == [NodeRecord(), NodeRecord("disk", "cloud", 3, 2)]

    async def test_what_a_change_raises_is_raised_and_nothing_is_stored(self, log: CloudLog) -> None:
        def refuse(_: NodeRecord) -> NodeRecord:
            raise Terminal("no")

        with pytest.raises(Terminal, match="no"):
            await log.update("gw-1", refuse)
        assert await log.update("gw-1", lambda record: record) == NodeRecord()

    async def test_concurrent_changes_of_one_node_do_not_lose_each_other(self, log: CloudLog) -> None:
        def grant(record: NodeRecord) -> NodeRecord:
            return NodeRecord(record.incarnation, record.cloud, record.granted + 1, record.acked)

        records = await asyncio.gather(*(log.update("gw-1", grant) for _ in range(20)))
        assert sorted(record.granted for record in records) == list(range(1, 21))

    async def test_large_epochs_are_kept(self, log: CloudLog) -> None:
        await log.update("gw-1", lambda _: NodeRecord("disk", "cloud", 1 << 61, 1 << 60))
        assert (await log.update("gw-1", lambda record: record)).granted == 1 << 61

    async def test_no_mark_is_zero(self, log: CloudLog) -> None:
        assert await log.mark("gw-1", "disk") == 0

    async def test_rows_are_numbered_without_holes_for_each_node(self, log: CloudLog) -> None:
        rows = [await log.append(node, "command", b"x", quota_bytes=0) for node in ("a", "a", "b", "a")]
        assert [row.seq for row in rows] == [1, 2, 1, 3]
        assert {row.cloud for row in rows} == {await log.incarnation()}
        positions = [row.position for row in rows if row is not rows[2]]
        assert positions == sorted(set(positions))

    async def test_pending_rows_come_in_order_within_bounds(self, log: CloudLog) -> None:
        rows = [await log.append("a", "command", b"x" * 10, quota_bytes=0) for _ in range(5)]
        await log.append("b", "command", b"other", quota_bytes=0)
        assert list(await log.pending("a", 0, limit=100, max_bytes=1000)) == rows
        assert list(await log.pending("a", 0, limit=2, max_bytes=1000)) == rows[:2]
        assert list(await log.pending("a", 0, limit=100, max_bytes=25)) == rows[:2]
        assert list(await log.pending("a", 0, limit=100, max_bytes=1)) == rows[:1]
        assert list(await log.pending("a", rows[3].position, limit=100, max_bytes=1000)) == rows[4:]

    async def test_an_ack_forgets_up_to_its_seq_and_numbers_go_on(self, log: CloudLog) -> None:
        rows = [await log.append("a", "command", b"x", quota_bytes=0) for _ in range(3)]
        cloud = rows[0].cloud
        assert await log.ack("a", cloud, 2) == 2
        assert await log.ack("a", cloud, 2) == 0
        assert await log.ack("a", "another", 99) == 0
        assert list(await log.pending("a", 0, limit=9, max_bytes=99)) == rows[2:]
        await log.ack("a", cloud, 3)
        assert (await log.append("a", "command", b"x", quota_bytes=0)).seq == 4

    async def test_over_the_quota_the_newest_is_refused(self, log: CloudLog) -> None:
        await log.append("a", "command", b"x" * 60, quota_bytes=100)
        with pytest.raises(StorageFull):
            await log.append("a", "command", b"x" * 60, quota_bytes=100)
        await log.append("b", "command", b"x" * 60, quota_bytes=100)
        assert await log.waiting() == {"a": 1, "b": 1}

    async def test_bases_say_where_each_incarnation_begins(self, log: CloudLog) -> None:
        old = await log.incarnation()
        assert await log.bases("a") == {old: 0}
        for _ in range(3):
            await log.append("a", "command", b"x", quota_bytes=0)
        await log.ack("a", old, 1)
        assert await log.bases("a") == {old: 1}
        new = await log.renew()
        assert await log.bases("a") == {old: 1, new: 0}
        row = await log.append("a", "command", b"x", quota_bytes=0)
        assert (row.cloud, row.seq) == (new, 1)
        await log.ack("a", new, 1)
        await log.ack("a", old, 3)
        assert await log.bases("a") == {new: 1}

    async def test_rows_of_a_restored_log_come_before_newer_ones(self, log: CloudLog) -> None:
        old = [await log.append("a", "command", b"x", quota_bytes=0) for _ in range(2)]
        await log.renew()
        new = await log.append("a", "command", b"y", quota_bytes=0)
        assert list(await log.pending("a", 0, limit=9, max_bytes=99)) == [*old, new]


class TestSqliteLog(MessageLogConformance):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[CloudLog]:
        db = Database.open(tmp_path / "log.db", [SCHEMA])
        yield SqliteLog(db)
        await db.close()


class TestSqlLogOnSqlite(MessageLogConformance):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[CloudLog]:
        sql = Sql.open(f"sqlite:///{tmp_path / 'cloud.db'}")
        yield SqlLog(sql)
        await sql.close()
