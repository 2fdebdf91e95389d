"""What both ends do alike while a session is live: lanes, window, acknowledgements, comparison. Pure.

``Feed`` is the door to what there is to send; it reads, it never waits.
"""

from collections.abc import Container, Mapping
from typing import Any, NamedTuple, Protocol

from proto import codec, gap, repair
from proto.frames import Ack, Answer, Ask, Body, Frame, Inventory, Lane, Messages, Piece, States
from proto.kit.backoff import Rng
from proto.link.replica import StateChange
from proto.order import Order, Pieces
from proto.session import Deliver, Differ, Effect, Send, Settled
from proto.window import Flight, Limits, Window

FULL_RATIO = 0.75  # of the frame bound: brokers count topic and headers against the same limit
ROW_OVERHEAD = 40  # seq, digest, tags and lengths beside a body


class StateRow(NamedTuple):
    """One state to send; ``token`` comes back when the peer has committed it."""

    change: StateChange
    token: Any = None


class Feed(Protocol):
    """What one session may send, and what it compares. Every call is quick and does not block."""

    def states(self, flying: Container[str], max_rows: int, max_bytes: int) -> list[StateRow]:
        """Return the next dirty states, most urgent first, leaving out keys that are ``flying`` (LINK-13)."""
        ...

    def messages(self, lineage: str | None, max_rows: int, max_bytes: int) -> Messages | None:
        """Return the next rows after the last ones returned; only of ``lineage``, when that is given (LINK-16)."""
        ...

    def expected(self) -> Mapping[str, bytes] | None:
        """Return what the peer should hold of this end; None while that is not known."""
        ...

    def held(self) -> Mapping[str, bytes]:
        """Return what this end holds of the peer."""
        ...


class Exchange:
    """One live session of one end."""

    def __init__(self, epoch: int, tag: int, drives: Inventory, feed: Feed, limits: Limits, rng: Rng) -> None:
        self.epoch = epoch
        self.tag = tag
        self.feed = feed
        self.limits = limits
        self.window = Window(limits, rng)
        self.repair = repair.Repair(drives, feed.expected, rng)
        self.states_in: Order[States] = Order()
        self.messages_in: Order[Messages] = Order()
        self.pieces = Pieces()
        self.flying: dict[str, None] = {}
        self.duplicates = 0
        self._state_seq = 0
        self._committed: dict[tuple[Lane, str], int] = {}
        self._owed: dict[tuple[Lane, str], None] = {}  # acknowledgements to send

    def start(self, marks: Mapping[str, int]) -> None:
        """Take the durable positions of the message lane that this end receives."""
        self.messages_in.received.update(marks)
        self._committed.update({(Lane.MESSAGE, lineage): seq for lineage, seq in marks.items()})

    @property
    def idle(self) -> bool:
        """Whether no state of this end is in flight."""
        return not self.flying

    def receive(self, frame: Frame, now_s: float) -> list[Effect]:
        """Take one frame of this epoch; raises MalformedMessage for pieces that make no batch."""
        effects: list[Effect] = []
        if frame.acks:
            settled = [flight for ack in frame.acks for flight in self._acked(ack, now_s)]
            if settled:
                effects.append(Settled(settled))
                effects += self._launch_again(self.window.recover(now_s))
        body = frame.body
        if isinstance(body, Piece):
            body = self._join(body)
        if isinstance(body, States):
            effects += self._take_states(body)
        elif isinstance(body, Messages):
            effects += self._take_messages(body)
        elif isinstance(body, Ask):
            room = int(self.limits.frame_bytes * FULL_RATIO)
            effects += [self._control(page) for page in repair.answer(body, self.feed.held(), room)]
        elif isinstance(body, Answer) and body.inventory is self.repair.which:
            keys, asks = self.repair.answered(body, now_s)
            effects += [Differ(keys)] if keys else []
            effects += [self._control(ask) for ask in asks]
        return effects

    def committed(self, state_seq: int, messages: list[Messages]) -> None:
        """Note that what ``Deliver`` carried is on disk, so that it may be acknowledged (LINK-14)."""
        if state_seq:
            self._committed[(Lane.STATE, "")] = state_seq
            self._owed[(Lane.STATE, "")] = None
        for batch in messages:
            key = (Lane.MESSAGE, batch.lineage)
            self._committed[key] = max(batch.end, self._committed.get(key, 0))
            self._owed[key] = None

    def compare(self, root: bytes, now_s: float) -> list[Effect]:
        """Compare the peer's ``root`` with what it should hold; a difference starts the repair."""
        return [self._control(ask) for ask in self.repair.compare(root, now_s)]

    def pump(self, now_s: float) -> list[Effect]:
        """Return everything that may go out now: states before messages, acknowledgements with them (LINK-33)."""
        out: list[Effect] = []
        limits = self.limits
        while self.window.has_room(Lane.STATE):
            rows = self.feed.states(self.flying, limits.batch_rows, limits.batch_bytes)
            if not rows:
                break
            self._state_seq += 1
            body = States(self._state_seq, [row.change for row in rows])
            self.flying.update(dict.fromkeys(change.key for change in body.changes))
            size = sum(len(c.key) + len(c.body or b"") + ROW_OVERHEAD for c in body.changes)
            out += self._launch(Flight(Lane.STATE, "", body.seq, (body,), size, rows), now_s)
        while self.window.has_room(Lane.MESSAGE):
            waiting = self.window.flights[Lane.MESSAGE]
            lineage = waiting[-1].lineage if waiting else None
            batch = self.feed.messages(lineage, limits.batch_rows, limits.batch_bytes)
            if batch is None:
                break
            size = sum(len(row.body) + ROW_OVERHEAD for row in batch.rows)
            out += self._launch(Flight(Lane.MESSAGE, batch.lineage, batch.end, (batch,), size, None), now_s)
        if self._owed:
            out.append(Send(Frame(self.epoch, None, self._acks(), self.tag), 0))
        return out

    def tick(self, now_s: float) -> list[Effect]:
        """Send again what is due."""
        out = self._launch_again(self.window.resend(now_s))
        return [*out, *(self._control(ask) for ask in self.repair.tick(now_s))]

    def due_s(self) -> float | None:
        times = [t for t in (self.window.due_s(), self.repair.due_s) if t is not None]
        return min(times) if times else None

    def frame(self, body: Body) -> Frame:
        """Return ``body`` in a frame of this session, with the acknowledgements that are owed."""
        return Frame(self.epoch, body, self._acks(), self.tag)

    def _acks(self) -> tuple[Ack, ...]:
        if not self._owed:
            return ()
        acks = tuple(Ack(lane, self._committed.get((lane, lin), 0), lin) for lane, lin in self._owed)
        self._owed.clear()
        return acks

    def _acked(self, ack: Ack, now_s: float) -> list[Flight]:
        done = self.window.acked(ack.lane, ack.lineage, ack.seq, now_s)
        for flight in done:
            if flight.lane is Lane.STATE:
                for row in flight.token:
                    self.flying.pop(row.change.key, None)
        return done

    def _control(self, body: Body) -> Send:
        return Send(self.frame(body), 1)

    def _launch(self, flight: Flight, now_s: float) -> list[Effect]:
        if flight.size > self.limits.frame_bytes * FULL_RATIO:
            whole = flight.bodies[0]
            assert isinstance(whole, States | Messages)
            flight.bodies = codec.cut(whole, self.limits.frame_bytes // 2)
        self.window.add(flight, now_s)
        return [Send(self.frame(body), 1) for body in flight.bodies]

    def _launch_again(self, flights: list[Flight]) -> list[Effect]:
        return [Send(self.frame(body), 1) for flight in flights for body in flight.bodies]

    def _join(self, piece: Piece) -> States | Messages | None:
        order: Order[Any] = self.states_in if piece.lane is Lane.STATE else self.messages_in
        if piece.seq <= order.received.get(piece.lineage, 0):
            self._owe_again(piece.lane, piece.lineage)
            return None
        return self.pieces.offer(piece)

    def _take_states(self, body: States) -> list[Effect]:
        ready = self.states_in.offer("", body.seq - 1, body.seq, body)
        if ready is None:
            self._owe_again(Lane.STATE, "")
            return []
        if not ready:
            return []
        changes = [change for _, batch in ready for change in batch.changes]
        return [Deliver(self.epoch, ready[-1][1].seq, changes, [])]

    def _take_messages(self, body: Messages) -> list[Effect]:
        ready = self.messages_in.offer(body.lineage, body.prev, body.end, body)
        if ready is None:
            self._owe_again(Lane.MESSAGE, body.lineage)
            return []
        if not ready:
            return []
        return [Deliver(self.epoch, 0, [], [Messages(at, gap.clip(b.rows, at), b.lineage) for at, b in ready])]

    def _owe_again(self, lane: Lane, lineage: str) -> None:
        """A frame came twice: our acknowledgement may be lost, so it is sent again (never one that is not committed)."""
        self.duplicates += 1
        if (lane, lineage) in self._committed:
            self._owed[(lane, lineage)] = None
