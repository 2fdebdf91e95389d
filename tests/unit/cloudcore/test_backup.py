"""Backup and restore: complete or not at all, never under a running daemon, never somebody else's file."""

import asyncio
import io
import os
import tarfile
from functools import partial
from pathlib import Path

import pytest

from cloudcore import backup as room
from cloudcore.data_dir import AlreadyRunning, lock
from cloudcore.link_log import SqlLog
from cloudcore.settings import History, Settings
from cloudcore.sql import Sql
from proto.kit.clock import SystemClock
from proto.kit.database import Database, DatabaseDamaged, Tx
from proto.kit.errors import UsageError
from tests.unit.cloudcore.cli import run


async def make(path: Path, text: str) -> None:
    """A data directory whose kube.db says ``text``."""
    database = Database.open(path / "kube.db", ["CREATE TABLE IF NOT EXISTS said (text TEXT)"])
    await database.tx(lambda tx: tx.execute("INSERT INTO said VALUES (?)", (text,)).rowcount)
    await database.close()
    (path / "pki").mkdir(mode=0o700, exist_ok=True)
    (path / "pki" / "ca.key").write_text("secret")


def say(tx: Tx, *, text: str) -> None:
    tx.execute("INSERT INTO said VALUES (?)", (text,))


async def said(path: Path) -> list[str]:
    database = Database.open(path / "kube.db")
    found = database.read(lambda conn: [row[0] for row in conn.execute("SELECT text FROM said")])
    await database.close()
    return found


def save(data_dir: Path, file: Path) -> room.Manifest:
    return room.backup(data_dir, file, Settings(), SystemClock())


async def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "cloud", tmp_path / "save.tar"
    await make(data_dir, "before")
    manifest = save(data_dir, file)
    await make(data_dir, "after")

    room.restore(data_dir, file)

    assert manifest.parts == ("kube.db", "pki")
    assert file.stat().st_mode & 0o777 == 0o600
    assert await said(data_dir) == ["before"]
    assert (data_dir / "pki" / "ca.key").read_text() == "secret"
    assert (data_dir / "pki" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert await said(data_dir / "replaced-1") == ["before", "after"]


async def test_a_backup_is_taken_while_the_database_is_written(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "cloud", tmp_path / "save.tar"
    await make(data_dir, "0")
    database = Database.open(data_dir / "kube.db")
    writes = [database.submit(partial(say, text=str(n))) for n in range(200)]

    await asyncio.to_thread(save, data_dir, file)
    await asyncio.gather(*writes)
    await database.close()
    room.restore(data_dir, file)

    found = await said(data_dir)
    assert found == ["0", *(str(n) for n in range(len(found) - 1))]


async def test_a_restore_over_a_running_daemon_is_refused(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "cloud", tmp_path / "save.tar"
    await make(data_dir, "before")
    save(data_dir, file)

    with lock(data_dir), pytest.raises(AlreadyRunning, match="stop it first"):
        room.restore(data_dir, file)
    assert await said(data_dir) == ["before"]


@pytest.mark.parametrize("name", ["../evil", "pki/../../evil", "/etc/evil", "unknown.db"])
async def test_a_file_that_would_write_elsewhere_is_refused_and_changes_nothing(tmp_path: Path, name: str) -> None:
    data_dir, file = tmp_path / "cloud", tmp_path / "save.tar"
    await make(data_dir, "before")
    save(data_dir, file)
    with tarfile.open(file, "a") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))

    with pytest.raises((room.NoBackup, UsageError)):
        room.restore(data_dir, file)

    assert await said(data_dir) == ["before"]
    assert not room.interrupted(data_dir)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\0" * 10240])
def test_a_file_that_is_no_backup_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "save.tar"
    file.write_bytes(content)

    with pytest.raises(room.NoBackup, match="is no backup of cloudcore"):
        room.restore(tmp_path / "cloud", file)


async def test_a_damaged_database_is_not_saved_as_if_it_were_good(tmp_path: Path) -> None:
    data_dir = tmp_path / "cloud"
    await make(data_dir, "before")
    (data_dir / "kube.db").write_bytes(b"rubbish" * 1000)

    with pytest.raises(DatabaseDamaged):
        save(data_dir, tmp_path / "save.tar")
    assert os.listdir(tmp_path) == ["cloud"]  # noqa: PTH208  nothing else is left behind


async def test_what_is_kept_in_postgresql_is_named_and_left_to_its_own_tools(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "cloud", tmp_path / "save.tar"
    await make(data_dir, "before")
    await Database.open(data_dir / "cloud.db").close()
    settings = Settings(history=History(database="postgresql+psycopg://skerry@db/skerry"))

    manifest = room.backup(data_dir, file, settings, SystemClock())

    assert manifest.parts == ("kube.db", "pki")
    assert manifest.external == ("history.database",)


async def incarnation(data_dir: Path) -> str:
    sql = Sql.open(f"sqlite:///{data_dir / 'cloud.db'}")
    found = await SqlLog(sql).incarnation()
    await sql.close()
    return found


def test_the_command_gives_the_cloud_a_new_incarnation(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "cloud", tmp_path / "save.tar"
    before = asyncio.run(incarnation(data_dir))

    assert run("backup", str(file), "--data-dir", str(data_dir)).code == 0
    assert run("restore", str(file), "--data-dir", str(data_dir)).code == 0

    assert asyncio.run(incarnation(data_dir)) != before


async def test_a_restore_that_was_killed_before_it_moved_anything_leaves_what_was_there(tmp_path: Path) -> None:
    data_dir = tmp_path / "cloud"
    await make(data_dir, "before")
    (data_dir / room.STAGED).mkdir()
    (data_dir / room.STAGED / "kube.db").write_bytes(b"half of it")
    (tmp_path / "none.tar").write_bytes(b"no tar at all")

    with pytest.raises(room.NoBackup):
        room.restore(data_dir, tmp_path / "none.tar")

    assert not room.interrupted(data_dir)
    assert await said(data_dir) == ["before"]


async def test_nothing_serves_on_what_an_unfinished_restore_left(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "cloud", tmp_path / "save.tar"
    await make(data_dir, "before")
    save(data_dir, file)
    room.restore(data_dir, file)
    assert room.interrupted(data_dir)  # before the incarnation is renewed
    (tmp_path / "none.tar").write_bytes(b"no tar at all")

    with pytest.raises(room.NoBackup):
        room.restore(data_dir, tmp_path / "none.tar")
    assert room.interrupted(data_dir)

    room.restore(data_dir, file)
    room.finish(data_dir)
    assert not room.interrupted(data_dir)
    assert await said(data_dir) == ["before"]


def test_a_restore_is_unfinished_while_the_database_with_the_incarnation_is_away(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "cloud", tmp_path / "save.tar"
    asyncio.run(incarnation(data_dir))
    assert run("backup", str(file), "--data-dir", str(data_dir)).code == 0
    away = ("--database", "postgresql+psycopg://skerry@127.0.0.1:9/skerry")

    assert run("restore", str(file), "--data-dir", str(data_dir), *away).code == 1
    assert room.interrupted(data_dir)
    assert run("restore", str(file), "--data-dir", str(data_dir)).code == 0
    assert not room.interrupted(data_dir)
