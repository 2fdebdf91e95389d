"""One SPDY/3.1 connection, either end, without I/O: feed it bytes, act on events, send what ``take`` returns.

Go's spdystream, which kubectl, kubelet and containerd use, keeps no flow-control windows: it neither sends WINDOW_UPDATE
nor minds it, and relies on TCP. So what we may send is limited by windows only once the peer has shown that it has some;
what we consume is always credited.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from kubeapi.streaming import spdy_wire as wire
from kubeapi.streaming.spdy_wire import CANCEL, Headers, SpdyError

__all__ = ["Data", "Event", "Gone", "Headers", "Opened", "Pong", "Replied", "Reset", "SpdyConnection", "SpdyError"]

WINDOW_BYTES = 64 << 10  # SPDY/3.1's default
UNLIMITED_BYTES = 1 << 30
MAX_FRAME_BYTES = 1 << 20
MAX_STREAMS = 256
MAX_CREDIT = 0x7FFFFFFF


class Opened(NamedTuple):
    """The peer opened a stream. Answer with ``reply`` or ``reset``."""

    stream: int
    headers: Headers
    fin: bool


class Replied(NamedTuple):
    """The peer accepted our stream, or added ``headers`` to one later (``late``)."""

    stream: int
    headers: Headers
    fin: bool
    late: bool = False


class Data(NamedTuple):
    """Bytes of a stream; ``fin``: the peer writes no more to it."""

    stream: int
    data: bytes
    fin: bool


class Reset(NamedTuple):
    """The peer ended a stream at once, both ways."""

    stream: int
    status: int


class Pong(NamedTuple):
    """The answer to our ping."""

    id: int


class Gone(NamedTuple):
    """The peer takes no more streams; ``status`` 0 is an orderly end."""

    last_stream: int
    status: int


Event = Opened | Replied | Data | Reset | Pong | Gone


@dataclass(slots=True)
class _Stream:
    window: int  # bytes we may still send
    unread: int = 0  # bytes taken from the peer's window and not credited yet
    finished: bool = False  # we write no more
    ended: bool = False  # the peer writes no more


@dataclass(slots=True)
class _Peer:
    """What the peer has said about flow control."""

    keeps_windows: bool
    initial: int = WINDOW_BYTES
    window: int = WINDOW_BYTES  # of the whole connection
    unread: int = 0
    pinged: set[int] = field(default_factory=set)


class SpdyConnection:
    """``client`` opens odd streams. ``windows``: hold the peer to flow control from the first byte on."""

    def __init__(self, *, client: bool, windows: bool = False, max_streams: int = MAX_STREAMS) -> None:
        self._next_stream = self._next_ping = 1 if client else 2
        self._peer_parity = 0 if client else 1
        self._newest_peer_stream = 0
        self._max_streams = max_streams
        self._streams: dict[int, _Stream] = {}
        self._peer = _Peer(windows)
        self._gone = False
        self._out: list[bytes] = []
        self._packer, self._unpacker, self._splitter = wire.HeaderPacker(), wire.HeaderUnpacker(), wire.Splitter()
        self._control: dict[int, Callable[[wire.Control], list[Event]]] = {
            wire.SYN_STREAM: self._on_open,
            wire.SYN_REPLY: self._on_headers,
            wire.HEADERS: self._on_headers,
            wire.RST_STREAM: self._on_reset,
            wire.SETTINGS: self._on_settings,
            wire.PING: self._on_ping,
            wire.GOAWAY: self._on_goaway,
            wire.WINDOW_UPDATE: self._on_window,
        }

    @property
    def streams(self) -> list[int]:
        """The streams that are open in at least one direction."""
        return list(self._streams)

    def take(self) -> bytes:
        """Return what must be sent now, in this order."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    # Ours

    def open(self, headers: Headers, *, fin: bool = False, priority: int = 0) -> int:
        """Open a stream and return its number. Raises SpdyError once the peer takes no more."""
        if self._gone:
            raise SpdyError("the peer takes no more streams")
        stream = self._next_stream
        self._next_stream += 2
        self._streams[stream] = _Stream(self._peer.initial, finished=fin)
        head = wire.pack_words((stream, 0)) + bytes((priority << 5, 0))
        self._write(wire.SYN_STREAM, wire.FIN if fin else 0, head, self._packer.pack(headers))
        return stream

    def reply(self, stream: int, headers: Headers | None = None, *, fin: bool = False) -> None:
        """Accept the peer's stream."""
        self._write(
            wire.SYN_REPLY, wire.FIN if fin else 0, wire.pack_words((stream,)), self._packer.pack(headers or {})
        )
        if fin:
            self._finish(stream)

    def writable(self, stream: int) -> bool:
        """Whether the stream is open for us."""
        held = self._streams.get(stream)
        return held is not None and not held.finished

    def sendable(self, stream: int) -> int:
        """Return how many bytes may be sent on ``stream`` now; 0 also when it is closed for us."""
        held = self._streams.get(stream)
        if held is None or held.finished:
            return 0
        return max(0, min(held.window, self._peer.window)) if self._peer.keeps_windows else UNLIMITED_BYTES

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Send ``data``, at most ``sendable(stream)`` bytes; ``fin`` is the half-close. Raises SpdyError."""
        held = self._streams.get(stream)
        if held is None or held.finished:
            raise SpdyError(f"stream {stream} is closed")
        if len(data) > self.sendable(stream):
            raise SpdyError(f"stream {stream} may not send {len(data)} bytes now")
        held.window -= len(data)
        self._peer.window -= len(data)
        view = memoryview(data)
        for at in range(0, len(data), MAX_FRAME_BYTES) or (0,):
            last = at + MAX_FRAME_BYTES >= len(data)
            piece = bytes(view[at : at + MAX_FRAME_BYTES])
            self._out.append(wire.data_frame(stream, wire.FIN if fin and last else 0, piece))
        if fin:
            self._finish(stream)

    def reset(self, stream: int, status: int = CANCEL) -> None:
        """End a stream at once, both ways. Safe to repeat."""
        if self._streams.pop(stream, None) is not None:
            self._write(wire.RST_STREAM, 0, wire.pack_words((stream, status)))

    def consumed(self, stream: int, size_bytes: int) -> None:
        """Say that so much of what arrived was passed on: the peer may send as much again."""
        self._peer.unread = self._credit(0, self._peer.unread + size_bytes)
        held = self._streams.get(stream)
        if held is not None and not held.ended:
            held.unread = self._credit(stream, held.unread + size_bytes)

    def ping(self) -> int:
        """Ask for a sign of life; the answer is ``Pong`` with the returned id."""
        number = self._next_ping
        self._next_ping += 2
        self._peer.pinged.add(number)
        self._write(wire.PING, 0, wire.pack_words((number,)))
        return number

    def goaway(self, status: int = 0) -> None:
        """Say that we take no more streams."""
        self._write(wire.GOAWAY, 0, wire.pack_words((self._newest_peer_stream, status)))

    # The peer's

    def receive(self, data: bytes) -> list[Event]:
        """Return what ``data`` means. Raises SpdyError: say goodbye with ``goaway(PROTOCOL_ERROR)`` and cut."""
        events: list[Event] = []
        for frame in self._splitter.feed(data):
            if isinstance(frame, wire.Piece):
                events += self._on_data(frame)
            elif frame.type in self._control:
                events += self._control[frame.type](frame)
        return events

    def _on_open(self, frame: wire.Control) -> list[Event]:
        stream = wire.words(frame.payload, 2)[0] & wire.ID_MASK
        headers = self._unpacker.unpack(frame.payload[10:])
        if stream % 2 != self._peer_parity or stream <= self._newest_peer_stream:
            raise SpdyError(f"the peer opened stream {stream}, which is not its next one")
        self._newest_peer_stream = stream
        if len(self._streams) >= self._max_streams:
            self._write(wire.RST_STREAM, 0, wire.pack_words((stream, wire.REFUSED_STREAM)))
            return []
        fin = bool(frame.flags & wire.FIN)
        self._streams[stream] = _Stream(self._peer.initial, finished=bool(frame.flags & wire.UNIDIRECTIONAL), ended=fin)
        return [Opened(stream, headers, fin)]

    def _on_headers(self, frame: wire.Control) -> list[Event]:
        stream = wire.words(frame.payload, 1)[0] & wire.ID_MASK
        headers = self._unpacker.unpack(frame.payload[4:])
        if stream not in self._streams:
            return []
        fin = bool(frame.flags & wire.FIN)
        if fin:
            self._end(stream)
        return [Replied(stream, headers, fin, late=frame.type == wire.HEADERS)]

    def _on_data(self, piece: wire.Piece) -> list[Event]:
        held = self._streams.get(piece.stream)
        if held is None:  # we reset it while this was on its way; the connection's window still counts it
            self.consumed(piece.stream, len(piece.data))
            return []
        if held.ended:
            self.reset(piece.stream, wire.PROTOCOL_ERROR)
            return [Reset(piece.stream, wire.PROTOCOL_ERROR)]
        fin = bool(piece.flags & wire.FIN)
        if fin:
            self._end(piece.stream)
        return [Data(piece.stream, piece.data, fin)] if piece.data or fin else []

    def _on_reset(self, frame: wire.Control) -> list[Event]:
        stream, status = wire.words(frame.payload, 2)
        held = self._streams.pop(stream & wire.ID_MASK, None)
        return [] if held is None else [Reset(stream & wire.ID_MASK, status)]

    def _on_settings(self, frame: wire.Control) -> list[Event]:
        initial = wire.settings_of(frame.payload).get(wire.INITIAL_WINDOW_SETTING)
        if initial is not None:
            if initial > MAX_CREDIT:
                raise SpdyError("an initial window is larger than 2^31-1 bytes")
            for held in self._streams.values():
                held.window += initial - self._peer.initial
            self._peer.initial, self._peer.keeps_windows = initial, True
        return []

    def _on_ping(self, frame: wire.Control) -> list[Event]:
        (number,) = wire.words(frame.payload, 1)
        if number in self._peer.pinged:
            self._peer.pinged.discard(number)
            return [Pong(number)]
        if number % 2 == self._peer_parity:
            self._write(wire.PING, 0, wire.pack_words((number,)))
        return []

    def _on_goaway(self, frame: wire.Control) -> list[Event]:
        last, status = wire.words(frame.payload, 2)
        self._gone = True
        return [Gone(last & wire.ID_MASK, status)]

    def _on_window(self, frame: wire.Control) -> list[Event]:
        stream, delta = (word & wire.ID_MASK for word in wire.words(frame.payload, 2))
        self._peer.keeps_windows = True
        held = self._streams.get(stream)
        if stream == 0:
            self._peer.window = min(self._peer.window + delta, MAX_CREDIT)
        elif held is not None:
            held.window = min(held.window + delta, MAX_CREDIT)
        return []

    # Steps

    def _write(self, kind: int, flags: int, *parts: bytes) -> None:
        self._out.append(wire.control_frame(kind, flags, *parts))

    def _credit(self, stream: int, unread: int) -> int:
        if unread < WINDOW_BYTES // 2:
            return unread
        self._write(wire.WINDOW_UPDATE, 0, wire.pack_words((stream, unread)))
        return 0

    def _finish(self, stream: int) -> None:
        held = self._streams.get(stream)
        if held is not None:
            held.finished = True
            self._forget(stream, held)

    def _end(self, stream: int) -> None:
        held = self._streams[stream]
        held.ended = True
        self._forget(stream, held)

    def _forget(self, stream: int, held: _Stream) -> None:
        if held.finished and held.ended:
            del self._streams[stream]
