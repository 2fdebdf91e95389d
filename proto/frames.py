"""Frames of the link as values; what each field means is in link.proto and README.md."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

from proto.link.replica import MessageRow, StateChange

VERSION = 1
DIGEST_BYTES = 16
GAP = "gap"  # the kind of a row that stands for dropped rows


class Lane(IntEnum):
    STATE = 0
    MESSAGE = 1


class Reason(IntEnum):
    STALE = 0
    FENCED = 1
    BUSY = 2
    KICKED = 3
    VERSION = 4


class Inventory(IntEnum):
    HELD = 0
    STATUSES = 1


class Ack(NamedTuple):
    lane: Lane
    seq: int
    lineage: str = ""


class Mark(NamedTuple):
    lineage: str
    seq: int


class Hello(Struct, frozen=True, kw_only=True):
    connection: int
    nonce: int
    incarnation: str
    attempt: int = 1
    version: int = VERSION
    epoch: int = 0
    cloud: str = ""
    floor: int = 0
    last: int = 0
    marks: tuple[Mark, ...] = ()
    held: bytes = b""
    keep_alive_ms: int = 0


class Welcome(Struct, frozen=True, kw_only=True):
    nonce: int
    cloud: str
    mark: int = 0
    bases: tuple[Mark, ...] = ()
    statuses: bytes = b""


class Refused(Struct, frozen=True, kw_only=True):
    reason: Reason
    nonce: int = 0
    text: str = ""
    retry_after_ms: int = 0


class Ping(Struct, frozen=True):
    held: bytes = b""


class Pong(Struct, frozen=True):
    statuses: bytes = b""


class Ask(Struct, frozen=True):
    inventory: Inventory
    round: int
    buckets: bytes = b""


class Answer(Struct, frozen=True):
    inventory: Inventory
    round: int
    digests: bytes = b""
    buckets: bytes = b""
    keys: Sequence[str] = ()
    key_digests: bytes = b""


class States(Struct, frozen=True):
    seq: int
    changes: Sequence[StateChange]


class Messages(Struct, frozen=True):
    prev: int
    rows: Sequence[MessageRow]
    lineage: str = ""

    @property
    def end(self) -> int:
        return self.rows[-1].seq


class Piece(Struct, frozen=True):
    lane: Lane
    seq: int
    index: int
    count: int
    chunk: bytes
    lineage: str = ""


Body = Hello | Welcome | Refused | Ping | Pong | Ask | Answer | States | Messages | Piece


class Frame(Struct, frozen=True):
    """One MQTT payload: acknowledgements, and at most one body."""

    epoch: int = 0
    body: Body | None = None
    acks: tuple[Ack, ...] = ()
    tag: int = 0  # of the session, chosen by the cloud at random (LINK-5)


class Presence(Struct, frozen=True):
    """What the retained presence topic says; ``connection`` binds it to one MQTT connection (LINK-12)."""

    online: bool
    connection: int
    epoch: int = 0
