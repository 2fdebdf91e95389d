"""What a restored store needs: it must never repeat a resourceVersion that anyone may have seen."""

import contextlib
import sqlite3
from pathlib import Path

from kubeapi import watchlog
from proto.kit.database import DatabaseDamaged

# Revisions skipped by a restore: more than a server can have handed out since its backup (10,000/s for 27 hours).
RESTORE_GAP = 1_000_000_000


def skip_revisions(path: Path) -> None:
    """Prepare a restored ``kube.db``, which nobody may have open: every watch from before gets 410 and lists again.

    Raises DatabaseDamaged.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
            for statement in filter(None, map(str.strip, watchlog.SCHEMA.split(";"))):
                conn.execute(statement)
            newest = conn.execute("SELECT coalesce(max(revision), 0) FROM kube_log").fetchone()[0]
            revision = max(watchlog.meta(conn, "ceiling"), newest) + RESTORE_GAP
            conn.execute("BEGIN IMMEDIATE")
            for name in ("ceiling", "compacted"):
                conn.execute(watchlog.SET_META, (name, revision))
            conn.execute("COMMIT")
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise DatabaseDamaged(f"database {path} cannot be read ({error}); use another backup") from error
