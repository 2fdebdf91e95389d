"""Messages from the edges: device history above all. Rows and high-water mark commit in one transaction: exactly once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, delete, func, insert, select

from cloudcore.link_log import get_mark, put_mark
from cloudcore.sql import Sql
from cloudcore.tables import DeviceReport, HistoryGap, PendingEffect
from proto import gap
from proto.frames import GAP
from proto.kit import canonical
from proto.kit.clock import Clock, wall_ms
from proto.kit.errors import MalformedMessage, Retryable
from proto.kit.log import Logger
from proto.kit.metrics import Metrics
from proto.link.replica import MessageRow

EFFECTS = frozenset(
    {"event", "register", "pod-gone", "pod-mirror", "volume-gone", "write"}
)  # kinds whose work is done in the API, after the commit
ZERO = b"\\u0000"  # as JSON writes it
PRUNE_ROWS = 5_000  # per transaction, so that pruning never holds the writer for long
HOUR_S = 3600.0
log = Logger("history")

_report: Any = DeviceReport.__table__  # type: ignore[attr-defined]
_gap: Any = HistoryGap.__table__  # type: ignore[attr-defined]
_effect: Any = PendingEffect.__table__  # type: ignore[attr-defined]

Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # what both databases hold
_decoder = msgspec.json.Decoder(tuple[str, str, str, Int64, Int64, dict[str, Any]])
COLUMNS = ("node", "incarnation", "seq", "namespace", "device", "uid", "at_ms", "version", "property", "value")
_names = ", ".join(COLUMNS)
SQLITE_INSERT = f"INSERT INTO device_report ({_names}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608  constants
# One statement for the whole batch: arrays in, rows out.
PG_TYPES = ("text", "text", "int8", "text", "text", "text", "int8", "int8", "text", "text")
PG_INSERT = (
    f"INSERT INTO device_report ({_names}) SELECT * FROM unnest("  # noqa: S608  constants
    + ", ".join(f"%s::{t}[]" for t in PG_TYPES)
    + ")"
)

MayReport = Callable[[str, str, str, str], bool]  # (node, namespace, device, uid)


class Backlogged(Retryable):
    """As much of one node waits to be carried out as may: it shall keep what comes next, and send it again."""

    code = "Backlogged"


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much of one node may wait to be carried out. What one window of the link holds may come on top of it."""

    rows: int = 20_000
    bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Query:
    """Which reports: of one device, perhaps one property, not older than ``since_ms``; newest ``limit`` of them."""

    namespace: str
    device: str
    property: str = ""
    since_ms: int = 0
    limit: int = 10_000


class History:
    """The SQL half of the message lane. ``may_report`` says whose devices a node may report about."""

    def __init__(self, sql: Sql, *, clock: Clock, metrics: Metrics, backlog: Backlog | None = None) -> None:
        self.may_report: MayReport = lambda _node, _namespace, _name, _uid: True
        self._sql = sql
        self._clock = clock
        self._backlog = backlog or Backlog()
        self._at_most: dict[str, tuple[int, int]] = {}  # node -> rows and bytes that wait, or more; the writer's alone
        self._full: set[str] = set()  # nodes that must come down to half of it first: no going to and fro; the writer's
        self._reports = metrics.counter("skerry_cloud_history_reports_total", "Device reports stored")
        self._skipped = metrics.counter(
            "skerry_cloud_history_repeated_total", "Messages received again and skipped: they were stored before"
        )
        self._malformed = metrics.counter(
            "skerry_cloud_messages_malformed_total",
            "Messages that are none of ours; acknowledged and dropped",
            ("kind",),
        )
        self._foreign = metrics.counter(
            "skerry_cloud_history_foreign_total", "Reports about devices that the reporting node never had; dropped"
        )
        self._gaps = metrics.counter("skerry_cloud_history_gaps_total", "Gaps declared by edges")
        self._deferred = metrics.counter(
            "skerry_cloud_messages_deferred_total",
            "Batches that were not taken because too much of their node waits to be carried out; the node sends them again",
        )

    async def apply(self, node: str, incarnation: str, rows: Sequence[MessageRow]) -> list[MessageRow]:
        """Store ``rows`` and the mark; returns the rows that were new. Durable on return. Raises Backlogged, SqlUnavailable."""
        reports = self._reports_of(node, incarnation, rows)
        last = max((row.seq for row in rows), default=0)
        now_ms = wall_ms(self._clock)

        def work(conn: Connection) -> int:
            mark = get_mark(conn, node, incarnation)
            if last <= mark:
                return mark
            fresh = gaps_clipped(rows, mark)
            self._take(conn, node, [len(row.body) for row in fresh if row.kind in EFFECTS])
            insert_reports(conn, reports if mark < rows[0].seq else [r for r in reports if r[2] > mark])
            for row in fresh:
                if row.kind == GAP:
                    _insert_gap(conn, node, incarnation, row, now_ms)
                elif row.kind in EFFECTS:
                    _insert_effect(conn, node, incarnation, row)
            put_mark(conn, node, incarnation, last)
            return mark

        try:
            mark = await self._sql.tx(work)
        except Backlogged:
            self._deferred.inc()
            raise
        new = [row for row in rows if row.seq > mark]
        self._skipped.inc(by=len(rows) - len(new))
        self._reports.inc(by=sum(1 for row in new if row.kind == "history"))
        self._gaps.inc(by=sum(1 for row in new if row.kind == GAP))
        return new

    def _take(self, conn: Connection, node: str, sizes: Sequence[int]) -> None:
        """Count what is to be carried out; the table is looked at only when it may be full. Raises Backlogged.

        A batch is taken as a whole or not at all: its rows, and all that come after it, stay in order at the node.
        """
        if not sizes:
            return
        held = self._at_most.get(node)
        if held is None or not self._has_room(node, held):
            query = select(func.count(), func.sum(func.length(_effect.c.body))).where(_effect.c.node == node)
            rows, size = conn.execute(query).one()
            held = int(rows), int(size or 0)
        if self._has_room(node, held):
            self._full.discard(node)
            self._at_most[node] = held[0] + len(sizes), held[1] + sum(sizes)
            return
        self._at_most[node] = held
        self._full.add(node)
        raise Backlogged(
            f"{held[0]} messages ({held[1]} bytes) of node {node} wait to be carried out in the API;"
            f" {self._backlog.rows} ({self._backlog.bytes} bytes) may: the node keeps and repeats what comes next"
        )

    def _has_room(self, node: str, held: tuple[int, int]) -> bool:
        share = 2 if node in self._full else 1
        return held[0] * share < self._backlog.rows and held[1] * share < self._backlog.bytes

    def _reports_of(self, node: str, incarnation: str, rows: Sequence[MessageRow]) -> list[tuple[Any, ...]]:
        """Return the SQL rows of the reports in ``rows``, one per property value."""
        reports: list[tuple[Any, ...]] = []
        for row in rows:
            if row.kind != "history":
                continue
            try:
                namespace, name, uid, at_ms, version, values = _decoder.decode(row.body)
            except canonical.UNREADABLE:
                self._malformed.inc(row.kind)
                continue
            if ZERO in row.body and any("\0" in word for word in (namespace, name, uid, *values)):
                self._malformed.inc(row.kind)  # PostgreSQL holds no such text, and we give no such names
                continue
            if not self.may_report(node, namespace, name, uid):
                self._foreign.inc()
                continue
            for prop, value in values.items():
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                if "\0" in text:
                    text = text.replace("\0", "\\u0000")
                reports.append((node, incarnation, row.seq, namespace, name, uid, at_ms, version, prop, text))
        return reports

    async def effects(
        self, limit: int = 256, *, without: Sequence[int] = (), nodes: Sequence[str] = ()
    ) -> list[tuple[int, str, MessageRow]]:
        """Return the oldest (id, node, message) whose work in the API is still to do, but for ``without`` and these ``nodes``."""
        query = select(_effect).order_by(_effect.c.id).limit(limit)
        if without:
            query = query.where(_effect.c.id.not_in(without))
        if nodes:
            query = query.where(_effect.c.node.not_in(nodes))
        return await self._sql.read(
            lambda conn: [
                (int(row.id), str(row.node), MessageRow(int(row.seq), str(row.kind), bytes(row.body)))
                for row in conn.execute(query)
            ]
        )

    async def effects_done(self, ids: Sequence[int]) -> None:
        await self._sql.tx(lambda conn: conn.execute(delete(_effect).where(_effect.c.id.in_(ids))).rowcount)

    async def prune(self, keep_days: float) -> int:
        """Delete reports older than ``keep_days`` by the edge's clock, from the oldest arrival on; returns how many."""
        before_ms = wall_ms(self._clock) - int(keep_days * 86_400_000)
        cursor, total = 0, 0
        while True:
            cursor, gone = await self._sql.tx(partial(_prune_after, cursor=cursor, before_ms=before_ms))
            total += gone
            if not gone:  # arrival order is age, but for what was offline: that is found in a later round
                return total

    async def run_retention(self, keep_days: float) -> None:
        """Prune every hour, for ever; 0 keeps everything."""
        while keep_days > 0:
            try:
                gone = await self.prune(keep_days)
                if gone:
                    log.info("old history pruned", reports=gone, keep_days=keep_days)
            except Exception:
                log.exception("history not pruned")
            await self._clock.sleep(HOUR_S)


def _prune_after(conn: Connection, *, cursor: int, before_ms: int) -> tuple[int, int]:
    """Delete what is old among the next rows; returns (where to go on, how many were deleted)."""
    head = select(_report.c.id, _report.c.at_ms).where(_report.c.id > cursor).order_by(_report.c.id).limit(PRUNE_ROWS)
    rows = conn.execute(head).all()
    old = [row.id for row in rows if row.at_ms < before_ms]
    if old:
        span = (_report.c.id >= old[0], _report.c.id <= old[-1], _report.c.at_ms < before_ms)
        conn.execute(delete(_report).where(*span))
    return (rows[-1].id if rows else cursor), len(old)


def insert_reports(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of ``COLUMNS``."""
    if not rows:
        return
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql(SQLITE_INSERT, list(rows))
    elif conn.dialect.name == "postgresql":
        conn.exec_driver_sql(PG_INSERT, tuple(list(column) for column in zip(*rows, strict=True)))
    else:
        conn.execute(insert(_report), [dict(zip(COLUMNS, row, strict=True)) for row in rows])


def gaps_clipped(rows: Sequence[MessageRow], mark: int) -> list[MessageRow]:
    """Return the rows above ``mark`` that are no reports; a gap that begins below it is shortened."""
    try:
        fresh = gap.clip(rows, mark)
    except MalformedMessage:
        fresh = [row for row in rows if row.seq > mark]
    return [row for row in fresh if row.kind != "history"]


def _insert_gap(conn: Connection, node: str, incarnation: str, row: MessageRow, now_ms: int) -> None:
    try:
        found = gap.decode(row.body)
    except MalformedMessage:
        found = gap.Gap(row.seq, row.seq, "unreadable")
    values = {"node": node, "incarnation": incarnation, "at_ms": now_ms, **found._asdict()}
    conn.execute(insert(_gap).values(**values))


def _insert_effect(conn: Connection, node: str, incarnation: str, row: MessageRow) -> None:
    values = {"node": node, "incarnation": incarnation, "seq": row.seq, "kind": row.kind, "body": row.body}
    conn.execute(insert(_effect).values(**values))


def read(conn: Connection, query: Query) -> Iterator[dict[str, Any]]:
    """Yield the reports of ``query`` as plain values, in the order in which they were made."""
    found = select(_report).where(
        _report.c.namespace == query.namespace, _report.c.device == query.device, _report.c.at_ms >= query.since_ms
    )
    if query.property:
        found = found.where(_report.c.property == query.property)
    newest = found.order_by(_report.c.id.desc()).limit(query.limit).subquery()
    for row in conn.execute(select(newest).order_by(newest.c.id)):
        yield dict(row._mapping)  # noqa: SLF001  SQLAlchemy's documented name for it


def gaps(conn: Connection, node: str = "") -> list[dict[str, Any]]:
    """Return the declared gaps, of one node or of all, oldest first."""
    query = select(_gap).order_by(_gap.c.id)
    if node:
        query = query.where(_gap.c.node == node)
    return [dict(row._mapping) for row in conn.execute(query)]  # noqa: SLF001


def count(conn: Connection) -> int:
    return int(conn.execute(select(func.count()).select_from(_report)).scalar() or 0)
