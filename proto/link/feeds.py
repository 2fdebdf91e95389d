"""What the session machines read: the edge's outbox and replica; the cloud's dirty keys, replica and fetched rows."""

from collections.abc import Callable, Container, Mapping, Sequence

from proto import digest
from proto.exchange import StateRow
from proto.frames import Mark, Messages
from proto.link import inbox
from proto.link.log import LogRow
from proto.link.outbox import Outbox
from proto.link.replica import CloudReplica, EdgeReplica, MessageRow, NotSynced, StateChange
from proto.session_edge import Positions


class EdgeOutlet:
    """Feed of the edge's session."""

    def __init__(self, outbox: Outbox, replica: EdgeReplica, marks: Callable[[], tuple[Mark, ...]]) -> None:
        self._outbox = outbox
        self._replica = replica
        self._marks = marks

    def positions(self) -> Positions:
        floor, last = self._outbox.bounds()
        return Positions(floor, last, self._marks()[: inbox.MAX_MARKS])

    def has_states(self) -> bool:
        return bool(self._outbox.dirty)

    def begin(self, mark: int) -> None:
        self._outbox.rewind(mark)

    def states(self, flying: Container[str], max_rows: int, max_bytes: int) -> list[StateRow]:
        return [StateRow(*row) for row in self._outbox.next_states(flying, max_rows, max_bytes)]

    def messages(self, lineage: str | None, max_rows: int, max_bytes: int) -> Messages | None:
        del lineage  # upwards there is one: this disk
        return self._outbox.next_messages(max_rows, max_bytes)

    def expected(self) -> Mapping[str, bytes] | None:
        return {key: digest.status_digest(body) for key, body in self._replica.statuses().items()}

    def held(self) -> Mapping[str, bytes]:
        return self._replica.held()


class CloudOutlet:
    """Feed of one node's session in the cloud. Rows come from the log by ``offer``, asked for by ``starving``."""

    def __init__(self, node: str, replica: CloudReplica) -> None:
        self.node = node
        self.dirty: dict[str, None] = {}
        self.starving = False  # the log may have rows after ``position`` that are not on the shelf
        self.position = 0
        self.unsynced = 0  # deletions held back because the informers have not listed everything
        self._replica = replica
        self._shelf: list[LogRow] = []

    def begin(self) -> None:
        self.dirty.clear()
        self._shelf.clear()
        self.position = 0
        self.starving = True

    def offer(self, rows: Sequence[LogRow]) -> None:
        """Put fetched rows on the shelf; none means that the log is read to its end."""
        self._shelf.extend(row for row in rows if row.position > self.position)
        if self._shelf:
            self.position = self._shelf[-1].position

    def states(self, flying: Container[str], max_rows: int, max_bytes: int) -> list[StateRow]:
        out: list[StateRow] = []
        size = 0
        for key in [key for key in self.dirty if key not in flying]:
            if len(out) >= max_rows:  # keys of kinds that cannot be read now wait, and no others behind them
                break
            try:
                body = self._replica.body(self.node, key)
            except NotSynced:
                self.unsynced += 1
                continue
            if body is None and not self._may_delete(key):
                continue
            size += len(body or b"")
            if out and size > max_bytes:
                break
            del self.dirty[key]
            out.append(StateRow(StateChange(key, body, digest.object_digest(body) if body is not None else b"")))
        return out

    def messages(self, lineage: str | None, max_rows: int, max_bytes: int) -> Messages | None:
        if not self._shelf:
            return None
        first = self._shelf[0]
        if lineage not in (None, first.cloud):
            return None  # LINK-16: rows of another incarnation wait until the last ones are acknowledged
        rows: list[MessageRow] = []
        size = 0
        for row in self._shelf[:max_rows]:
            size += len(row.body)
            if rows and (row.cloud != first.cloud or row.seq != rows[-1].seq + 1 or size > max_bytes):
                break
            rows.append(MessageRow(row.seq, row.kind, row.body))
        del self._shelf[: len(rows)]
        if not self._shelf:
            self.starving = True
        return Messages(first.seq - 1, rows, first.cloud)

    def expected(self) -> Mapping[str, bytes] | None:
        try:
            return self._replica.wanted(self.node)
        except NotSynced:
            return None

    def held(self) -> Mapping[str, bytes]:
        return self._replica.status_digests(self.node)

    def _may_delete(self, key: str) -> bool:
        """Whether ``key`` is really gone: not while informers list, not when it has come back (LINK-23)."""
        wanted = self.expected()
        if wanted is None:
            self.unsynced += 1
            return False
        return key not in wanted
