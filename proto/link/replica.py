"""PORT Replica: what the link reads and applies. Edge: edgecore.sync. Cloud: cloudcore.hub.

Keys are ``str(proto.names.ObjectKey)``. Bodies are canonical JSON (proto.kit.canonical.encode) of whole objects downwards,
and of ``{"uid", "version", "status"}`` upwards. Digests are ``proto.kit.canonical.digest`` downwards; upwards, first 16
bytes of SHA-256 of the body.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from proto.kit.database import Tx
from proto.kit.errors import Retryable


class NotSynced(Retryable):
    """The informers have not listed everything yet: no diff may be made, no delete sent."""

    code = "NotSynced"


@dataclass(frozen=True, slots=True)
class StateChange:
    """One object of the state lane. ``body`` None: it is gone (or no longer this node's)."""

    key: str
    body: bytes | None
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class MessageRow:
    """One row of a message lane. ``kind`` names who reads ``body`` (see proto/README.md)."""

    seq: int
    kind: str  # "history" | "event" | "lease" | "register" | "command" | "gap" ...
    body: bytes


class EdgeReplica(Protocol):
    """The edge's half: holds what the cloud says, reports what it observes."""

    def held(self) -> Mapping[str, bytes]:
        """Return key -> digest of everything received from the cloud and committed here."""
        ...

    def apply(self, tx: Tx, changes: Sequence[StateChange]) -> None:
        """Store or delete what the cloud sent, in the link's own transaction (runs in the writer thread)."""
        ...

    def apply_messages(self, tx: Tx, rows: Sequence[MessageRow]) -> None:
        """Apply messages from the cloud, exactly once: the high-water mark commits in the same transaction."""
        ...

    def statuses(self) -> Mapping[str, bytes]:
        """Return key -> body of every status owned by this edge, for the repair at hello."""
        ...


class CloudReplica(Protocol):
    """The cloud's half, for all nodes."""

    def wanted(self, node: str) -> Mapping[str, bytes]:
        """Return key -> digest of everything ``node`` should hold. Raises NotSynced."""
        ...

    def body(self, node: str, key: str) -> bytes | None:
        """Return the object as ``node`` should hold it; None when it should not."""
        ...

    def status_digests(self, node: str) -> Mapping[str, bytes]:
        """Return key -> digest of the status bodies last applied from ``node`` (empty when unknown)."""
        ...

    async def apply_statuses(self, node: str, changes: Sequence[StateChange]) -> None:
        """Return once every status is written to the API, or dropped and counted (wrong uid, not this node's).

        Idempotent by uid and version. Raises Retryable: nothing is acknowledged and the link tries again.
        """
        ...

    async def apply_messages(self, node: str, incarnation: str, rows: Sequence[MessageRow]) -> None:
        """Return once every row and the lane's high-water mark are in one committed SQL transaction.

        Rows at or below the stored mark of (node, incarnation) are skipped: exactly once. Raises Retryable.
        """
        ...

    async def connected(self, node: str, epoch: int) -> None:
        """The session ``epoch`` of ``node`` is live (told once per session)."""
        ...

    async def lost(self, node: str, epoch: int) -> None:
        """The session ``epoch`` of ``node`` has ended (told once, never for an epoch older than the live one)."""
        ...

    async def fenced(self, node: str, reason: str) -> None:
        """A copy of ``node`` was refused; people must be told (event, metric)."""
        ...
