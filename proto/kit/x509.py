"""The few facts of a certificate that a daemon without ``cryptography`` needs: serial, subject, validity.

Reading only: nothing here verifies a signature. Layout: RFC 5280 §4.1.
"""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from proto.kit.errors import MalformedMessage

SEQUENCE, SET, INTEGER, OID, UTC_TIME, GENERALIZED_TIME, VERSION = 0x30, 0x31, 0x02, 0x06, 0x17, 0x18, 0xA0
COMMON_NAME = b"\x55\x04\x03"
MAX_PEM_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Facts:
    """``serial`` is upper-case hexadecimal with an even number of digits, as OpenSSL prints it."""

    serial: str
    common_name: str
    not_before: datetime
    not_after: datetime

    def renew_at(self) -> datetime:
        """When to renew: a fixed moment between 70 and 90 % of the certificate's life, spread by its serial number."""
        share = 0.7 + 0.2 * (int(self.serial, 16) % 1009) / 1008
        return self.not_before + (self.not_after - self.not_before) * share


def read_file(path: Path) -> Facts:
    """Return the facts of the first certificate in ``path``. Raises MalformedMessage, OSError."""
    with path.open("rb") as file:
        return read_pem(file.read(MAX_PEM_BYTES))


def read_pem(pem: bytes) -> Facts:
    """Return the facts of the first certificate in ``pem``. Raises MalformedMessage."""
    try:
        text = pem.decode("ascii")
        start = text.index(ssl.PEM_HEADER)
        der = ssl.PEM_cert_to_DER_cert(text[start : text.index(ssl.PEM_FOOTER, start) + len(ssl.PEM_FOOTER)])
        return _facts(der)
    except (ValueError, IndexError) as error:
        raise MalformedMessage("this is no PEM certificate") from error


def _facts(der: bytes) -> Facts:
    certificate = _children(der, SEQUENCE)[0][1]
    tbs, _signature_algorithm, _signature = _children(certificate)
    fields = _children(tbs[1])
    if fields[0][0] == VERSION:
        fields = fields[1:]
    serial, _algorithm, _issuer, validity, subject = fields[:5]
    if serial[0] != INTEGER or validity[0] != SEQUENCE or subject[0] != SEQUENCE:
        raise ValueError("not a certificate")
    begin, end = (_time(*item) for item in _children(validity[1])[:2])
    digits = serial[1].lstrip(b"\0").hex().upper() or "00"
    return Facts(digits, _common_name(subject[1]), begin, end)


def _common_name(subject: bytes) -> str:
    for _tag, names in _children(subject):
        for _sequence, attribute in _children(names):
            kind, value = _children(attribute)[:2]
            if kind == (OID, COMMON_NAME):
                return value[1].decode("utf-8")
    return ""


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == UTC_TIME:  # RFC 5280 §4.1.2.5.1: 50 to 99 are 19xx
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _children(der: bytes, expected: int | None = None) -> list[tuple[int, bytes]]:
    """Split ``der`` into (tag, content) pairs. Raises ValueError, IndexError."""
    out = []
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 3:
                raise ValueError("a length out of range")
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        if at + length > len(der) or (expected is not None and tag != expected):
            raise ValueError("cut short")
        out.append((tag, der[at : at + length]))
        at += length
    return out
