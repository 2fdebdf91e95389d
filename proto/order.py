"""What arrived: batches of a lane in order, once each, and pieces made whole again (LINK-35 to LINK-37). Pure, bounded."""

from typing import Generic, TypeVar

from proto.codec import MAX_OBJECT_BYTES, join
from proto.frames import Lane, Messages, Piece, States

T = TypeVar("T")
MAX_EARLY = 128  # batches that wait for the one before them; the sender's window is smaller
MAX_PIECES_BYTES = 2 * MAX_OBJECT_BYTES


class Order(Generic[T]):
    """Hand on each batch of a lane once, in order. Positions are (lineage, seq)."""

    def __init__(self) -> None:
        self.received: dict[str, int] = {}
        self._early: dict[tuple[str, int], tuple[int, T]] = {}

    def offer(self, lineage: str, prev: int, end: int, batch: T) -> list[tuple[int, T]] | None:
        """Return (received before it, batch) for everything that is now in order; None when ``batch`` is old.

        A batch may begin at or below what was received (its rows are trimmed by the caller), never above it (LINK-35).
        """
        at = self.received.get(lineage, 0)
        if end <= at:
            return None
        if prev > at:
            if len(self._early) < MAX_EARLY:
                self._early[(lineage, prev)] = (end, batch)
            return []
        out = [(at, batch)]
        self.received[lineage] = end
        while early := self._next_early(lineage):
            at = self.received[lineage]
            early_end, early_batch = early
            if early_end > at:
                out.append((at, early_batch))
                self.received[lineage] = early_end
        return out

    def _next_early(self, lineage: str) -> tuple[int, T] | None:
        at = self.received[lineage]
        for key in self._early:
            if key[0] == lineage and key[1] <= at:
                return self._early.pop(key)
        return None


class Pieces:
    """Collects pieces until a whole is there; forgets the oldest unfinished one when there are too many bytes."""

    def __init__(self) -> None:
        self._parts: dict[tuple[Lane, str, int], dict[int, bytes]] = {}
        self._bytes = 0
        self.forgotten = 0

    def offer(self, piece: Piece) -> States | Messages | None:
        """Return the whole once its last piece is here; raises MalformedMessage."""
        key = (piece.lane, piece.lineage, piece.seq)
        parts = self._parts.setdefault(key, {})
        if piece.index not in parts:
            parts[piece.index] = piece.chunk
            self._bytes += len(piece.chunk)
        if len(parts) == piece.count:
            self._drop(key)
            return join([parts[i] for i in sorted(parts)])
        while self._bytes > MAX_PIECES_BYTES:
            self._drop(next(iter(self._parts)))
            self.forgotten += 1
        return None

    def _drop(self, key: tuple[Lane, str, int]) -> None:
        self._bytes -= sum(len(chunk) for chunk in self._parts.pop(key).values())
