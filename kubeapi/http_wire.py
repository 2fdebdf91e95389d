"""How an HTTP answer becomes bytes, and the limits of what a client may ask us to hold."""

import asyncio
import zlib
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus

from proto.kit.clock import Clock

FINAL_CHUNK = b"0\r\n\r\n"
GZIP_WINDOW = 31  # zlib's way to say "with a gzip header"
GZIP_LEVEL = 1  # three quarters of the gain for a quarter of the time
THREAD_FROM_BYTES = 1 << 20  # below it, a thread's hand-over costs more than the compression


class StreamCut(Exception):
    """Raised by the chunks of an answer that cannot be finished: the client sees the connection break, not an end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server lets a client use."""

    max_head_bytes: int = 64 * 1024
    max_headers: int = 100
    max_body_bytes: int = 3 * 1024 * 1024
    max_connections: int = 4096
    max_handshakes: int = 1024  # TLS handshakes at once, some 50 KB each
    max_pipelined: int = 16
    head_timeout_s: float = 10.0  # from the first byte of a request to the end of its head
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 180.0  # longer than Go's 90 s, so that the client is the one that closes
    handler_timeout_s: float = 60.0
    write_timeout_s: float = 30.0  # how long a client may leave a full buffer unread
    linger_s: float = 2.0
    close_grace_s: float = 2.0
    gzip_from_bytes: int = 128 * 1024  # as kube-apiserver


@dataclass(slots=True)
class Reply:
    """The head of an answer."""

    status: int
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)
    close: bool = False  # end the connection after this answer


class _Dates:
    """The Date header of the current second."""

    second: datetime | None = None
    text = b""

    def at(self, clock: Clock) -> bytes:
        second = clock.wall().replace(microsecond=0)
        if second != self.second:
            self.second = second
            self.text = format_datetime(second, usegmt=True).encode()
        return self.text


_dates = _Dates()
_status_lines = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


def reason_of(status: int) -> str:
    return HTTPStatus(status).phrase


def encode_head(
    reply: Reply,
    clock: Clock,
    *,
    keep: bool,
    length: int | None = None,
    chunked: bool = False,
    extra: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """Return status line and headers. A header value cannot start a new line."""
    out = [_status_lines.get(reply.status) or f"HTTP/1.1 {reply.status} Status\r\n".encode()]
    out.append(b"Date: " + _dates.at(clock) + b"\r\n")
    if reply.content_type:
        out.append(b"Content-Type: " + _value(reply.content_type) + b"\r\n")
    out += [name.encode("latin-1") + b": " + _value(value) + b"\r\n" for name, value in (*reply.headers, *extra)]
    if chunked:
        out.append(b"Transfer-Encoding: chunked\r\n")
    elif length is not None and reply.status not in (204, 304):
        out.append(b"Content-Length: %d\r\n" % length)
    if not keep:
        out.append(b"Connection: close\r\n")
    out.append(b"\r\n")
    return b"".join(out)


def _value(text: str) -> bytes:
    return text.replace("\r", " ").replace("\n", " ").encode("utf-8")


def encode_chunk(piece: bytes) -> bytes:
    """Return one chunk; nothing for an empty piece, because an empty chunk would end the stream."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


async def finish_body(limits: Limits, accept_encoding: str, body: bytes) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """Compress ``body`` when it is worth it and welcome; return it with the headers that say so."""
    if len(body) < limits.gzip_from_bytes or not accepts_gzip(accept_encoding):
        return body, ()
    squeezed = _gzip(body) if len(body) < THREAD_FROM_BYTES else await asyncio.to_thread(_gzip, body)
    return squeezed, (("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))


def accepts_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() == "gzip":
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    return packer.compress(body) + packer.flush()
