"""PORT MessageLog of the cloud: what the link must not forget about nodes, epochs and messages.

Implementations: SqliteLog (sqlite_log.py; tests, one machine) and cloudcore/link_log.py (SQLModel). Both run
tests/conformance/test_message_log.py. Every method is one transaction, durable on return; all raise Retryable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What decides who may speak for a node (LINK-6 to LINK-9). A node never seen has the empty record."""

    incarnation: str = ""  # the edge disk that speaks for this node; "" = none yet
    cloud: str = ""  # the cloud incarnation under which ``acked`` was learnt
    granted: int = 0  # newest epoch ever granted, over all incarnations; only grows
    acked: int = 0  # newest epoch that the edge is known to have committed


@dataclass(frozen=True, slots=True)
class LogRow:
    """One outgoing message. (``cloud``, ``seq``) is its identity on the wire; ``position`` orders all rows of a node."""

    position: int  # > 0, grows with every append to this node, over cloud incarnations
    cloud: str  # the cloud incarnation that appended it
    seq: int  # 1, 2, 3 … without holes for each (node, cloud)
    kind: str
    body: bytes


class CloudLog(Protocol):
    """Durable memory of the cloud's end of all links."""

    async def incarnation(self) -> str:
        """Return this database's incarnation: random, made once, replaced by ``restore`` (LINK-9)."""
        ...

    async def renew(self) -> str:
        """Replace the incarnation (call after restoring a backup) and return the new one."""
        ...

    async def update(self, node: str, change: Callable[[NodeRecord], NodeRecord]) -> NodeRecord:
        """Read the node's record, store ``change(record)``, return it. What ``change`` raises is raised; nothing is stored.

        ``change`` is pure and quick; it may run in another thread.
        """
        ...

    async def mark(self, node: str, incarnation: str) -> int:
        """Return the high-water mark that ``CloudReplica.apply_messages`` committed for (node, incarnation); 0 = none."""
        ...

    async def append(self, node: str, kind: str, body: bytes, *, quota_bytes: int) -> LogRow:
        """Add one outgoing row under the current cloud incarnation.

        Raises StorageFull when the node's waiting bodies would exceed ``quota_bytes`` (0 = no limit): the newest is
        refused, so nothing that was taken is ever dropped.
        """
        ...

    async def pending(self, node: str, after: int, *, limit: int, max_bytes: int) -> Sequence[LogRow]:
        """Return rows with ``position`` > ``after`` in order: at most ``limit``, and after the first at most ``max_bytes``."""
        ...

    async def ack(self, node: str, cloud: str, seq: int) -> int:
        """Forget the node's rows of ``cloud`` up to and including ``seq``; return how many there were."""
        ...

    async def bases(self, node: str) -> dict[str, int]:
        """Return cloud incarnation -> the seq before its first waiting row, for incarnations with waiting rows.

        The present incarnation is always there: when nothing of it waits, with the newest seq it gave (0 = none).
        """
        ...

    async def waiting(self) -> dict[str, int]:
        """Return node -> number of waiting rows, for every node that has any."""
        ...
