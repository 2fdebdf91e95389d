"""What became of each write of the nodes, in SQL: the answer that is sent again, and the uids that a node made up."""

from typing import Any

from sqlalchemy import Connection, delete, insert, select

from cloudcore.sql import Sql
from cloudcore.tables import WriteOutcome
from proto import writes
from proto.writes import Write, WriteResult

KEEP = 10_000  # per disk; a node has fewer than that on their way
PRUNE_EVERY = 500
_outcome: Any = WriteOutcome.__table__  # type: ignore[attr-defined]


class Outcomes:
    """One row per write, newest ``KEEP`` of each disk."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def find(self, node: str, write: Write) -> bytes | None:
        """Return the answer to ``write``, None when it was not carried out yet. Raises SqlUnavailable."""
        query = select(_outcome.c.result).where(*_is(node, write.journal), _outcome.c.seq == write.seq)
        found = await self._sql.read(lambda conn: conn.execute(query).scalar())
        return None if found is None else bytes(found)

    async def keep(self, node: str, write: Write, result: WriteResult) -> bytes:
        """Remember the answer; durable on return. Raises SqlUnavailable."""
        body = writes.encode(result)
        row = {"node": node, "journal": write.journal, "seq": write.seq, "result": body, "uid": "", "cloud_uid": ""}
        if write.verb == writes.CREATE and result.outcome == writes.APPLIED and result.object is not None:
            row |= {"uid": write.uid, "cloud_uid": str(result.object["metadata"].get("uid", ""))}

        def work(conn: Connection) -> None:
            conn.execute(insert(_outcome).values(row))
            if write.seq % PRUNE_EVERY == 0:
                conn.execute(delete(_outcome).where(*_is(node, write.journal), _outcome.c.seq <= write.seq - KEEP))

        await self._sql.tx(work)
        return body

    async def cloud_uids(self, node: str, journal: str, uids: set[str]) -> dict[str, str]:
        """Return node's uid -> ours, for those that a node made up. Raises SqlUnavailable."""
        if not uids:
            return {}
        query = select(_outcome.c.uid, _outcome.c.cloud_uid).where(*_is(node, journal), _outcome.c.uid.in_(uids))
        rows = await self._sql.read(lambda conn: conn.execute(query).all())
        return {str(uid): str(cloud) for uid, cloud in rows if uid}


def _is(node: str, journal: str) -> tuple[Any, Any]:
    return _outcome.c.node == node, _outcome.c.journal == journal
