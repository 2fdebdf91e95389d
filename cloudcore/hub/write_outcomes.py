"""What became of each write of the nodes, in SQL: the answer that is sent again, and the uids that a node made up."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from cloudcore import revocation
from cloudcore.sql import Sql
from cloudcore.tables import WriteOutcome
from proto import writes
from proto.kit.clock import Clock
from proto.kit.log import Logger
from proto.writes import Write, WriteResult

KEEP = 10_000  # per disk; a node has fewer than that on their way
DISKS = 3  # per node: with more, those before are history
PRUNE_EVERY = 500
HOUR_S = 3600.0
MIN_FORGET_DAYS = 90.0  # however short the grace for renewal is
log = Logger("write-outcomes")
_outcome: Any = WriteOutcome.__table__  # type: ignore[attr-defined]


class Outcomes:
    """One row per write, newest ``KEEP`` of each disk."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._unpruned: dict[str, int] = {}  # node -> answers since the last look

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

        since = self._unpruned.get(node, 0) + 1

        def work(conn: Connection) -> None:
            conn.execute(insert(_outcome).values(row))
            if since >= PRUNE_EVERY:
                _prune(conn, node, write.journal)

        await self._sql.tx(work)
        self._unpruned[node] = since % PRUNE_EVERY
        return body

    async def cloud_uids(self, node: str, journal: str, uids: set[str]) -> dict[str, str]:
        """Return node's uid -> ours, for those that a node made up. Raises SqlUnavailable."""
        if not uids:
            return {}
        query = select(_outcome.c.uid, _outcome.c.cloud_uid).where(*_is(node, journal), _outcome.c.uid.in_(uids))
        rows = await self._sql.read(lambda conn: conn.execute(query).all())
        return {str(uid): str(cloud) for uid, cloud in rows if uid}

    async def forget(self, before: datetime) -> list[str]:
        """Delete the answers to nodes that could not speak since ``before``; returns those nodes. Raises SqlUnavailable.

        Until then a node may ask again for each write whose answer it has not seen, so also one that was revoked: it comes
        back by a join token with its disk. After that only a new token brings it back, and what it repeats then is compared
        with the objects like any late write: their marks, uids and fields say what is done. ``link_mark`` and ``link_node``
        are kept for ever, a row per disk and node: without them messages would count twice, and copies pass for the node.
        """
        gone = await self._sql.read(lambda conn: _gone(conn, before))
        for node in gone:  # one each, so that the writer is not held for long
            await self._sql.tx(partial(_forget, node=node, before=before))
            self._unpruned.pop(node, None)
        return gone

    async def run_forget(self, clock: Clock, days: float) -> None:
        """Forget every hour the nodes that could not speak for ``days``, for ever."""
        while True:
            try:
                gone = await self.forget(clock.wall() - timedelta(days=days))
                if gone:
                    log.info("answers to nodes that are gone were pruned", nodes=len(gone))
            except Exception:
                log.exception("answers to nodes that are gone were not pruned")
            await clock.sleep(HOUR_S)


def _gone(conn: Connection, before: datetime) -> list[str]:
    known = sorted(conn.execute(select(_outcome.c.node).distinct()).scalars())
    return [node for node in known if revocation.ended_before(conn, node, before)]


def _forget(conn: Connection, *, node: str, before: datetime) -> None:
    if revocation.ended_before(conn, node, before):  # it may have joined since
        conn.execute(delete(_outcome).where(_outcome.c.node == node))


def _prune(conn: Connection, node: str, journal: str) -> None:
    """A node may number its writes, and call its disks, as it likes: nothing it says makes this table grow for ever."""
    newest = select(func.max(_outcome.c.seq)).where(*_is(node, journal))
    last = int(conn.execute(newest).scalar() or 0)
    conn.execute(delete(_outcome).where(*_is(node, journal), _outcome.c.seq <= last - KEEP))
    known = select(func.count(func.distinct(_outcome.c.journal))).where(_outcome.c.node == node)
    if int(conn.execute(known).scalar() or 0) > DISKS:
        conn.execute(delete(_outcome).where(_outcome.c.node == node, _outcome.c.journal != journal))


def _is(node: str, journal: str) -> tuple[Any, Any]:
    return _outcome.c.node == node, _outcome.c.journal == journal
