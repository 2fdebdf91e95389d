"""Forget what a node was: its identity, settings of the join, and state."""

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

from edgecore.data_dir import AlreadyRunning, DataDir, Lock
from proto.kit.clock import Clock
from proto.kit.database import Tx, connect
from proto.kit.errors import SkerryError
from proto.link import inbox

QUARANTINE = "quarantine"
NEW_JOURNAL = "UPDATE pending_journal SET name = lower(hex(randomblob(5)))"


def plan(directory: DataDir, *, keep_data: bool = False) -> list[Path]:
    """What a reset would remove, sorted; empty when there is nothing."""
    if not directory.path.is_dir():
        return []
    wanted = [directory.pki] if keep_data else _ours(directory)
    return sorted(path for path in wanted if path.exists())


def reset(directory: DataDir, *, purge: bool, clock: Clock, keep_data: bool = False) -> dict[str, Any]:
    """Remove identity and state; with ``keep_data`` the identity alone, and what waits is sent after the next join.


    Raises AlreadyRunning while the daemon runs.
    """
    found = plan(directory, keep_data=keep_data)
    if not found:
        return {"removed": [], "quarantine": ""}
    lock = Lock(directory)
    try:
        lock.take()
    except AlreadyRunning as error:
        raise AlreadyRunning(f"{error}: systemctl stop edgecore") from error
    try:
        if keep_data:
            _become_new(directory)
        target = None if purge else _quarantine(directory, clock)
        for path in found:
            _remove(path, target)
    except OSError as error:
        raise SkerryError(f"reset of {directory.path} stopped: {error}; run it again") from error
    finally:
        lock.release()
    return {"removed": [str(path) for path in found], "quarantine": str(target or "")}


def _become_new(directory: DataDir) -> None:
    """Be a new disk for the cloud, which refuses the old one when it was copied."""
    if not directory.database.exists():
        return
    with closing(connect(directory.database)) as conn:
        if conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'link_self'").fetchone():
            inbox.rejoin(Tx(conn))
        if conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'pending_journal'").fetchone():
            conn.execute(NEW_JOURNAL)  # the copy counts on under the old name


def _ours(directory: DataDir) -> list[Path]:
    """Files that this program makes; a stranger's file in the directory is left alone."""
    database = directory.database
    sides = [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]
    return [*sides, directory.settings, directory.reserve, directory.pki]


def _quarantine(directory: DataDir, clock: Clock) -> Path:
    base = directory.path / QUARANTINE
    base.mkdir(mode=0o700, exist_ok=True)
    stamp = clock.wall().strftime("%Y%m%dT%H%M%SZ")
    for number in range(1000):
        target = base / (f"{stamp}-{number}" if number else stamp)
        if not target.exists():
            target.mkdir(mode=0o700)
            return target
    raise SkerryError(f"{base} is full of copies: delete old ones")


def _remove(path: Path, quarantine: Path | None) -> None:
    if quarantine is not None:
        os.rename(path, quarantine / path.name)  # noqa: PTH104  one file system: atomic, never a copy
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
