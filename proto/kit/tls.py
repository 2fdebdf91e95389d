"""TLS contexts: TLS 1.2 or newer, the peer always verified, certificate files swapped while the listener lives.

Edges verify our CA and the fixed name ``cloudcore.skerry``, whatever host was typed: the name is pinned in the
context itself, so asyncio, uvloop and paho cannot forget it.
"""

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proto.kit.clock import Clock
from proto.kit.errors import UsageError
from proto.kit.log import Logger

SERVER_NAME = "cloudcore.skerry"
CHECK_EVERY_S = 10.0  # a renewed certificate is served within this time
Pem = Path | bytes  # a file, or its content (a kubeconfig carries it inline)

log = Logger("tls")


class PinnedContext(ssl.SSLContext):
    """A client context that checks ``server_name`` instead of the host that was dialled."""

    server_name: str | None = None

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        if self.server_name is not None:
            kwargs["server_hostname"] = self.server_name
        return super().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        if self.server_name is not None:
            kwargs["server_hostname"] = self.server_name
        return super().wrap_bio(*args, **kwargs)


class ServerContext(ssl.SSLContext):
    """A server's context that begins no more handshakes than its listener bears: each holds some 50 KB until it ends."""

    handshakes: "Handshakes | None" = None  # set by the listener

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        if self.handshakes is not None and self.handshakes.refuse():
            raise ssl.SSLError("too many handshakes at once")
        return super().wrap_bio(*args, **kwargs)


class Handshakes:
    """Who was accepted and has not ended its handshake, by the id of its protocol.

    asyncio tells nobody that a handshake failed, so one is forgotten after ``timeout_s``, when it has failed for sure.
    """

    def __init__(self, limit: int, timeout_s: float, clock: Clock) -> None:
        self._limit, self._timeout_s, self._clock = limit, timeout_s, clock
        self._begun: dict[int, float] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, protocol: object) -> None:
        self._begun.pop(id(protocol), None)
        self._begun[id(protocol)] = self._clock.now_s()

    def end(self, protocol: object) -> None:
        self._begun.pop(id(protocol), None)

    def refuse(self) -> bool:
        """Whether the newest one is one too many; it no longer counts then."""
        oldest_s = self._clock.now_s() - self._timeout_s
        while self._begun and next(iter(self._begun.values())) < oldest_s:
            del self._begun[next(iter(self._begun))]
        if len(self._begun) <= self._limit:
            return False
        self._begun.popitem()
        return True


@dataclass(frozen=True, slots=True)
class Peer:
    """Who the verified peer is, from its certificate's subject."""

    name: str  # common name; "" when the certificate has none
    groups: tuple[str, ...]  # organizations
    serial: str  # upper-case hexadecimal, as OpenSSL prints it


def server_context(cert: Path, key: Path, ca: Pem | None = None, *, require_client: bool = False) -> ssl.SSLContext:
    """Return a server's context. With ``ca`` a client certificate is asked for; a bad one is always refused.

    ``require_client`` refuses clients without one. Raises UsageError when a file cannot be used.
    """
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without tickets each connection proves its certificate anew: nothing outlives an expiry or a restart.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    with _explained(cert, key, ca):
        load_chain(context, cert, key)
        if ca is not None:
            _trust(context, ca)
            context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    if require_client and ca is None:
        raise UsageError("client certificates are required, but no CA that signs them is set")
    return context


def client_context(
    cert: Pem | None = None, key: Pem | None = None, ca: Pem | None = None, server_hostname: str | None = SERVER_NAME
) -> ssl.SSLContext:
    """Return a client's context that verifies ``ca`` (None: the machine's CAs) and ``server_hostname``.

    ``server_hostname`` None checks the host that is dialled, as for a server that is not ours. Raises UsageError.
    """
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.server_name = server_hostname
    with _explained(cert, key, ca):
        if ca is None:
            context.load_default_certs()
        else:
            _trust(context, ca)
        if cert is not None:
            load_chain(context, cert, key)
    return context


def bootstrap_context() -> ssl.SSLContext:
    """Return a context for the one request that fetches a CA, which the join token's hash then proves."""
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.server_name = SERVER_NAME
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def load_chain(context: ssl.SSLContext, cert: Pem, key: Pem | None) -> None:
    """Load certificate and key into ``context``; a mismatched pair leaves the context as it was. Raises OSError."""
    with _file(cert) as cert_file, _file(key) as key_file:
        # OpenSSL drops the old key before it finds that the new one does not fit: try on a scratch context first.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(str(cert_file), key_file, password="")
        context.load_cert_chain(str(cert_file), key_file, password="")


def peer(tls: ssl.SSLObject | ssl.SSLSocket | None) -> Peer | None:
    """Return the verified peer of a connection (``transport.get_extra_info("ssl_object")``), None without one."""
    found = tls.getpeercert() if tls is not None else None
    if not found:
        return None
    names: list[str] = []
    groups: list[str] = []
    for part in found.get("subject", ()):
        for attribute in part:
            field, value = str(attribute[0]), str(attribute[1])
            if field == "commonName":
                names.append(value)
            elif field == "organizationName":
                groups.append(value)
    # Two common names are nobody's certificate of ours; the first must not win by accident.
    return Peer(names[0] if len(names) == 1 else "", tuple(groups), str(found.get("serialNumber", "")).upper())


class Reloading:
    """Watches certificate files and swaps them into a live context; open connections keep what they have."""

    def __init__(
        self, context: ssl.SSLContext, cert: Path, key: Path, *, clock: Clock, every_s: float = CHECK_EVERY_S
    ) -> None:
        self.context, self.cert, self.key = context, cert, key
        self._clock, self._every_s = clock, every_s
        self._seen = _stamp(cert, key)

    def check(self) -> bool:
        """Reload when the files changed; whether they were reloaded. A bad pair is logged and tried again."""
        stamp = _stamp(self.cert, self.key)
        if stamp == self._seen:
            return False
        try:
            load_chain(self.context, self.cert, self.key)
        except OSError as error:
            log.warning("certificate not reloaded", file=self.cert, error=error)
            return False
        self._seen = stamp
        log.info("certificate reloaded", file=self.cert)
        return True

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self._clock.sleep(self._every_s)
            self.check()


def client_contexts(
    cert: Path, key: Path, ca: Path, server_hostname: str | None = SERVER_NAME
) -> Callable[[], ssl.SSLContext]:
    """Return a factory to call before each connect: it builds a new context whenever the files changed."""
    stamp: object = None
    context: ssl.SSLContext | None = None

    def current() -> ssl.SSLContext:
        nonlocal stamp, context
        now = _stamp(cert, key, ca)
        if context is None or now != stamp:
            context, stamp = client_context(cert, key, ca, server_hostname), now
        return context

    return current


def _stamp(*files: Path) -> tuple[object, ...]:
    out: list[object] = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            out.append(None)
        else:
            out.append((found.st_mtime_ns, found.st_ino, found.st_size))
    return tuple(out)


def _trust(context: ssl.SSLContext, ca: Pem) -> None:
    if isinstance(ca, bytes):
        context.load_verify_locations(cadata=ca.decode("ascii"))
    else:
        context.load_verify_locations(ca)


@contextmanager
def _file(pem: Pem | None) -> Iterator[str | None]:
    """Give OpenSSL, which only reads files, a name for ``pem``; content never touches the disk."""
    if not isinstance(pem, bytes):
        yield None if pem is None else str(pem)
        return
    handle = os.memfd_create("pem")
    try:
        os.write(handle, pem)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


@contextmanager
def _explained(*files: Pem | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        named = ", ".join(str(f) if isinstance(f, Path) else "(inline)" for f in files if f is not None)
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"TLS files {named}: {reason}") from error
