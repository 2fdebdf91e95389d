"""The link session: states and tables of both ends, and the rule that decides who may speak for a node.

Pure. The machines that walk these tables are session_edge.py and session_cloud.py; what a live session does is exchange.py.
"""

from enum import Enum

from msgspec import Struct

from proto.frames import Frame, Hello, Messages, Presence, Welcome
from proto.kit.errors import Terminal
from proto.link.log import NodeRecord
from proto.link.replica import StateChange
from proto.window import Flight

RESTORE_JUMP = 1 << 20  # a restored cloud has forgotten epochs; frames of those must never meet a new one (LINK-9)


class IllegalEvent(Terminal):
    """An event that the table does not allow; nothing changed."""

    code = "IllegalEvent"


class Fenced(Terminal):
    """This disk may not speak for the node: the text says why, for people."""

    code = "Fenced"


class EdgeState(Enum):
    DOWN = "down"  # no MQTT connection
    GREETING = "greeting"  # hello is sent until it is answered
    ADOPTING = "adopting"  # the granted epoch is being committed
    LIVE = "live"
    FENCED = "fenced"  # told to join again: leaves the connection to the right machine, asks again now and then


class EdgeEvent(Enum):
    CONNECTED = "connected"
    LOST = "lost"
    WELCOMED = "welcomed"
    ADOPTED = "adopted"
    STALE = "stale"
    REFUSED = "refused"


EDGE_TABLE: dict[tuple[EdgeState, EdgeEvent], EdgeState] = {
    (EdgeState.DOWN, EdgeEvent.CONNECTED): EdgeState.GREETING,
    (EdgeState.DOWN, EdgeEvent.LOST): EdgeState.DOWN,
    (EdgeState.GREETING, EdgeEvent.WELCOMED): EdgeState.ADOPTING,
    (EdgeState.GREETING, EdgeEvent.STALE): EdgeState.GREETING,
    (EdgeState.GREETING, EdgeEvent.REFUSED): EdgeState.FENCED,
    (EdgeState.GREETING, EdgeEvent.LOST): EdgeState.DOWN,
    (EdgeState.ADOPTING, EdgeEvent.ADOPTED): EdgeState.LIVE,
    (EdgeState.ADOPTING, EdgeEvent.LOST): EdgeState.DOWN,
    (EdgeState.LIVE, EdgeEvent.STALE): EdgeState.GREETING,
    (EdgeState.LIVE, EdgeEvent.LOST): EdgeState.DOWN,
    (EdgeState.FENCED, EdgeEvent.LOST): EdgeState.DOWN,
}


class CloudState(Enum):
    IDLE = "idle"  # no session
    OPEN = "open"  # welcome sent, no frame of the epoch seen yet
    CONFIRMING = "confirming"  # first frame seen; that the edge holds the epoch is being committed
    LIVE = "live"


class CloudEvent(Enum):
    GRANTED = "granted"
    FIRST_FRAME = "first frame"
    CONFIRMED = "confirmed"
    ENDED = "ended"


CLOUD_TABLE: dict[tuple[CloudState, CloudEvent], CloudState] = {
    (CloudState.IDLE, CloudEvent.GRANTED): CloudState.OPEN,
    (CloudState.IDLE, CloudEvent.ENDED): CloudState.IDLE,
    (CloudState.OPEN, CloudEvent.GRANTED): CloudState.OPEN,
    (CloudState.OPEN, CloudEvent.FIRST_FRAME): CloudState.CONFIRMING,
    (CloudState.OPEN, CloudEvent.ENDED): CloudState.IDLE,
    (CloudState.CONFIRMING, CloudEvent.CONFIRMED): CloudState.LIVE,
    (CloudState.CONFIRMING, CloudEvent.GRANTED): CloudState.OPEN,
    (CloudState.CONFIRMING, CloudEvent.ENDED): CloudState.IDLE,
    (CloudState.LIVE, CloudEvent.GRANTED): CloudState.OPEN,
    (CloudState.LIVE, CloudEvent.ENDED): CloudState.IDLE,
}


def diagram() -> str:
    """Return both tables as text, for README.md (a test compares)."""
    lines = [f"edge   {a.value:<10} --{event.value}--> {b.value}" for (a, event), b in EDGE_TABLE.items()]
    lines += [f"cloud  {a.value:<10} --{event.value}--> {b.value}" for (a, event), b in CLOUD_TABLE.items()]
    return "\n".join(lines)


def judge(record: NodeRecord, hello: Hello, cloud: str) -> NodeRecord:
    """Return the record with the next epoch granted to ``hello``; raises Fenced (LINK-6 to LINK-9).

    ``cloud`` is this cloud's incarnation. What was learnt under another one (before a restore) proves nothing. A new disk
    takes over only when it is known to hold its epoch: a hello that comes late must not displace the right machine.
    """
    acked = record.acked if record.cloud == cloud else 0
    same = record.incarnation == hello.incarnation
    speaker = record.incarnation
    if hello.epoch and hello.cloud == cloud:
        if hello.epoch < acked or (hello.epoch == acked and not same):
            raise Fenced(f"this disk last held session {hello.epoch}, but another one has held {acked}: it is a copy")
        if hello.epoch > record.granted:
            raise Fenced(f"this disk holds session {hello.epoch}, which this cloud never granted")
        acked, speaker = hello.epoch, hello.incarnation
    elif acked and (same or hello.epoch):
        raise Fenced(f"this disk knows nothing of session {acked}, which the node already held: it is a copy")
    jump = RESTORE_JUMP if record.cloud not in ("", cloud) else 1
    return NodeRecord(speaker, cloud, max(record.granted, hello.epoch) + jump, acked)


def confirm(record: NodeRecord, incarnation: str, epoch: int) -> NodeRecord:
    """Return the record with ``epoch`` known to be on the disk ``incarnation``, which speaks for the node from now on."""
    if epoch <= record.acked:
        return record
    return NodeRecord(incarnation, record.cloud, record.granted, epoch)


# Effects: what a machine asks its runner to do, in order.


class Send(Struct, frozen=True):
    """Publish a frame on the session's own topic."""

    frame: Frame
    qos: int = 1


class Announce(Struct, frozen=True):
    """Publish the retained presence."""

    presence: Presence


class Adopt(Struct, frozen=True):
    """Commit epoch, cloud and positions of ``welcome`` in one transaction, then call ``adopted``."""

    epoch: int
    welcome: Welcome


class Deliver(Struct, frozen=True):
    """Apply in order, commit, then call ``committed`` with ``state_seq`` and the ends of ``messages``."""

    epoch: int
    state_seq: int  # 0 = no states
    changes: list[StateChange]
    messages: list[Messages]


class Settled(Struct, frozen=True):
    """The peer has these flights on disk: they may be forgotten here."""

    flights: list[Flight]


class Differ(Struct, frozen=True):
    """The comparison found that the peer holds something else under these keys."""

    keys: list[str]


class Judge(Struct, frozen=True):
    """Decide about a hello (``judge``), commit the answer, then call ``granted`` or ``fenced``."""

    hello: Hello


class Confirm(Struct, frozen=True):
    """Commit that the edge holds ``epoch``, then call ``confirmed``."""

    incarnation: str
    epoch: int


class Opened(Struct, frozen=True):
    """A session is live."""

    epoch: int


class Ended(Struct, frozen=True):
    """A session that was live has ended."""

    epoch: int
    reason: str


class Alarm(Struct, frozen=True):
    """People must be told: a copy of a node exists."""

    text: str


class Drop(Struct, frozen=True):
    """Close the MQTT connection: it is dead though nobody said so, or belongs to another machine."""

    reason: str
    pause_s: float = 0.0  # stay away at least this long


Effect = Send | Announce | Adopt | Deliver | Settled | Differ | Judge | Confirm | Opened | Ended | Alarm | Drop
