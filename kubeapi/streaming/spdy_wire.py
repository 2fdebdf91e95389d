"""SPDY/3.1 frames to and from bytes: header blocks with their zlib dictionary, and a bounded splitter of what arrives.

Control frame: ``1 | version 15 | type 16 | flags 8 | length 24 | payload``. Data frame: ``0 | stream 31 | flags 8 | length 24 | bytes``.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from proto.kit.errors import Terminal

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN, UNIDIRECTIONAL = 1, 2
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL, INTERNAL_ERROR = 1, 2, 3, 5, 6
FLOW_CONTROL_ERROR, STREAM_IN_USE = 7, 8
INITIAL_WINDOW_SETTING = 7
ID_MASK = 0x7FFFFFFF
MAX_CONTROL_BYTES = 64 << 10
MAX_HEADER_BYTES = 64 << 10  # of one block, unpacked
MAX_HEADERS = 100

_HEAD = struct.Struct(">II")
_PAIR = struct.Struct(">II")
_U32 = struct.Struct(">I")

Headers = dict[str, str]  # names in lower case; several values of one name are joined with NUL


class SpdyError(Terminal):
    """The peer does not speak SPDY/3.1; the connection must end."""

    code = "SpdyError"


def _dictionary() -> bytes:
    """Build the fixed dictionary of SPDY/3 (draft-mbelshe-httpbis-spdy-00 §2.6.10.1): words with their length, then a tail."""
    words = [
        "options",
        "head",
        "post",
        "put",
        "delete",
        "trace",
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "accept-ranges",
        "age",
        "allow",
        "authorization",
        "cache-control",
        "connection",
        "content-base",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "date",
        "etag",
        "expect",
        "expires",
        "from",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "last-modified",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "referer",
        "retry-after",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "method",
        "get",
        "status",
    ]
    later = ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
    tail = (
        "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
        "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
        "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
        "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
        "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
        "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
    )
    return b"".join(_U32.pack(len(word)) + word.encode() for word in (*words, *later)) + tail.encode()


DICTIONARY = _dictionary()


class HeaderPacker:
    """The compressing half of one direction; its state spans all blocks of the connection."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(zdict=DICTIONARY)

    def pack(self, headers: Headers) -> bytes:
        """Return the block of ``headers``; blocks must be sent in the order in which they were packed."""
        out = [_U32.pack(len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                out += (_U32.pack(len(text)), text)
        return self._zlib.compress(b"".join(out)) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class HeaderUnpacker:
    """The other half. Every block that arrives must be unpacked, also an unwanted one."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)

    def unpack(self, block: bytes) -> Headers:
        """Raises SpdyError."""
        try:
            raw = self._zlib.decompress(block, MAX_HEADER_BYTES + 1)
        except zlib.error as error:
            raise SpdyError(f"a header block cannot be unpacked: {error}") from error
        if len(raw) > MAX_HEADER_BYTES or self._zlib.unconsumed_tail:
            raise SpdyError(f"a header block is larger than {MAX_HEADER_BYTES} bytes")
        try:
            return dict(_pairs(raw))
        except (struct.error, UnicodeDecodeError) as error:
            raise SpdyError("a header block is cut short or no text") from error


def _pairs(raw: bytes) -> Iterator[tuple[str, str]]:
    (count,) = _U32.unpack_from(raw)
    if count > MAX_HEADERS:
        raise SpdyError(f"a header block has more than {MAX_HEADERS} headers")
    at = 4
    for _ in range(count):
        texts = []
        for _ in range(2):
            (size,) = _U32.unpack_from(raw, at)
            at += 4 + size
            if at > len(raw):
                raise SpdyError("a header block is cut short or no text")
            texts.append(raw[at - size : at].decode())
        yield texts[0].lower(), texts[1]


class Control(NamedTuple):
    """One control frame."""

    type: int
    flags: int
    payload: bytes


class Piece(NamedTuple):
    """Part of a data frame; ``flags`` are the frame's on its last part, 0 before."""

    stream: int
    flags: int
    data: bytes


class Splitter:
    """Cut incoming bytes into frames. Data is passed on as it comes, so that no length makes us hold much."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data_left = 0
        self._stream = self._flags = 0

    def feed(self, data: bytes) -> Iterator[Control | Piece]:
        """Yield what ``data`` completes. Raises SpdyError."""
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Control | Piece | None:
        buffer = self._buffer
        if self._data_left:
            return self._piece() if buffer else None
        if len(buffer) < _HEAD.size:
            return None
        first, second = _HEAD.unpack_from(buffer)
        flags, length = second >> 24, second & 0xFFFFFF
        if not first >> 31:
            del buffer[: _HEAD.size]
            self._stream, self._flags, self._data_left = first, flags, length
            return self._piece() if buffer or not length else None
        if (first >> 16) & 0x7FFF != VERSION:
            raise SpdyError(f"a control frame of SPDY version {(first >> 16) & 0x7FFF} came; 3 is spoken here")
        if length > MAX_CONTROL_BYTES:
            raise SpdyError(f"a control frame is larger than {MAX_CONTROL_BYTES} bytes")
        if len(buffer) < _HEAD.size + length:
            return None
        payload = bytes(buffer[_HEAD.size : _HEAD.size + length])
        del buffer[: _HEAD.size + length]
        return Control(first & 0xFFFF, flags, payload)

    def _piece(self) -> Piece:
        data = bytes(self._buffer[: self._data_left])
        del self._buffer[: len(data)]
        self._data_left -= len(data)
        return Piece(self._stream, 0 if self._data_left else self._flags, data)


def control_frame(kind: int, flags: int, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    return _HEAD.pack(1 << 31 | VERSION << 16 | kind, flags << 24 | len(payload)) + payload


def data_frame(stream: int, flags: int, data: bytes) -> bytes:
    return _HEAD.pack(stream, flags << 24 | len(data)) + data


def words(payload: bytes, count: int) -> tuple[int, ...]:
    """Return the first ``count`` 32-bit numbers of a payload. Raises SpdyError."""
    if len(payload) < 4 * count:
        raise SpdyError("a control frame is cut short")
    return struct.unpack_from(f">{count}I", payload)


def pack_words(values: Iterable[int]) -> bytes:
    return b"".join(map(_U32.pack, values))


def settings_of(payload: bytes) -> dict[int, int]:
    """Return the settings in a SETTINGS frame by id. Raises SpdyError."""
    (count,) = words(payload, 1)
    if len(payload) < 4 + 8 * count:
        raise SpdyError("a SETTINGS frame is cut short")
    pairs = (_PAIR.unpack_from(payload, 4 + 8 * i) for i in range(count))
    return {flagged & 0xFFFFFF: value for flagged, value in pairs}
