"""What a certificate file says, and whether a CA signed it, with nothing but ``ssl``."""

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from proto.kit.errors import Terminal

MAX_STEPS = 20  # a handshake in memory takes three


class BadCertificate(Terminal):
    """The file is missing, no certificate, or does not fit its key or its CA."""

    code = "BadCertificate"


class Validity(NamedTuple):
    """From when until when, and for whom."""

    not_before: datetime
    not_after: datetime
    common_name: str

    def days_left(self, now: datetime) -> float:
        return (self.not_after - now).total_seconds() / 86400


def read(path: Path) -> Validity:
    """Read a PEM certificate. Raises BadCertificate."""
    try:
        # ssl has no public reader for one's own certificate; this one has served its test suite since 2.6.
        fields = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]  # noqa: SLF001
    except (OSError, ssl.SSLError, ValueError) as error:
        raise BadCertificate(f"{path} is missing or no PEM certificate") from error
    subject = [(key, value) for group in fields.get("subject", ()) for key, value in group]
    return Validity(
        not_before=_moment(fields["notBefore"]),
        not_after=_moment(fields["notAfter"]),
        common_name=next((value for key, value in subject if key == "commonName"), ""),
    )


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


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def try_read(path: Path) -> Validity | None:
    """As ``read``, None when there is nothing to read."""
    with suppress(BadCertificate):
        return read(path)
    return None
