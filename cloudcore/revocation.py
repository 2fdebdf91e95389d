"""Which node certificates still open doors: every one issued is a row, and a revoked key never comes back.

``Revocations`` keeps the refused ones in memory for the broker, the API and the join endpoint, and follows the table, so
that `cloudcore node revoke` in another process (or on another replica) ends live sessions within seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlmodel import Field, SQLModel

from cloudcore.sql import Sql, SqlUnavailable
from proto.kit.clock import Clock
from proto.kit.log import Logger

POLL_S = 1.0
NODE_USER = "system:node:"

log = Logger("revocation")


class NodeCertificate(SQLModel, table=True):
    """One issued node certificate. Times are Unix milliseconds."""

    __tablename__: ClassVar[Any] = "node_certificates"
    serial: str = Field(primary_key=True, max_length=64)
    node: str = Field(index=True, max_length=63)
    key_hash: str = Field(max_length=64)
    issued_ms: int = Field(sa_type=sa.BigInteger)
    not_after_ms: int = Field(sa_type=sa.BigInteger)
    revoked_ms: int = Field(default=0, sa_type=sa.BigInteger)  # 0: good
    reason: str = Field(default="", max_length=200)


class NodeRevocation(SQLModel, table=True):
    """A node that is out until it joins again: also holds for certificates that no row knows."""

    __tablename__: ClassVar[Any] = "node_revocations"
    node: str = Field(primary_key=True, max_length=63)
    revoked_ms: int = Field(sa_type=sa.BigInteger)
    reason: str = Field(default="", max_length=200)


@dataclass(frozen=True, slots=True)
class Revoked:
    """A node that is out, for people."""

    node: str
    revoked_at: datetime
    reason: str


_certificates: sa.Table = SQLModel.metadata.tables["node_certificates"]
_revocations: sa.Table = SQLModel.metadata.tables["node_revocations"]


def record(
    connection: Connection, node: str, *, serial: str, key_hash: str, not_after: datetime, now: datetime
) -> None:
    """Remember a certificate that was issued."""
    row = {"serial": serial, "node": node, "key_hash": key_hash, "issued_ms": _ms(now), "not_after_ms": _ms(not_after)}
    connection.execute(sa.insert(_certificates).values(**row, revoked_ms=0, reason=""))


def revoke(connection: Connection, node: str, now: datetime, reason: str = "revoked by an administrator") -> int:
    """Refuse ``node`` until it joins with a new key; returns how many certificates this ended. Idempotent."""
    count = _end_certificates(connection, node, now, reason)
    connection.execute(sa.delete(_revocations).where(_revocations.c.node == node))
    connection.execute(sa.insert(_revocations).values(node=node, revoked_ms=_ms(now), reason=reason))
    return count


def admit(connection: Connection, node: str, key_hash: str, now: datetime) -> None:
    """Let ``node`` in with ``key_hash`` alone: its certificates for other keys end, an older revocation is over."""
    _end_certificates(connection, node, now, "joined again with another key", except_key=key_hash)
    connection.execute(sa.delete(_revocations).where(_revocations.c.node == node))


def is_revoked(connection: Connection, node: str, serial: str) -> bool:
    """Whether this certificate of ``node`` is refused."""
    found = connection.execute(
        sa.select(_certificates.c.revoked_ms).where(_certificates.c.serial == serial, _certificates.c.node == node)
    ).first()
    if found is not None:
        return bool(found[0])
    return connection.execute(sa.select(_revocations.c.node).where(_revocations.c.node == node)).first() is not None


def keys_of(connection: Connection, node: str) -> tuple[set[str], set[str]]:
    """Return the hashes of all keys that ``node`` ever had, and of those that are revoked."""
    rows = connection.execute(
        sa.select(_certificates.c.key_hash, _certificates.c.revoked_ms).where(_certificates.c.node == node)
    ).all()
    return {key for key, _ in rows}, {key for key, revoked_ms in rows if revoked_ms}


def is_known(connection: Connection, node: str) -> bool:
    """Whether ``node`` ever had a certificate, or is refused by name."""
    return any(
        connection.execute(sa.select(table.c.node).where(table.c.node == node).limit(1)).first() is not None
        for table in (_certificates, _revocations)
    )


def list_revoked(connection: Connection) -> list[Revoked]:
    """Return the nodes that are out, by name."""
    rows = connection.execute(sa.select(_revocations).order_by(_revocations.c.node)).mappings()
    return [Revoked(r["node"], datetime.fromtimestamp(r["revoked_ms"] / 1000, UTC), r["reason"]) for r in rows]


def living_nodes(connection: Connection) -> list[str]:
    """Return the nodes that hold a certificate which is not revoked, by name."""
    out = set(connection.execute(sa.select(_revocations.c.node)).scalars())
    good = sa.select(_certificates.c.node).where(_certificates.c.revoked_ms == 0).distinct()
    return sorted(set(connection.execute(good).scalars()) - out)


def ended_before(connection: Connection, node: str, moment: datetime) -> bool:
    """Whether the last certificate of ``node`` ended, or was revoked, before ``moment``; a node that never had one: no."""
    mine = sa.select(_certificates.c.not_after_ms, _certificates.c.revoked_ms).where(_certificates.c.node == node)
    ends = [min(not_after, revoked or not_after) for not_after, revoked in connection.execute(mine).all()]
    out = connection.execute(sa.select(_revocations.c.revoked_ms).where(_revocations.c.node == node)).scalar()
    ends += [out] if out is not None else []
    return bool(ends) and max(ends) < _ms(moment)


def revoked_serials(connection: Connection, now: datetime) -> list[tuple[str, datetime]]:
    """Return (serial, when) of each revoked certificate that has not ended by itself, by serial."""
    living = (_certificates.c.revoked_ms > 0) & (_certificates.c.not_after_ms > _ms(now))
    rows = connection.execute(sa.select(_certificates.c.serial, _certificates.c.revoked_ms).where(living)).all()
    return sorted((row[0], datetime.fromtimestamp(row[1] / 1000, UTC)) for row in rows)


class Revocations:
    """The table in memory. ``subscribe`` a function to be told of each node whose certificates were just ended."""

    def __init__(self, sql: Sql, clock: Clock, *, poll_s: float = POLL_S) -> None:
        self._sql, self._clock, self._poll_s = sql, clock, poll_s
        self._serials: dict[str, str] = {}  # revoked serial -> node
        self._nodes: set[str] = set()
        self._listeners: list[Callable[[str], None]] = []

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(node)`` in the event loop when a certificate of ``node`` has been revoked."""
        self._listeners.append(listener)

    def is_revoked(self, user: str, serial: str) -> bool:
        """Whether the certificate ``serial`` of ``user`` (``system:node:NAME`` or a node's name) is refused."""
        return serial.upper() in self._serials or user.removeprefix(NODE_USER) in self._nodes

    async def load(self) -> None:
        """Read the table and tell the listeners what is new. Raises SqlUnavailable."""
        serials, nodes = await self._sql.read(self._read)
        fresh = {node for serial, node in serials.items() if serial not in self._serials} | (nodes - self._nodes)
        self._serials, self._nodes = serials, nodes
        for node in sorted(fresh):
            for listener in self._listeners:
                listener(node)

    async def run(self) -> None:
        """Follow the table until cancelled; while the database is away, what was revoked stays so."""
        while True:
            await self._clock.sleep(self._poll_s)
            try:
                await self.load()
            except SqlUnavailable as error:
                log.debug("revocations not read", error=error)

    def _read(self, connection: Connection) -> tuple[dict[str, str], set[str]]:
        # An expired certificate is refused by TLS, and for renewal the table itself is asked.
        living = (_certificates.c.revoked_ms > 0) & (_certificates.c.not_after_ms > _ms(self._clock.wall()))
        rows = connection.execute(sa.select(_certificates.c.serial, _certificates.c.node).where(living)).all()
        nodes = connection.execute(sa.select(_revocations.c.node)).scalars()
        return {row[0]: row[1] for row in rows}, set(nodes)


def _end_certificates(connection: Connection, node: str, now: datetime, reason: str, *, except_key: str = "") -> int:
    mine = (_certificates.c.node == node) & (_certificates.c.revoked_ms == 0) & (_certificates.c.key_hash != except_key)
    result = connection.execute(sa.update(_certificates).where(mine).values(revoked_ms=_ms(now), reason=reason[:200]))
    return int(result.rowcount)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
