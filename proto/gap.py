"""Gap rows: what stands in a message lane for rows that were dropped (LINK-17). Body: {"from", "to", "count", "reason"}."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from proto.frames import GAP
from proto.kit import canonical
from proto.kit.errors import MalformedMessage
from proto.link.replica import MessageRow


class Gap(NamedTuple):
    """Rows ``first`` to ``last``, both included, are gone for ``reason`` ("bytes", "age", "restored" …)."""

    first: int
    last: int
    reason: str

    @property
    def rows(self) -> int:
        return self.last - self.first + 1


def encode(gap: Gap) -> bytes:
    """Return the body of the gap row, whose seq is ``gap.last``."""
    return canonical.encode({"from": gap.first, "to": gap.last, "count": gap.rows, "reason": gap.reason})


def decode(body: bytes) -> Gap:
    """Read a gap row's body; raises MalformedMessage."""
    try:
        value = canonical.decode(body)
        gap = Gap(int(value["from"]), int(value["to"]), str(value["reason"])[:32])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise MalformedMessage("gap row has no from, to and reason") from error
    if not 0 < gap.first <= gap.last:
        raise MalformedMessage("gap row ends before it begins")
    return gap


def clip(rows: Sequence[MessageRow], mark: int) -> Sequence[MessageRow]:
    """Return the rows above ``mark``; a gap that begins at or below it is shortened, so nothing is counted twice."""
    if rows[0].seq <= mark:
        rows = [row for row in rows if row.seq > mark]
    if rows and rows[0].kind == GAP:
        gap = decode(rows[0].body)
        if gap.first <= mark:
            short = Gap(mark + 1, gap.last, gap.reason)
            rows = [MessageRow(rows[0].seq, GAP, encode(short)), *rows[1:]]
    return rows
