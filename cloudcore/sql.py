"""The cloud's SQL database (SQLite or PostgreSQL): one writer thread, group commit, SQLModel for the tables."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlmodel import SQLModel

from proto.kit.database import DatabaseDamaged, no_room
from proto.kit.errors import Retryable, StorageFull, UsageError
from proto.kit.groupcommit import GroupCommitter, Job

T = TypeVar("T")
MAX_GROUP = 512  # transactions per commit: bounds the pause that one commit can cause


class SqlUnavailable(Retryable):
    """The database did not take the transaction; nothing of it is stored."""

    code = "SqlUnavailable"


def make_engine(url: str) -> Engine:
    """Return an engine for ``sqlite:///file`` or ``postgresql+psycopg://…``. Raises UsageError."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UsageError(f"database {url!r}: write sqlite:///FILE or postgresql+psycopg://USER@HOST/DB") from error
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=2)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise UsageError(f"database {url!r}: only sqlite:///FILE and postgresql+psycopg://USER@HOST/DB are supported")
    path = Path(parsed.database)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(parsed, connect_args={"timeout": 10.0, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "journal_size_limit=16777216"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Not ``connection.info``: that stays with the pooled connection, and readers would queue for the write lock.
        writer = connection.get_execution_options().get("writer", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


def _check(engine: Engine) -> None:
    """Raise DatabaseDamaged when SQLite's ``quick_check`` is not ``ok``."""
    with engine.connect() as connection:
        verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if verdict != "ok":
        engine.dispose()
        raise DatabaseDamaged(_damaged(engine, str(verdict)))


def _damaged(engine: Engine, text: str) -> str:
    return f"database {engine.url.database} is damaged ({text}); keep the file and restore a backup"


class Sql:
    """One writer of the cloud's database. Tables are SQLModel classes imported before ``open``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._committer = GroupCommitter("sql", self._commit, max_group=MAX_GROUP)
        self._reads: set[asyncio.Future[Any]] = set()  # a thread goes on when its caller is cancelled

    @classmethod
    def open(cls, url: str) -> "Sql":
        """Connect, check a SQLite file, create missing tables. Raises UsageError, SqlUnavailable, StorageFull, DatabaseDamaged."""
        engine = make_engine(url)
        try:
            if engine.dialect.name == "sqlite":
                _check(engine)
            SQLModel.metadata.create_all(engine)
        except DBAPIError as error:
            engine.dispose()
            text = str(error.orig).strip().splitlines()[0]
            if "malformed" in text or "not a database" in text:
                raise DatabaseDamaged(_damaged(engine, text)) from error
            if engine.dialect.name == "sqlite" and no_room(str(engine.url.database)):
                raise StorageFull(
                    f"no space left for {engine.url.database}: free some disk space, then start again"
                ) from error
            raise SqlUnavailable(f"database {engine.url!r}: {text}") from error
        return cls(engine)

    async def tx(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` in the writer thread; durable on return. A function that raises rolls back alone."""
        if self._committer.closed:
            raise SqlUnavailable("the database is closed")
        result: T = await self._committer.put(fn)
        return result

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run a read in a worker thread on its own connection."""

        def work() -> T:
            with self.engine.connect() as connection:
                return fn(connection)

        running = asyncio.get_running_loop().run_in_executor(None, work)
        self._reads.add(running)
        running.add_done_callback(self._read_ended)
        try:
            return await asyncio.shield(running)
        except DBAPIError as error:
            raise SqlUnavailable(str(error.orig)) from error

    def _read_ended(self, running: "asyncio.Future[Any]") -> None:
        self._reads.discard(running)
        if not running.cancelled():
            running.exception()  # that of a caller who is gone is nobody's

    async def close(self) -> None:
        """Commit what is queued, wait for the reads, then close. Safe to call twice."""
        if self._committer.closed:
            return
        await self._committer.close()
        if self._reads:
            await asyncio.wait(self._reads)
        self.engine.dispose()

    def _commit(self, group: list[Job]) -> None:
        try:
            with self.engine.connect().execution_options(writer=True) as connection, connection.begin():
                if len(group) == 1:
                    group[0].result = group[0].fn(connection)
                else:
                    for job in group:
                        self._run_one(connection, job)
        except Exception as error:  # noqa: BLE001  the callers get it
            for job in group:
                if job.error is None:
                    job.error = _translated(error)

    def _run_one(self, connection: Connection, job: Job) -> None:
        savepoint = connection.begin_nested()
        try:
            job.result = job.fn(connection)
        except Exception as error:  # noqa: BLE001  the caller gets it; the group goes on
            savepoint.rollback()
            job.error = _translated(error)
        else:
            savepoint.commit()


def _translated(error: Exception) -> Exception:
    return SqlUnavailable(str(getattr(error, "orig", error))) if isinstance(error, SQLAlchemyError) else error
