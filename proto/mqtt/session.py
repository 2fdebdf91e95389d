"""One client's session without I/O: what waits for it, what it has in flight, what it has sent at QoS 2.

Messages to a session are numbered 1, 2, 3 ...; the packet id of number ``n`` is ``(n - 1) % 65535 + 1``. So a message keeps
its packet id over a SIGKILL of the broker without the id being stored, and ``floor`` (all numbers up to it are done) is
one integer on disk instead of one row per acknowledgement.
"""

from collections import deque
from typing import Protocol

from proto.mqtt.identity import Identity
from proto.mqtt.limits import Quota
from proto.mqtt.packets import MAX_PACKET_ID, Publish, Subscription, WillMessage
from proto.mqtt.timers import Timer

ENTRY_BYTES = 200  # what an entry costs besides topic and payload, about


class Batch:
    """One row of the store; deleted when ``remaining`` references to its messages are done."""

    __slots__ = ("number", "remaining")

    def __init__(self, number: int) -> None:
        self.number = number
        self.remaining = 0


class Entry:
    """A message on its way to one session."""

    __slots__ = ("batch", "dup", "ids", "message", "packet_id", "qos", "retain", "seq", "size_bytes")

    def __init__(self, message: Publish, qos: int, *, retain: bool, ids: tuple[int, ...], seq: int) -> None:
        self.message = message
        self.qos = qos
        self.retain = retain
        self.ids = ids  # subscription identifiers
        self.seq = seq
        self.packet_id = (seq - 1) % MAX_PACKET_ID + 1
        self.size_bytes = len(message.payload) + len(message.topic) + ENTRY_BYTES
        self.dup = False
        self.batch: Batch | None = None


def size_of(message: Publish) -> int:
    return len(message.payload) + len(message.topic) + ENTRY_BYTES


class Outlet(Protocol):
    """Where a connected session's messages go: a network connection or one in process."""

    def writable(self) -> bool:
        """Whether QoS 1 and 2 may be sent now; ``Session.pump`` is called when it becomes true again."""
        ...

    def send_message(self, entry: Entry) -> bool:
        """Send a QoS 1 or 2 message; False when this client can never take it (too large, expired)."""
        ...

    def send_qos0(self, message: Publish, retain: bool, ids: tuple[int, ...]) -> None:
        """Send, or drop and count."""
        ...

    def send_pubrel(self, packet_id: int) -> None: ...

    def shut(self, reason: int, *, will: bool = True) -> None:
        """End the connection, telling the client why where its protocol can."""
        ...


class Ledger(Protocol):
    """Who keeps a stored session's state on disk."""

    def settled(self, session: "Session", entry: Entry) -> None:
        """A message needs no delivery any more."""
        ...


class Session:
    """State between broker and client that may outlive the connection (MQTT 5 §4.1)."""

    __slots__ = (
        "client_id",
        "done",
        "expiry_s",
        "floor",
        "gone",
        "identity",
        "incoming",
        "inflight",
        "ledger",
        "next_seq",
        "number",
        "outlet",
        "owner",
        "queue",
        "queued_bytes",
        "quota",
        "released",
        "sent_seq",
        "stored",
        "subscriptions",
        "timers",
        "version",
        "waiting",
        "will",
        "window",
    )

    def __init__(self, client_id: str, owner: str, *, quota: Quota, ledger: Ledger, number: int = 0) -> None:
        self.client_id = client_id
        self.owner = owner  # name of the identity that made it
        self.number = number  # key in the store; 0 when not stored
        self.stored = number > 0
        self.version = 4
        self.expiry_s = 0
        self.window = 1  # messages in flight at once
        self.gone = False
        self.outlet: Outlet | None = None
        self.quota = quota
        self.ledger = ledger
        self.subscriptions: dict[str, Subscription] | None = None
        self.next_seq = 1
        self.floor = 0
        self.sent_seq = 0  # highest number ever sent
        self.done: set[int] | None = None  # numbers above the floor that are done
        self.inflight: dict[int, Entry] | None = None  # by packet id, in order of sending
        self.released: dict[int, None] | None = None  # packet ids between PUBREC and PUBCOMP, in order
        self.queue: deque[Entry] | None = None
        self.waiting = 0  # messages admitted and not settled
        self.queued_bytes = 0
        self.incoming: dict[int, bool] | None = None  # QoS 2 packet ids received; True: also on disk
        self.will: WillMessage | None = None
        self.identity: Identity | None = None  # of the last connection; None after a restart of the broker
        self.timers: list[Timer] | None = None  # will and expiry of a session without a connection

    def admit(
        self, message: Publish, qos: int, *, retain: bool, ids: tuple[int, ...], limits: tuple[int, int]
    ) -> Entry | None:
        """Number a QoS 1 or 2 message for this session; None when ``limits`` (messages, bytes) or the quota are reached."""
        entry = Entry(message, qos, retain=retain, ids=ids, seq=self.next_seq)
        size = entry.size_bytes
        if (
            self.queued_bytes + size > limits[1]
            or self.quota.used_bytes + size > self.quota.limit_bytes
            or self.waiting >= limits[0]
        ):
            return None
        self.waiting += 1
        self.next_seq += 1
        self.queued_bytes += size
        self.quota.used_bytes += size
        return entry

    def push(self, entry: Entry) -> None:
        """Queue an admitted message; call ``pump`` afterwards."""
        if self.gone:
            self.settle(entry)
            return
        if self.queue is None:
            self.queue = deque()
        self.queue.append(entry)

    def pump(self) -> None:
        """Send what the window, the outlet and free packet ids allow."""
        outlet, queue = self.outlet, self.queue
        if outlet is None or not queue:
            return
        if self.inflight is None:
            self.inflight = {}
        inflight = self.inflight
        while queue and outlet.writable():
            if len(inflight) + len(self.released or ()) >= self.window:
                return
            entry = queue[0]
            packet_id = entry.packet_id
            if packet_id in inflight or (self.released and packet_id in self.released):
                return  # 65,535 messages later its id is still taken: wait
            queue.popleft()
            if not outlet.send_message(entry):
                self.settle(entry)
                continue
            inflight[packet_id] = entry
            self.sent_seq = max(self.sent_seq, entry.seq)
        if not queue:
            self.queue = None

    def resume(self) -> None:
        """After a reconnect: PUBREL and PUBLISH again with their original packet ids, oldest first (§4.4)."""
        outlet = self.outlet
        assert outlet is not None
        for packet_id in self.released or ():
            outlet.send_pubrel(packet_id)
        again = list((self.inflight or {}).values())
        self.inflight = None
        if again:
            for entry in again:
                entry.dup = True
            self.queue = deque([*again, *(self.queue or ())])
        self.pump()

    def acknowledged(self, packet_id: int) -> bool:
        """A PUBACK came; False when nothing with this id waits for one."""
        entry = (self.inflight or {}).get(packet_id)
        if entry is None or entry.qos != 1:
            return False
        self._finish(packet_id, entry)
        return True

    def received(self, packet_id: int, *, failed: bool) -> bool:
        """A PUBREC came; False when nothing with this id waits for one. Send PUBREL unless it ``failed``."""
        if self.released and packet_id in self.released:
            return True
        entry = (self.inflight or {}).get(packet_id)
        if entry is None or entry.qos != 2:
            return False
        if not failed:
            if self.released is None:
                self.released = {}
            self.released[packet_id] = None
        self._finish(packet_id, entry)
        return True

    def completed(self, packet_id: int) -> bool:
        """A PUBCOMP came; False when it was not awaited."""
        if not self.released or packet_id not in self.released:
            return False
        del self.released[packet_id]
        self.released = self.released or None
        return True

    def _finish(self, packet_id: int, entry: Entry) -> None:
        assert self.inflight is not None
        del self.inflight[packet_id]
        if not self.inflight and not self.queue:
            self.inflight = None
        self.settle(entry)

    def settle(self, entry: Entry) -> None:
        """Give back what an admitted message held: it is done, or will never be sent."""
        self.waiting -= 1
        self.queued_bytes -= entry.size_bytes
        self.quota.used_bytes -= entry.size_bytes
        if not self.stored:
            return
        if entry.seq == self.floor + 1:
            self.floor += 1
            while self.done and self.floor + 1 in self.done:
                self.floor += 1
                self.done.discard(self.floor)
        else:
            self.done = self.done or set()
            self.done.add(entry.seq)
        self.ledger.settled(self, entry)

    def restore(self, entries: list[Entry]) -> None:
        """Take back what the store kept, in order; sizes count against the quota even beyond it."""
        for entry in entries:
            self.waiting += 1
            self.queued_bytes += entry.size_bytes
            self.quota.used_bytes += entry.size_bytes
        if entries:
            self.queue = deque(entries)

    def end(self) -> list[Entry]:
        """Forget everything; returns the entries that were never acknowledged."""
        self.gone = True
        lost = [*(self.inflight or {}).values(), *(self.queue or ())]
        self.inflight = self.queue = self.released = self.incoming = None
        for entry in lost:
            self.settle(entry)
        return lost
