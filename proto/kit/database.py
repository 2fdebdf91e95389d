"""One SQLite file, one writer thread, group commit.

A transaction is a function. Everything queued while the disk is busy shares the next COMMIT, so a returned ``tx`` is
durable (WAL, ``synchronous=FULL``) at the price of a fraction of an fsync. A function that raises rolls back alone.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from proto.kit.errors import Retryable, StorageFull, Terminal
from proto.kit.groupcommit import GroupCommitter, Job

T = TypeVar("T")
MAX_GROUP = 4096  # transactions per commit: bounds the pause that one commit can cause
MAX_QUEUED = 100_000  # callers await, so only runaway producers meet this
BUSY_TIMEOUT_S = 10.0
OPENING_BYTES = 64 << 10  # what SQLite needs to open a database in WAL mode: shared memory and a page or two


class DatabaseDamaged(Terminal):
    """``quick_check`` or SQLite itself found the file malformed; it is never deleted, only reported."""

    code = "DatabaseDamaged"


class DatabaseClosed(Retryable):
    """The database was closed before this transaction could commit."""

    code = "DatabaseClosed"


class Tx:
    """What a transaction function gets. ``conn`` for SQL; ``after_commit`` for what may happen only then."""

    __slots__ = ("_after", "_undo", "conn")

    def __init__(self, conn: sqlite3.Connection, after: list[Callable[[], None]] | None = None) -> None:
        self.conn = conn
        self._after = [] if after is None else after
        self._undo: list[Callable[[], None]] = []

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        return self.conn.execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> sqlite3.Cursor:
        return self.conn.executemany(sql, rows)

    def after_commit(self, fn: Callable[[], None]) -> None:
        """Run ``fn`` on the event loop once this transaction is durable, in commit order, before its ``tx`` returns."""
        self._after.append(fn)

    def on_rollback(self, fn: Callable[[], None]) -> None:
        """Run ``fn`` in the writer thread if this transaction is rolled back, newest first, before the next one runs."""
        self._undo.append(fn)

    def committed(self) -> list[Callable[[], None]]:
        """What is to run after the commit, in order."""
        return self._after

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


def connect(path: Path | str, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with the house's pragmas. Raises DatabaseDamaged."""
    uri = f"file:{path}?mode=ro" if read_only else f"file:{path}"
    try:
        conn = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    except sqlite3.DatabaseError as error:
        raise _translate(error, path) from error
    try:
        if not read_only:
            conn.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file: a full disk can get freed pages back
            conn.execute("PRAGMA journal_mode=WAL")
            conn.execute("PRAGMA synchronous=FULL")
            conn.execute("PRAGMA journal_size_limit=16777216")
            conn.execute("PRAGMA wal_autocheckpoint=1000")
        conn.execute("PRAGMA foreign_keys=ON")
        conn.execute("PRAGMA cache_size=-2000")
    except sqlite3.DatabaseError as error:
        conn.close()
        raise _translate(error, path) from error
    return conn


def quick_check(conn: sqlite3.Connection, path: Path | str) -> None:
    """Raise DatabaseDamaged when SQLite's ``quick_check`` is not ``ok``."""
    try:
        (verdict,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise _translate(error, path) from error
    if verdict != "ok":
        raise DatabaseDamaged(f"database {path} is damaged ({verdict}); keep the file and restore a backup")


def no_room(path: Path | str) -> bool:
    """Whether the disk of ``path`` is full: SQLite calls it an I/O error when its shared memory does not fit."""
    try:
        disk = os.statvfs(Path(path).parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < OPENING_BYTES


def _translate(error: sqlite3.Error, path: Path | str) -> Exception:
    text = str(error)
    if "full" in text or ("disk I/O error" in text and no_room(path)):
        return StorageFull(f"no space left for {path}: free some disk space; the daemon goes on by itself")
    if "malformed" in text or "not a database" in text:
        return DatabaseDamaged(f"database {path} is damaged ({text}); keep the file and restore a backup")
    return Retryable(f"database {path}: {text}")


class Database:
    """The one writer of one file. ``open`` it inside a running event loop; ``close`` it once."""

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self.commits = 0
        self.transactions = 0
        self._committer = GroupCommitter(f"db:{path.name}", self._commit, max_group=MAX_GROUP)

    @classmethod
    def open(cls, path: Path, schemas: Iterable[str] = (), *, check: bool = True) -> "Database":
        """Open or make the file (mode 0600), check it, run ``schemas`` (idempotent DDL). Raises DatabaseDamaged."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        writer = connect(path)
        try:
            if check:
                quick_check(writer, path)
            for ddl in schemas:
                writer.executescript(ddl)
        except sqlite3.Error as error:
            writer.close()
            raise _translate(error, path) from error
        except DatabaseDamaged:
            writer.close()
            raise
        return cls(path, writer, connect(path))

    async def tx(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn`` in the writer thread; durable on return. Raises what ``fn`` raises, StorageFull, DatabaseClosed."""
        return await self.submit(fn)

    def submit(self, fn: Callable[[Tx], T]) -> "asyncio.Future[T]":
        """Queue ``fn`` now, in order; the future resolves after its commit."""
        if self._committer.closed:
            return _failed(DatabaseClosed(f"database {self.path} is closed"))
        if self._committer.waiting >= MAX_QUEUED:
            return _failed(Retryable(f"database {self.path}: {MAX_QUEUED} transactions are already waiting"))
        return self._committer.put(fn)

    def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run a short read on the caller's (loop) thread over the last committed state; never blocks the writer."""
        try:
            return fn(self._reader)
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error

    async def close(self) -> None:
        """Commit what is queued, then close. Safe to call twice."""
        if self._committer.closed:
            return
        await self._committer.close()
        self._reader.close()
        self._writer.close()

    async def backup(self, target: Path) -> None:
        """Write a consistent copy to ``target`` while serving (SQLite online backup)."""

        def copy() -> None:
            os.close(os.open(target, os.O_CREAT | os.O_RDWR, 0o600))
            with (
                contextlib.closing(connect(self.path, read_only=True)) as source,
                contextlib.closing(sqlite3.connect(target)) as out,
            ):
                source.backup(out)

        await asyncio.to_thread(copy)

    def _commit(self, group: list[Job]) -> None:
        open_: list[Tx] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job in group:
                self._run_one(job, open_)
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            # a full disk makes SQLite roll the whole group back; what follows from that is not what people should read
            full = next((job.error for job in group if isinstance(job.error, StorageFull)), None)
            for job in group:
                job.error = job.error or full or _translate(error, self.path)
            for tx in reversed(open_):
                tx.undo()
        self.commits += 1
        self.transactions += len(group)

    def _run_one(self, job: Job, open_: list[Tx]) -> None:
        tx = Tx(self._writer, job.after)
        open_.append(tx)
        self._writer.execute("SAVEPOINT job")
        try:
            job.result = job.fn(tx)
        except BaseException as error:  # noqa: BLE001  the caller gets it; the group goes on
            job.error = _translate(error, self.path) if isinstance(error, sqlite3.Error) else error
            self._writer.execute("ROLLBACK TO job")
            tx.undo()
        self._writer.execute("RELEASE job")


def _failed(error: Exception) -> "asyncio.Future[Any]":
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
