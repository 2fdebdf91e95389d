"""Byte streams of one node and session at one end, without I/O (STREAM-n).

A runner gives in what arrived (``receive``, ``receive_acks``), asks what may leave (``pull``, ``acks``) and tells the time.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from proto.kit.channels import Chunk
from proto.stream_codec import MAX_ACKS
from proto.stream_frames import Accepted, Body, Close, Finish, Open, Portion, Refused, StreamAcks, StreamFrame
from proto.stream_pace import Pace

CHUNK_BYTES = 16 << 10  # a portion: what a twin update may have to wait for at a socket
COST_BYTES = 128  # of a frame beside its content
QUEUE_BYTES = 64 << 10  # written here and not sent yet, of one stream
PROBE_S = 2.0  # without an acknowledgement until it is asked for again
LOST_S = 20.0  # without an acknowledgement until a frame counts as lost
MAX_FINISHES = 8  # more than there are channels
MAX_STRAYS = 256  # answers to frames of streams that are not here; more are not answered
GAP = "a frame of this stream was lost, came twice or out of order"
UNKNOWN = "the other side does not know this stream (any more)"


class Limits(Struct, frozen=True):
    """Bounds of one node's streams."""

    max_streams: int
    window_bytes: int  # that the other side may send of one stream before they are read
    open_s: float  # an opening without an answer ends after this


def _nobody() -> None:
    return


class Stream:
    """One stream. ``changed`` is called whenever a reader, writer or opener should look again."""

    __slots__ = (
        "accepted",
        "call",
        "changed",
        "closing",
        "consumed_bytes",
        "ended",
        "expected",
        "finishes",
        "granted_bytes",
        "inbox",
        "limit_bytes",
        "number",
        "opened_s",
        "outbox",
        "outstanding",
        "probed_s",
        "queued_bytes",
        "received_bytes",
        "refusal",
        "scheduled",
        "sent_bytes",
        "seq",
    )

    def __init__(self, number: int, granted_bytes: int, now_s: float) -> None:
        self.number = number
        self.call = b""  # of a stream that the other side opened
        self.changed: Callable[[], None] = _nobody
        self.accepted = False
        self.refusal: Refused | None = None
        self.ended: str | None = None  # None: going on; "": an orderly end; else why it broke
        self.closing = False  # our Close is queued or on its way
        self.opened_s = now_s
        self.inbox: deque[Chunk] = deque()
        self.outbox: deque[Body] = deque()
        self.queued_bytes = 0
        self.seq = 0  # of the last frame sent
        self.expected = 1  # of the next frame to come
        self.finishes = 0  # that came: they cost no credit
        self.outstanding: deque[tuple[int, int, float]] = deque()  # seq, cost, when: sent and not confirmed
        self.probed_s = now_s
        self.sent_bytes = self.limit_bytes = 0
        self.received_bytes = self.consumed_bytes = 0
        self.granted_bytes = granted_bytes
        self.scheduled = False

    def next_body(self, *, room: bool) -> Body | None:
        """Take what is sent next; None: nothing, or content that must wait for credit or ``room``."""
        if not self.outbox:
            return None
        first = self.outbox[0]
        if not isinstance(first, Portion):
            return self.outbox.popleft()
        if not room or self.sent_bytes + len(first.content) > self.limit_bytes:
            return None
        self.outbox.popleft()
        parts, size = [first.content], len(first.content)
        while self.outbox and isinstance(second := self.outbox[0], Portion) and second.channel == first.channel:
            size += len(second.content)
            if size > CHUNK_BYTES or self.sent_bytes + size > self.limit_bytes:
                size -= len(second.content)
                break
            parts.append(second.content)
            self.outbox.popleft()
        self.sent_bytes += size
        self.queued_bytes -= size
        return first if len(parts) == 1 else Portion(first.channel, b"".join(parts))


class Mux:
    """All streams of one session at one end. ``serves``: this end takes openings (the edge)."""

    def __init__(self, session: int, limits: Limits, *, serves: bool) -> None:
        self.session = session
        self.limits = limits
        self.pace = Pace()
        self.streams: dict[int, Stream] = {}
        self.unacked_bytes = 0  # arrived since the last acknowledgement
        self._serves = serves
        self._turns: deque[Stream] = deque()
        self._strays: deque[tuple[int, Body]] = deque()
        self._acks: dict[int, tuple[int, int]] = {}
        self._probes: list[int] = []

    # what the owners of streams do

    def open(self, number: int, call: bytes, now_s: float) -> Stream:
        """Start a stream; the caller has looked at ``full``."""
        stream = self.streams[number] = Stream(number, self.limits.window_bytes, now_s)
        self._queue(stream, Open(call, stream.granted_bytes))
        return stream

    @property
    def full(self) -> bool:
        """Whether no stream may be opened now."""
        return len(self.streams) >= self.limits.max_streams

    def accept(self, stream: Stream) -> None:
        """Answer an opening with yes."""
        if stream.ended is None:
            stream.accepted = True
            self._queue(stream, Accepted(stream.granted_bytes))

    def refuse(self, stream: Stream, refusal: Refused) -> None:
        """Answer an opening with no."""
        if stream.ended is None:
            self._finish_here(stream, "refused", refusal)

    def write(self, stream: Stream, channel: int, content: bytes) -> None:
        """Queue at most ``CHUNK_BYTES``; the caller waits while ``queued_bytes`` is at ``QUEUE_BYTES``."""
        stream.queued_bytes += len(content)
        self._queue(stream, Portion(channel, content))

    def finish(self, stream: Stream, channel: int) -> None:
        self._queue(stream, Finish(channel))

    def close(self, stream: Stream, error: str) -> None:
        """End a stream here and there; without an error the other side gets what was written first."""
        if stream.ended is None:
            self._finish_here(stream, error, Close(error))

    def read(self, stream: Stream) -> Chunk | None:
        """Take the next chunk, None when there is none now; what was read is granted again (STREAM-5)."""
        if not stream.inbox:
            return None
        chunk = stream.inbox.popleft()
        stream.consumed_bytes += len(chunk.data)
        window = self.limits.window_bytes
        if stream.ended is None and stream.consumed_bytes + window - stream.granted_bytes >= window // 2:
            stream.granted_bytes = stream.consumed_bytes + window
            self._acks[stream.number] = (stream.expected - 1, stream.granted_bytes)
        return chunk

    def end(self, reason: str) -> None:
        """The session is over: so is every stream."""
        for stream in list(self.streams.values()):
            self._over(stream, reason)
            self._forget(stream)

    # what arrives

    def receive(self, number: int, frame: StreamFrame, now_s: float) -> Stream | None:
        """Take a frame; returns the stream that it opens, if any."""
        body, stream = frame.body, self.streams.get(number)
        if stream is None:
            return self._unknown(number, frame, now_s)
        last = isinstance(body, Close) and (body.error or stream.closing)
        if last or stream.closing or (isinstance(body, Refused) and not stream.accepted):
            stream.expected = max(stream.expected, frame.seq + 1)  # nobody reads what may be missing
            if isinstance(body, Refused):
                stream.refusal = body
            if isinstance(body, Close | Refused):
                self._closed_there(stream, body.error if isinstance(body, Close) else "refused")
        elif frame.seq != stream.expected:
            self.close(stream, GAP)
            return None
        else:
            stream.expected += 1
            self._take(stream, body)
        self._confirm(stream, frame)
        return None

    def receive_acks(self, acks: StreamAcks, now_s: float) -> None:
        """Take acknowledgements, credit and questions."""
        for number, seq, limit in zip(acks.streams, acks.seqs, acks.limits, strict=True):
            stream = self.streams.get(number)
            if stream is not None:
                self._confirmed(stream, seq, limit, now_s)
        for number in acks.probes:
            found = self.streams.get(number)
            if found is None:
                self._stray(number, Close(UNKNOWN))
            else:
                self._acks[number] = (found.expected - 1, found.granted_bytes)
        if acks.reset:
            self.end("the cloud lost its connection to the broker")

    # what leaves

    def pull(self, now_s: float) -> list[tuple[int, StreamFrame]]:
        """Return what may be sent now: round robin, content within the window of all streams (STREAM-6, STREAM-7)."""
        out = [(number, StreamFrame(self.session, 0, body)) for number, body in self._strays]
        self._strays.clear()
        blocked: deque[Stream] = deque()
        while self._turns:
            stream = self._turns.popleft()
            room = self.pace.room
            body = stream.next_body(room=room)
            if body is None:
                if stream.outbox and not room:
                    blocked.append(stream)
                else:
                    stream.scheduled = False  # an acknowledgement or a write schedules it again
                continue
            out.append((stream.number, self._sent(stream, body, now_s)))
            self._turns.append(stream)
        self._turns = blocked
        return out

    @property
    def owes(self) -> bool:
        """Whether ``acks`` has something to tell."""
        return bool(self._acks or self._probes)

    def acks(self) -> StreamAcks | None:
        """Return what must be told about arrivals, None when nothing."""
        if not self.owes:
            return None
        self.unacked_bytes = 0
        numbers = list(self._acks)[:MAX_ACKS]
        rows = [self._acks.pop(number) for number in numbers]
        probes, self._probes = self._probes[:MAX_ACKS], self._probes[MAX_ACKS:]
        return StreamAcks(self.session, numbers, [row[0] for row in rows], [row[1] for row in rows], probes)

    def tick(self, now_s: float) -> None:
        """Ask again for what is not confirmed; end what was never answered or lost (STREAM-8, STREAM-9)."""
        for stream in list(self.streams.values()):
            if stream.outstanding:
                sent_s = stream.outstanding[0][2]
                if now_s - sent_s > LOST_S:
                    self._lost(stream)
                    continue
                if now_s - max(sent_s, stream.probed_s) > PROBE_S:
                    stream.probed_s = now_s
                    self._probes.append(stream.number)
            if not self._serves and not stream.accepted and now_s - stream.opened_s > self.limits.open_s:
                self.close(stream, f"the node did not answer within {self.limits.open_s:g} s")

    # inside

    def _queue(self, stream: Stream, body: Body) -> None:
        stream.outbox.append(body)
        self._schedule(stream)

    def _schedule(self, stream: Stream) -> None:
        if not stream.scheduled and stream.outbox:
            stream.scheduled = True
            self._turns.append(stream)

    def _sent(self, stream: Stream, body: Body, now_s: float) -> StreamFrame:
        stream.seq += 1
        cost = COST_BYTES + (len(body.content) if isinstance(body, Portion) else 0)
        stream.outstanding.append((stream.seq, cost, now_s))
        self.pace.left(cost)
        if isinstance(body, Portion) and stream.queued_bytes < QUEUE_BYTES:
            stream.changed()
        return StreamFrame(self.session, stream.seq, body)

    def _unknown(self, number: int, frame: StreamFrame, now_s: float) -> Stream | None:
        body = frame.body
        if isinstance(body, Open) and self._serves and frame.seq == 1:
            if self.full:
                text = f"this node serves {self.limits.max_streams} streams at once and no more"
                self._stray(number, Refused(429, "TooManyRequests", text))
                return None
            stream = self.streams[number] = Stream(number, self.limits.window_bytes, now_s)
            stream.call, stream.limit_bytes, stream.expected = body.call, body.limit, 2
            self._confirm(stream, frame)
            return stream
        if frame.seq:
            self._acks[number] = (frame.seq, 0)
            if not isinstance(body, Close | Refused):
                self._stray(number, Close(UNKNOWN))
        return None

    def _stray(self, number: int, body: Body) -> None:
        if len(self._strays) < MAX_STRAYS:
            self._strays.append((number, body))

    def _take(self, stream: Stream, body: Body) -> None:
        if isinstance(body, Portion) and body.content:
            stream.received_bytes += len(body.content)
            if stream.received_bytes > stream.granted_bytes:
                self.close(stream, "the other side sent more than it was granted")
                return
            stream.inbox.append(Chunk(body.channel, body.content))
        elif isinstance(body, Finish) and stream.finishes < MAX_FINISHES:
            stream.finishes += 1
            stream.inbox.append(Chunk(body.channel, b""))
        elif isinstance(body, Accepted) and not self._serves:
            stream.accepted = True
            stream.limit_bytes = max(stream.limit_bytes, body.limit)
            self._schedule(stream)
        elif isinstance(body, Close):
            self._closed_there(stream, body.error)
        else:
            self.close(stream, "the other side sent what has no place here")
        stream.changed()

    def _confirm(self, stream: Stream, frame: StreamFrame) -> None:
        if frame.seq:
            self._acks[stream.number] = (stream.expected - 1, stream.granted_bytes)
            self.unacked_bytes += COST_BYTES + (len(frame.body.content) if isinstance(frame.body, Portion) else 0)

    def _confirmed(self, stream: Stream, seq: int, limit: int, now_s: float) -> None:
        while stream.outstanding and stream.outstanding[0][0] <= seq <= stream.seq:
            _, cost, sent_s = stream.outstanding.popleft()
            self.pace.arrived(cost, now_s - sent_s, now_s)
        stream.limit_bytes = max(stream.limit_bytes, limit)
        self._schedule(stream)
        if stream.closing and not stream.outstanding and not stream.outbox:
            self._forget(stream)

    def _finish_here(self, stream: Stream, reason: str, last: Body) -> None:
        stream.closing = True
        if reason:
            stream.outbox.clear()
        self._over(stream, reason, keep_outbox=True)
        self._queue(stream, last)

    def _closed_there(self, stream: Stream, error: str) -> None:
        self._over(stream, error)
        self._forget(stream)

    def _over(self, stream: Stream, reason: str, *, keep_outbox: bool = False) -> None:
        if not keep_outbox:
            stream.outbox.clear()
            stream.queued_bytes = 0
        if stream.ended is None:
            stream.ended = reason
            stream.changed()

    def _lost(self, stream: Stream) -> None:
        """Nobody confirms: the other side is told, and told again, until it confirms that or the session ends."""
        self._unsend(stream)
        reason = stream.ended or f"the other side confirmed nothing for {LOST_S:g} s"
        if stream.closing:
            stream.outbox.clear()
            self._queue(stream, Close(reason))
        else:
            self.close(stream, reason)

    def _unsend(self, stream: Stream) -> None:
        for _, cost, _ in stream.outstanding:
            self.pace.lost(cost)
        stream.outstanding.clear()

    def _forget(self, stream: Stream) -> None:
        self._unsend(stream)
        self.streams.pop(stream.number, None)
