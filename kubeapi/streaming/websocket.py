"""One WebSocket connection (RFC 6455), either end, without I/O: feed it bytes, act on events, send what ``take`` returns.

Messages arrive in pieces as their bytes come, so that no length, however large, makes us hold much.
"""

import base64
import codecs
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from proto.kit.errors import Terminal

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NOT_UTF8, TOO_LARGE, INTERNAL_ERROR = 1000, 1001, 1002, 1007, 1009, 1011
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_CONTROL_BYTES = 125
MAX_FRAME_BYTES = 1 << 20
_NEVER_SENT = (1005, 1006, 1015)


class WebSocketError(Terminal):
    """The peer does not speak RFC 6455; a Close with ``status`` is already among the bytes to send."""

    code = "WebSocketError"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Piece(NamedTuple):
    """Part of a message, in order. ``first`` and ``last`` mark its ends; ``text`` is its type."""

    data: bytes
    first: bool
    last: bool
    text: bool


class Closed(NamedTuple):
    """The peer closes; the answer is already among the bytes to send."""

    status: int
    reason: str


class Ponged(NamedTuple):
    """The answer to our ping."""

    data: bytes


Event = Piece | Closed | Ponged


def accept_key(key: str) -> str:
    """Return Sec-WebSocket-Accept for Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()


def new_mask() -> bytes:
    return secrets.token_bytes(4)


def masked(data: bytes, mask: bytes, at: int = 0) -> bytes:
    """Return ``data`` under ``mask``; ``at`` is how many bytes of the frame came before."""
    size = len(data)
    turned = mask[at % 4 :] + mask[: at % 4]
    key = (turned * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


@dataclass(slots=True)
class _Frame:
    """The frame whose payload is arriving."""

    fin: bool
    opcode: int
    left: int
    mask: bytes
    seen: int = 0


class WebSocket:
    """``client`` masks what it sends and refuses what is masked; a server the other way round."""

    def __init__(self, *, client: bool, mask: Callable[[], bytes] = new_mask) -> None:
        self._client, self._mask = client, mask
        self._buffer = bytearray()
        self._frame: _Frame | None = None
        self._message = 0  # TEXT or BINARY while one is arriving
        self._fresh = True  # nothing of that message has been passed on
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._out: list[bytes] = []
        self.closing = False  # we sent a Close: nothing more goes out
        self.closed = False  # the peer sent one, or broke the rules: nothing more is read

    def take(self) -> bytes:
        """Return what must be sent now, in this order."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def send(self, data: bytes, *, text: bool = False) -> None:
        """Send one message, in frames of bounded size; nothing after a Close."""
        opcode = TEXT if text else BINARY
        for at in range(0, len(data), MAX_FRAME_BYTES) or (0,):
            last = at + MAX_FRAME_BYTES >= len(data)
            self._write(0 if at else opcode, data[at : at + MAX_FRAME_BYTES], fin=last)

    def ping(self, data: bytes = b"") -> None:
        """Ask for a sign of life; the answer is ``Ponged`` with the same bytes."""
        self._write(PING, data[:MAX_CONTROL_BYTES])

    def close(self, status: int = NORMAL, reason: str = "") -> None:
        """Send a Close. Safe to repeat."""
        if not self.closing:
            text = reason.encode()[: MAX_CONTROL_BYTES - 2].decode("utf-8", "ignore").encode()
            self._write(CLOSE, status.to_bytes(2, "big") + text)
            self.closing = True

    def receive(self, data: bytes) -> list[Event]:
        """Return what ``data`` means. Raises WebSocketError."""
        events: list[Event] = []
        self._buffer += data
        try:
            while not self.closed and self._step(events):
                pass
        except WebSocketError as error:
            self.close(error.status, str(error))
            self.closed = True
            raise
        return events

    def _step(self, events: list[Event]) -> bool:
        """Read one head, or what is here of a payload; return whether there may be more."""
        if self._frame is None and not self._head():
            return False
        frame = self._frame
        assert frame is not None
        if frame.opcode >= CLOSE:
            if len(self._buffer) < frame.left:
                return False
            self._on_control(frame.opcode, self._payload(frame), events)
        elif frame.left and not self._buffer:
            return False
        else:
            self._on_payload(frame, self._payload(frame), events)
        if not frame.left:
            self._frame = None
        return True

    def _head(self) -> bool:
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        size, extra = buffer[1] & 0x7F, {126: 2, 127: 8}.get(buffer[1] & 0x7F, 0)
        has_mask = bool(buffer[1] & 0x80)
        whole = 2 + extra + (4 if has_mask else 0)
        self._check(buffer[0], size, has_mask=has_mask)
        if len(buffer) < whole:
            return False
        if extra:
            size = int.from_bytes(buffer[2 : 2 + extra], "big")
        if size >> 63:
            raise WebSocketError(PROTOCOL_ERROR, "a frame's length is negative")
        mask = bytes(buffer[whole - 4 : whole]) if has_mask else b""
        self._frame = _Frame(bool(buffer[0] & 0x80), buffer[0] & 0x0F, size, mask)
        del buffer[:whole]
        if self._frame.opcode in (TEXT, BINARY):
            self._message, self._fresh = self._frame.opcode, True
        return True

    def _check(self, first: int, size: int, *, has_mask: bool) -> None:
        opcode = first & 0x0F
        if first & 0x70:
            raise WebSocketError(PROTOCOL_ERROR, "a reserved bit is set; no extension was agreed")
        if opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG):
            raise WebSocketError(PROTOCOL_ERROR, f"opcode {opcode} is unknown")
        if has_mask is self._client:
            raise WebSocketError(PROTOCOL_ERROR, "a server's frames are not masked, a client's always are")
        if opcode >= CLOSE and (size > MAX_CONTROL_BYTES or not first & 0x80):
            raise WebSocketError(PROTOCOL_ERROR, "a control frame is too long, or in parts")
        if opcode < CLOSE and bool(opcode) is bool(self._message):
            raise WebSocketError(PROTOCOL_ERROR, "a message begins inside another one, or continues none")

    def _payload(self, frame: _Frame) -> bytes:
        data = bytes(self._buffer[: frame.left])
        del self._buffer[: len(data)]
        if frame.mask:
            data = masked(data, frame.mask, frame.seen)
        frame.left -= len(data)
        frame.seen += len(data)
        return data

    def _on_payload(self, frame: _Frame, data: bytes, events: list[Event]) -> None:
        last = frame.fin and not frame.left
        text = self._message == TEXT
        if text:
            try:
                self._decoder.decode(data, last)
            except UnicodeDecodeError as error:
                raise WebSocketError(NOT_UTF8, "a text message is not UTF-8") from error
        if data or last:
            events.append(Piece(data, self._fresh, last, text))
            self._fresh = False
        if last:
            self._message = 0
            self._decoder.reset()

    def _on_control(self, opcode: int, data: bytes, events: list[Event]) -> None:
        if opcode == PING:
            self._write(PONG, data)
        elif opcode == PONG:
            events.append(Ponged(data))
        else:
            events.append(self._on_close(data))

    def _on_close(self, data: bytes) -> Closed:
        status = int.from_bytes(data[:2], "big") if data else 1005
        if len(data) == 1 or (data and not (1000 <= status < 5000)) or (data and status in _NEVER_SENT):
            raise WebSocketError(PROTOCOL_ERROR, "a Close carries no valid status")
        try:
            reason = data[2:].decode()
        except UnicodeDecodeError as error:
            raise WebSocketError(NOT_UTF8, "the reason of a Close is not UTF-8") from error
        self.close(status if data else NORMAL)
        self.closed = True
        return Closed(status, reason)

    def _write(self, opcode: int, data: bytes, *, fin: bool = True) -> None:
        if self.closing:
            return
        size, bit = len(data), 0x80 if self._client else 0
        if size < 126:
            length = bytes((bit | size,))
        elif size < 1 << 16:
            length = bytes((bit | 126,)) + size.to_bytes(2, "big")
        else:
            length = bytes((bit | 127,)) + size.to_bytes(8, "big")
        head = bytes(((0x80 if fin else 0) | opcode,)) + length
        if self._client:
            mask = self._mask()
            head, data = head + mask, masked(data, mask)
        self._out += (head, data)
