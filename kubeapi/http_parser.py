"""HTTP/1.1 requests out of bytes, with a bound on everything; sans-I/O, on httptools (llhttp).

What proxies and servers read differently is refused, not guessed: repeated or contradicting lengths, unknown transfer
codings, trailers that look like headers (RFC 9112 §6.1).
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote

import httptools

from kubeapi.http_wire import Limits, reason_of

MAX_QUERY_FIELDS = 100
CACHED_QUERY = 256  # controllers repeat short queries; longer ones would make the cache a place to fill
SINGLE = frozenset({"content-length", "transfer-encoding", "host", "authorization", "content-type"})


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a verified client certificate says. ``serial`` is upper-case hex; ``not_after_s`` Unix seconds."""

    common_name: str
    organizations: tuple[str, ...]
    serial: str
    not_after_s: float


@dataclass(slots=True)
class Request:
    """One complete request. Header names are lower case; repeated headers are joined with ``, ``."""

    method: str
    path: str  # still percent-encoded: split it first, decode after
    query_string: str
    headers: dict[str, str]
    body: bytes
    peer_host: str = ""
    certificate: PeerCertificate | None = None
    keep_alive: bool = True
    version: str = "1.1"

    def segments(self) -> list[str]:
        """Return the decoded path segments; a trailing slash adds nothing, an encoded slash stays inside its segment."""
        parts = [part for part in self.path.split("/") if part]
        return [unquote(part) for part in parts] if "%" in self.path else parts

    def query(self) -> dict[str, list[str]]:
        """Return the decoded query; must not be changed. Raises ValueError above ``MAX_QUERY_FIELDS`` fields."""
        if len(self.query_string) <= CACHED_QUERY:
            return _parse_short(self.query_string)
        return parse_qs(self.query_string, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)


@lru_cache(maxsize=512)
def _parse_short(query_string: str) -> dict[str, list[str]]:
    return parse_qs(query_string, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)


class Refused(Exception):
    """A request that ends its connection before any handler sees it; ``reason`` names the counter."""

    def __init__(self, status: int, message: str, reason: str = "malformed") -> None:
        super().__init__(f"{reason_of(status)}: {message}")
        self.status, self.message, self.reason = status, message, reason


class RequestParser:
    """Feed it bytes; ``on_request`` gets complete requests, ``on_head`` the Expect header when a head is complete."""

    def __init__(
        self, limits: Limits, on_request: Callable[[Request], None], on_head: Callable[[str | None], None]
    ) -> None:
        self.limits = limits
        self.peer_host = ""
        self.certificate: PeerCertificate | None = None
        self.upgrade_asked = False
        self.after_upgrade = b""  # what followed the head that asked
        self._on_request = on_request
        self._on_head = on_head
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    @property
    def started(self) -> bool:
        """Whether part of a request has arrived."""
        return self._started

    def feed(self, chunk: bytes) -> None:
        """Parse ``chunk``. Raises Refused; after that, and after ``upgrade_asked``, feed nothing more."""
        if not self._head_done:
            self._head_bytes += len(chunk)
        try:
            self._parser.feed_data(chunk)
        except httptools.HttpParserUpgrade as upgrade:
            self.upgrade_asked = True
            self.after_upgrade = chunk[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, Refused) else Refused(400, "the request cannot be read") from error
        except httptools.HttpParserError as error:
            raise Refused(400, f"the request is not HTTP/1.1: {error}") from error
        if not self._head_done and self._head_bytes > self.limits.max_head_bytes:
            raise Refused(
                431, f"the request's head is larger than {self.limits.max_head_bytes} bytes", "head_too_large"
            )

    def release(self) -> None:
        """Feed nothing more: forget whom to tell."""
        del self._parser, self._on_request, self._on_head

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._started = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        if self._header_count > self.limits.max_headers:
            raise Refused(431, f"more than {self.limits.max_headers} headers", "head_too_large")
        if self._head_done:
            return  # a trailer: bounded above, never believed
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        if key in self._headers:
            if key in SINGLE:
                raise Refused(400, f"header {key} is repeated")
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        self._head_done = True
        headers = self._headers
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise Refused(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if version == "1.1" and "host" not in headers:
            raise Refused(400, "header Host is missing")
        coding = headers.get("transfer-encoding")
        if coding is not None and ("content-length" in headers or coding.lower() != "chunked" or version == "1.0"):
            raise Refused(400, "Transfer-Encoding must be chunked, without Content-Length, in HTTP/1.1")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or len(length) > 18:
            raise Refused(400, "Content-Length is not a number")
        self._check_body(int(length))
        expectation = headers.get("expect")
        if expectation is not None and expectation.lower() != "100-continue":
            raise Refused(417, "the only expectation met here is 100-continue")
        self._on_head(expectation)

    def on_body(self, piece: bytes) -> None:
        self._check_body(len(self._body) + len(piece))
        self._body += piece

    def on_message_complete(self) -> None:
        path, _, query = bytes(self._url).partition(b"?")
        if not path.startswith(b"/"):
            path, query = _absolute(bytes(self._url))
        request = Request(
            self._parser.get_method().decode(),
            path.decode("latin-1"),
            query.decode("latin-1"),
            self._headers,
            bytes(self._body),
            self.peer_host,
            self.certificate,
            self._parser.should_keep_alive(),
            self._parser.get_http_version(),
        )
        self._begin()
        self._on_request(request)

    def _check_body(self, size_bytes: int) -> None:
        if size_bytes > self.limits.max_body_bytes:
            raise Refused(413, f"the body is larger than {self.limits.max_body_bytes} bytes", "body_too_large")

    def _begin(self) -> None:
        self._url = bytearray()
        self._headers: dict[str, str] = {}
        self._header_count = 0
        self._head_bytes = 0
        self._head_done = False
        self._started = False
        self._body = bytearray()


def _absolute(url: bytes) -> tuple[bytes, bytes]:
    """Split an absolute-form target (RFC 9112 §3.2.2), as proxies send it."""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        raise Refused(400, "the request target is not a path") from None
    return parsed.path or b"/", parsed.query or b""


def peer_certificate(tls: ssl.SSLObject | None) -> PeerCertificate | None:
    """Return the verified certificate; ``ssl`` never reports one that its context did not verify."""
    found: dict[str, Any] | None = tls.getpeercert() if tls is not None else None
    if not found:
        return None
    subject = [(key, value) for group in found.get("subject", ()) for key, value in group]
    names = [value for key, value in subject if key == "commonName"]
    return PeerCertificate(
        common_name=names[0] if len(names) == 1 else "",  # two names are nobody's
        organizations=tuple(value for key, value in subject if key == "organizationName"),
        serial=str(found.get("serialNumber", "")),
        not_after_s=ssl.cert_time_to_seconds(str(found["notAfter"])),
    )
