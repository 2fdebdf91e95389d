"""Backup while serving, and restore: a restored store never repeats a resourceVersion that anyone may have seen."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from kubeapi import watchlog
from proto.kit.database import Database, DatabaseDamaged, connect, quick_check
from proto.kit.errors import UsageError

# Revisions skipped by a restore: more than a server can have handed out since its backup (10,000/s for 27 hours).
RESTORE_GAP = 1_000_000_000


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What a backup holds."""

    revision: int
    objects: int
    bytes: int


async def backup(db: Database, target: Path) -> BackupFacts:
    """Write a consistent copy to ``target`` while serving, complete or not at all. Raises UsageError, DatabaseDamaged."""
    partial = await asyncio.to_thread(_prepare, target)
    try:
        await db.backup(partial)
        return await asyncio.to_thread(_finish, partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _prepare(target: Path) -> Path:
    if target.exists():
        raise UsageError(f"{target} exists already: give a new file name")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    return partial


def _finish(partial: Path, target: Path) -> BackupFacts:
    facts = check(partial)
    _sync(partial)
    partial.rename(target)
    _sync(target.parent)
    return facts


def check(path: Path) -> BackupFacts:
    """Say what a backup holds. Raises UsageError when it is none, DatabaseDamaged when it is broken."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give the file that a backup wrote")
    try:
        with contextlib.closing(connect(path, read_only=True)) as conn:
            quick_check(conn, path)
            return _facts(conn, path)
    except sqlite3.OperationalError as error:
        raise UsageError(f"{path} is not a backup of this API ({error})") from error
    except sqlite3.DatabaseError as error:
        raise DatabaseDamaged(f"database {path} is damaged ({error}); use another backup") from error


def _facts(conn: sqlite3.Connection, path: Path) -> BackupFacts:
    alive: set[tuple[str, str, str]] = set()
    revision = watchlog.meta(conn, "ceiling")
    for number, _, deleted, *key, _ in watchlog.rows(conn):
        place = (key[0], key[1], key[2])
        if deleted:
            alive.discard(place)
        else:
            alive.add(place)
        revision = max(revision, number)
    return BackupFacts(revision, len(alive), path.stat().st_size)


def restore(source: Path, target: Path) -> BackupFacts:
    """Put a backup in the place of ``target``, which nobody may have open; the old file stays as ``….replaced``.

    Every watch from before gets 410 and lists again.
    """
    check(source)
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    partial.chmod(0o600)
    _skip_revisions(partial)
    facts = check(partial)
    _sync(partial)
    for suffix in ("", "-wal", "-shm"):
        old = target.with_name(target.name + suffix)
        if old.exists():
            old.replace(target.with_name(f"{target.name}.replaced{suffix}"))
    partial.replace(target)
    _sync(target.parent)
    return facts


def _skip_revisions(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        newest = max(
            watchlog.meta(conn, "ceiling"), conn.execute("SELECT max(revision) FROM kube_log").fetchone()[0] or 0
        )
        conn.execute("BEGIN IMMEDIATE")
        for name in ("ceiling", "compacted"):
            conn.execute(watchlog.SET_META, (name, newest + RESTORE_GAP))
        conn.execute("COMMIT")
        conn.execute("PRAGMA journal_mode=DELETE")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
