"""What a certificate file says, and whether a CA signed it, with nothing but ``ssl``."""

import ssl
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from proto.kit import x509
from proto.kit.errors import MalformedMessage, Terminal
from proto.kit.x509 import Facts

MAX_STEPS = 20  # a handshake in memory takes three


class BadCertificate(Terminal):
    """The file is missing, no certificate, or does not fit its key or its CA."""

    code = "BadCertificate"


def read(path: Path) -> Facts:
    """Read a PEM certificate. Raises BadCertificate."""
    try:
        return x509.read_file(path)
    except (OSError, MalformedMessage) as error:
        raise BadCertificate(f"{path} is missing or no PEM certificate") from error


def days_left(found: Facts, now: datetime) -> float:
    """Days until the certificate ends; negative afterwards."""
    return (found.not_after - now).total_seconds() / 86400


def verify(certificate: Path, key: Path, ca: Path) -> None:
    """Prove that ``key`` belongs to ``certificate`` and that ``ca`` signed it, valid now. Raises BadCertificate."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE  # the server side is the one that judges
    try:
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(ca)
        for context in (server, client):
            context.maximum_version = ssl.TLSVersion.TLSv1_2  # the verdict comes inside the handshake
            context.load_cert_chain(certificate, key)
        _handshake(server, client)
    except OSError as error:
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        raise BadCertificate(str(reason).replace("_", " ").lower()) from error


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(downward, upward, server_side=False),
        server.wrap_bio(upward, downward, server_side=True),
    ]
    for _ in range(MAX_STEPS):
        waiting = False
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting = True
        if not waiting:
            return
    raise ssl.SSLError("the handshake does not end")


def try_read(path: Path) -> Facts | None:
    """As ``read``, None when there is nothing to read."""
    with suppress(BadCertificate):
        return read(path)
    return None
