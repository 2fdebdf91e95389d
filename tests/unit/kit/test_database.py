"""The database promises: durable on return, one bad transaction hurts only itself, effects in commit order."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from proto.kit.database import Database, DatabaseClosed, DatabaseDamaged, Tx
from proto.kit.errors import StorageFull

SCHEMA = "CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v TEXT) STRICT"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "x.db", [SCHEMA])
    yield database
    await database.close()


def insert(key: int) -> Callable[[Tx], None]:
    def write(tx: Tx) -> None:
        tx.execute("INSERT INTO t VALUES (?, 'v')", (key,))

    return write


def count(conn: sqlite3.Connection) -> int:
    (n,) = conn.execute("SELECT count(*) FROM t").fetchone()
    return int(n)


async def test_a_returned_transaction_is_visible_to_another_connection(db: Database) -> None:
    await db.tx(lambda tx: tx.execute("INSERT INTO t VALUES (1, 'a')"))

    with sqlite3.connect(db.path) as other:
        assert count(other) == 1
    other.close()


async def test_waiting_transactions_share_commits(db: Database) -> None:
    await asyncio.gather(*(db.tx(insert(k)) for k in range(500)))

    assert db.read(count) == 500
    assert db.commits < 250


async def test_a_failing_transaction_rolls_back_alone(db: Database) -> None:
    def bad(tx: Tx) -> None:
        tx.execute("INSERT INTO t VALUES (100, 'half')")
        raise ValueError("no")

    results = await asyncio.gather(
        db.tx(lambda tx: tx.execute("INSERT INTO t VALUES (1, 'a')")),
        db.tx(bad),
        db.tx(lambda tx: tx.execute("INSERT INTO t VALUES (2, 'b')")),
        return_exceptions=True,
    )

    assert isinstance(results[1], ValueError)
    assert db.read(count) == 2


async def test_effects_after_commit_come_in_commit_order_before_the_caller_wakes(db: Database) -> None:
    seen: list[int] = []

    def write(k: int) -> Callable[[Tx], None]:
        return lambda tx: tx.after_commit(lambda: seen.append(k))

    await asyncio.gather(*(db.tx(write(k)) for k in range(50)))

    assert seen == list(range(50))


async def test_no_effect_after_a_rollback(db: Database) -> None:
    seen: list[str] = []

    def bad(tx: Tx) -> None:
        tx.after_commit(lambda: seen.append("never"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await db.tx(bad)
    assert seen == []


async def test_a_closed_database_refuses(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "x.db", [SCHEMA])
    await database.close()
    await database.close()

    with pytest.raises(DatabaseClosed):
        await database.tx(lambda tx: tx.execute("SELECT 1"))


async def test_a_damaged_file_is_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is no database, but it is somebody's data" * 100)
    before = path.read_bytes()

    with pytest.raises(DatabaseDamaged, match=r"x\.db is damaged.*restore a backup"):
        Database.open(path, [SCHEMA])
    assert path.read_bytes() == before


async def test_a_quota_reached_is_storage_full_and_nothing_is_acknowledged(db: Database) -> None:
    await db.tx(lambda tx: tx.execute("PRAGMA max_page_count=8").fetchone())

    with pytest.raises(StorageFull, match="free some disk space"):
        await db.tx(lambda tx: tx.execute("INSERT INTO t VALUES (1, ?)", ("x" * 100_000,)))
    assert db.read(count) == 0


async def test_a_backup_is_a_whole_copy_while_serving(db: Database, tmp_path: Path) -> None:
    await db.tx(lambda tx: tx.execute("INSERT INTO t VALUES (1, 'a')"))

    await db.backup(tmp_path / "copy.db")

    copy = sqlite3.connect(tmp_path / "copy.db")
    assert count(copy) == 1
    copy.close()
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from proto.kit.database import Database
async def main():
    db = Database.open(Path(sys.argv[1]), ["CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v TEXT) STRICT"])
    for k in range(20):
        await db.tx(lambda tx: tx.execute("INSERT INTO t VALUES (?, 'v')", (k,)))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_what_returned_is_there_after_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "x.db"

    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)

    conn = sqlite3.connect(path)
    assert (done.returncode, count(conn)) == (-9, 20)
    conn.close()
