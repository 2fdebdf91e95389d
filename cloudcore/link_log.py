"""PORT MessageLog on the cloud's SQL database: epochs, incarnations, marks and messages waiting for nodes."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from cloudcore.sql import Sql
from cloudcore.tables import LinkCloud, LinkNode, LinkOut
from proto.kit.errors import StorageFull
from proto.link.log import LogRow, NodeRecord

INCARNATION_BYTES = 8
GET_MARK = "SELECT seq FROM link_mark WHERE node = ? AND incarnation = ?"
PUT_MARK = (
    "INSERT INTO link_mark (node, incarnation, seq) VALUES (?, ?, ?)"
    " ON CONFLICT (node, incarnation) DO UPDATE SET seq = excluded.seq"
)

# SQLModel types its columns as plain values; these are the tables themselves.
_cloud: Any = LinkCloud.__table__  # type: ignore[attr-defined]
_node: Any = LinkNode.__table__  # type: ignore[attr-defined]
_out: Any = LinkOut.__table__  # type: ignore[attr-defined]


class SqlLog:
    """Implements proto.link.log.CloudLog."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def incarnation(self) -> str:
        return await self._sql.tx(_incarnation)

    async def renew(self) -> str:
        return await self._sql.tx(renew)

    async def update(self, node: str, change: Callable[[NodeRecord], NodeRecord]) -> NodeRecord:
        def work(conn: Connection) -> NodeRecord:
            row = _node_row(conn, node)
            new = change(NodeRecord(row.incarnation, row.cloud, row.granted, row.acked) if row else NodeRecord())
            _put_node(conn, node, row is not None, asdict(new))
            return new

        return await self._sql.tx(work)

    async def mark(self, node: str, incarnation: str) -> int:
        return await self._sql.read(lambda conn: get_mark(conn, node, incarnation))

    async def append(self, node: str, kind: str, body: bytes, *, quota_bytes: int) -> LogRow:
        def work(conn: Connection) -> LogRow:
            if quota_bytes:
                held = conn.execute(select(func.sum(func.length(_out.c.body))).where(_out.c.node == node)).scalar() or 0
                if int(held) + len(body) > quota_bytes:
                    raise StorageFull(
                        f"node {node} has {held} bytes waiting; {len(body)} more would exceed the {quota_bytes} allowed"
                    )
            row = _node_row(conn, node)
            cloud = _incarnation(conn)
            position = (row.out_position if row else 0) + 1
            seq = (row.out_seq if row and row.out_cloud == cloud else 0) + 1
            counters = {"out_cloud": cloud, "out_seq": seq, "out_position": position}
            _put_node(conn, node, row is not None, counters)
            made = LogRow(position, cloud, seq, kind, body)
            conn.execute(insert(_out).values(node=node, **asdict(made)))
            return made

        return await self._sql.tx(work)

    async def pending(self, node: str, after: int, *, limit: int, max_bytes: int) -> Sequence[LogRow]:
        ours = (_out.c.node == node, _out.c.position > after)
        sizes = select(_out.c.position, func.length(_out.c.body)).where(*ours).order_by(_out.c.position).limit(limit)
        rows = select(_out.c.position, _out.c.cloud, _out.c.seq, _out.c.kind, _out.c.body).where(*ours)

        def work(conn: Connection) -> list[LogRow]:
            last, total = 0, 0
            for position, size in conn.execute(sizes):  # bodies are read only once it is known how many fit
                total += int(size)
                if last and total > max_bytes:
                    break
                last = int(position)
            found = conn.execute(rows.where(_out.c.position <= last).order_by(_out.c.position)).all() if last else []
            return [LogRow(int(r.position), r.cloud, int(r.seq), r.kind, bytes(r.body)) for r in found]

        return await self._sql.read(work)

    async def ack(self, node: str, cloud: str, seq: int) -> int:
        query = delete(_out).where(_out.c.node == node, _out.c.cloud == cloud, _out.c.seq <= seq)
        return await self._sql.tx(lambda conn: int(conn.execute(query).rowcount))

    async def bases(self, node: str) -> dict[str, int]:
        query = select(_out.c.cloud, func.min(_out.c.seq) - 1).where(_out.c.node == node).group_by(_out.c.cloud)

        def work(conn: Connection) -> dict[str, int]:
            cloud, row = _incarnation(conn), _node_row(conn, node)
            newest = int(row.out_seq) if row is not None and row.out_cloud == cloud else 0
            return {cloud: newest} | {str(name): int(base) for name, base in conn.execute(query)}

        return await self._sql.tx(work)

    async def waiting(self) -> dict[str, int]:
        query = select(_out.c.node, func.count()).group_by(_out.c.node)
        return await self._sql.read(lambda conn: {row[0]: int(row[1]) for row in conn.execute(query)})


def get_mark(conn: Connection, node: str, incarnation: str) -> int:
    """Return the high-water mark of (node, incarnation), 0 for none."""
    return int(conn.exec_driver_sql(driver_sql(conn, GET_MARK), (node, incarnation)).scalar() or 0)


def put_mark(conn: Connection, node: str, incarnation: str, seq: int) -> None:
    """Set the high-water mark, in the transaction that applied what it covers."""
    conn.exec_driver_sql(driver_sql(conn, PUT_MARK), (node, incarnation, seq))


def driver_sql(conn: Connection, statement: str) -> str:
    """Return ``statement`` with the driver's own placeholders: compiling these per batch would cost more than they do."""
    return statement if conn.dialect.name == "sqlite" else statement.replace("?", "%s")


def renew(conn: Connection) -> str:
    """Replace the cloud's incarnation: every position learnt under the old one is void (after a restore)."""
    new = secrets.token_hex(INCARNATION_BYTES)
    conn.execute(delete(_cloud))
    conn.execute(insert(_cloud).values(id=1, incarnation=new))
    return new


def _incarnation(conn: Connection) -> str:
    found = conn.execute(select(_cloud.c.incarnation)).scalar()
    return str(found) if found else renew(conn)


def _node_row(conn: Connection, node: str) -> Any:
    return conn.execute(select(_node).where(_node.c.node == node)).first()


def _put_node(conn: Connection, node: str, exists: bool, values: dict[str, Any]) -> None:
    if exists:
        conn.execute(update(_node).where(_node.c.node == node).values(**values))
    else:
        blank = {
            "incarnation": "",
            "cloud": "",
            "granted": 0,
            "acked": 0,
            "out_cloud": "",
            "out_seq": 0,
            "out_position": 0,
        }
        conn.execute(insert(_node).values(node=node, **(blank | values)))
