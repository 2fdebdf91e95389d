"""Planted storage bugs: each is caught by the same check that the real code passes.

The power cut is a model of one directory: a name counts as of the directory's last fsync, a content as of its file's.
"""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proto.kit import files
from proto.kit.database import Database

ROWS = 20
WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from proto.kit.database import Database
async def main():
    db = Database.open(Path(sys.argv[1]), ["CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY) STRICT"])
    for k in range(int(sys.argv[2])):
        await db.tx(lambda tx: tx.execute("INSERT INTO t VALUES (?)", (k,)))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


class PowerCut:
    """Remembers what fsync made durable in ``folder``; ``cut`` leaves only that."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._real = os.fsync
        self._contents: dict[int, bytes] = {}  # inode -> content at its last fsync
        self._names: dict[str, int] = {}  # name -> inode at the directory's last fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, handle: int) -> None:
        self._real(handle)
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            self._names = {entry.name: entry.inode() for entry in os.scandir(self._folder)}
        else:
            self._contents[found.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()

    def cut(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()
        for name, inode in self._names.items():
            (self._folder / name).write_bytes(self._contents.get(inode, b""))


def write_without_directory_sync(path: Path, content: bytes) -> None:
    files._write_temporary(path, content, files.PRIVATE).rename(path)


def write_without_file_sync(path: Path, content: bytes) -> None:
    temporary = path.with_name("new")
    temporary.write_bytes(content)
    temporary.rename(path)
    files.sync_dir(path.parent)


def survives_a_power_cut(folder: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]) -> bool:
    """Whether what ``write`` returned from is there after the cut."""
    power = PowerCut(folder, monkeypatch)
    files.write(folder / "node.key", b"old")
    write(folder / "node.key", b"new")
    power.cut()
    return (folder / "node.key").read_bytes() == b"new"


def test_a_written_file_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert survives_a_power_cut(tmp_path, monkeypatch, files.write)


@pytest.mark.parametrize("bug", [write_without_directory_sync, write_without_file_sync])
def test_a_missing_sync_is_caught(
    bug: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not survives_a_power_cut(tmp_path, monkeypatch, bug)


def open_and_delete_the_log(path: Path) -> None:
    """The bug: "repair" a database by deleting what SQLite has not moved into it yet."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def open_as_we_do(path: Path) -> None:
    async def opened() -> None:
        await Database.open(path).close()

    asyncio.run(opened())


def acknowledged_rows_left(folder: Path, reopen: Callable[[Path], None]) -> int:
    """Commit rows in a process that is then killed, reopen its file, count them."""
    path = folder / "edge.db"
    subprocess.run([sys.executable, "-c", WRITER, str(path), str(ROWS)], check=False)
    assert path.with_name("edge.db-wal").stat().st_size > 0, "the kill left nothing to lose"
    reopen(path)
    conn = sqlite3.connect(path)
    try:
        (count,) = conn.execute("SELECT count(*) FROM t").fetchone()
    except sqlite3.OperationalError:
        return 0  # not even the table was in the file itself
    finally:
        conn.close()
    return int(count)


def test_reopening_after_a_kill_keeps_every_acknowledged_row(tmp_path: Path) -> None:
    assert acknowledged_rows_left(tmp_path, open_as_we_do) == ROWS


def test_deleting_the_log_is_caught(tmp_path: Path) -> None:
    assert acknowledged_rows_left(tmp_path, open_and_delete_the_log) < ROWS
