"""One writer with group commit, on both databases: a function that raises rolls back alone."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from cloudcore.sql import Sql, SqlUnavailable
from proto.kit.errors import UsageError


def add(conn: Connection, number: int) -> int:
    conn.execute(text("INSERT INTO link_cloud (id, incarnation) VALUES (:id, 'x')"), {"id": number})
    return number


def add_then_fail(conn: Connection, number: int) -> None:
    add(conn, number)
    raise ValueError(number)


async def ids(sql: Sql) -> list[int]:
    return await sql.read(lambda conn: [row[0] for row in conn.execute(text("SELECT id FROM link_cloud ORDER BY id"))])


async def test_a_transaction_that_fails_leaves_nothing_whether_alone_or_in_a_group(sql: Sql) -> None:
    with pytest.raises(ValueError, match="1"):
        await sql.tx(lambda conn: add_then_fail(conn, 1))

    good = [sql.tx(lambda conn, n=n: add(conn, n)) for n in range(10, 20)]  # type: ignore[misc]
    bad = [sql.tx(lambda conn, n=n: add_then_fail(conn, n)) for n in range(20, 25)]  # type: ignore[misc]
    done = await asyncio.gather(*good, *bad, return_exceptions=True)

    assert done[:10] == list(range(10, 20))
    assert all(isinstance(error, ValueError) for error in done[10:])
    assert await ids(sql) == list(range(10, 20))


async def test_a_database_error_is_translated_and_the_next_transaction_works(sql: Sql) -> None:
    await sql.tx(lambda conn: add(conn, 1))

    with pytest.raises(SqlUnavailable):
        await sql.tx(lambda conn: add(conn, 1))

    assert await sql.tx(lambda conn: add(conn, 2)) == 2


async def test_a_read_waits_for_no_writer_even_on_a_connection_that_has_written(tmp_path: Path) -> None:
    path = tmp_path / "cloud.db"
    sql = Sql.open(f"sqlite:///{path}")
    for number in range(8):  # every pooled connection has written before the read takes one
        await sql.tx(lambda conn, n=number: add(conn, n))  # type: ignore[misc]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(3):
            assert await ids(sql) == list(range(8))
    await sql.close()


async def test_what_is_queued_at_close_is_committed_and_later_calls_are_refused(tmp_path: Path) -> None:
    sql = Sql.open(f"sqlite:///{tmp_path / 'cloud.db'}")
    async with asyncio.TaskGroup() as group:
        write = group.create_task(sql.tx(lambda conn: add(conn, 1)))
        await asyncio.sleep(0)
        await sql.close()

    assert write.result() == 1
    with pytest.raises(SqlUnavailable):
        await sql.tx(lambda conn: add(conn, 2))


async def test_close_waits_for_a_read_whose_caller_is_gone(tmp_path: Path) -> None:
    sql = Sql.open(f"sqlite:///{tmp_path / 'cloud.db'}")
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(conn: Connection) -> None:
        begun.set()
        assert go_on.wait(30)
        conn.execute(text("SELECT 1"))
        ended.set()

    async with asyncio.TaskGroup() as group:
        reader = group.create_task(sql.read(slow))
        await asyncio.to_thread(begun.wait, 30)
        reader.cancel()
        closing_ = group.create_task(sql.close())
        await asyncio.sleep(0)
        go_on.set()
        await closing_

    assert (ended.is_set(), sql.engine.pool.checkedout()) == (True, 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["", "mysql://h/d", "sqlite://", "rubbish"])
def test_a_url_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Sql.open(url)


async def test_a_server_that_is_away_is_said_without_its_password() -> None:
    with pytest.raises(SqlUnavailable) as failed:
        Sql.open("postgresql+psycopg://skerry:hunter2@127.0.0.1:1/skerry")

    assert "hunter2" not in str(failed.value)
