"""Disk space held back, so that a full disk can still drain (LINK-18).

On a full disk even DELETE fails in SQLite. Releasing this file lets the link commit acknowledgements and free rows; while
it is released nothing new may be put, or the devices would eat what the drain needs.
"""

import contextlib
import os
import sqlite3
from pathlib import Path

from proto.kit.database import connect
from proto.kit.errors import Retryable, Terminal
from proto.kit.log import Logger

STEP_PAGES = 256  # 1 MiB: what one step may write to the log while the disk is full
MAX_STEPS = 64  # then the link's own transactions get their turn

log = Logger("link.reserve")


class Reserve:
    """One pre-allocated file beside the database; 0 bytes means none."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.held = False

    def restore(self) -> bool:
        """Allocate the file again if the disk has room; return whether the reserve is held."""
        if self.held or not self.size_bytes:
            return True
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                os.posix_fallocate(handle, 0, self.size_bytes)
            finally:
                os.close(handle)
        except OSError:
            with contextlib.suppress(OSError):
                self.path.unlink()
            return False
        self.held = True
        return True

    def shrink(self, database: Path) -> None:
        """Give pages that the database no longer uses back to the disk; blocks, so call it in a thread."""
        with contextlib.suppress(sqlite3.Error, Terminal, Retryable), contextlib.closing(connect(database)) as conn:
            for _ in range(MAX_STEPS):
                conn.execute(f"PRAGMA incremental_vacuum({STEP_PAGES})").fetchall()
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if conn.execute("PRAGMA freelist_count").fetchone()[0] == 0:
                    return

    def release(self) -> bool:
        """Give the space back to the disk; return whether there was any."""
        if not self.held:
            return False
        self.held = False
        with contextlib.suppress(OSError):
            self.path.unlink()
        log.warning("disk full: reserve released", bytes=self.size_bytes)
        return True
