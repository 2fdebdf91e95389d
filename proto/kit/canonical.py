"""Canonical JSON and the digest of an object (architecture, settled question 1)."""

import hashlib
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder()

DIGEST_BYTES = 16
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # all that msgspec raises on hostile JSON
VOLATILE_METADATA = ("resourceVersion", "managedFields")


def encode(value: Any) -> bytes:
    """Return canonical JSON: sorted keys, UTF-8, no spaces."""
    return _encoder.encode(value)


def decode(body: bytes | str) -> Any:
    """Parse JSON; raises one of UNREADABLE."""
    return _decoder.decode(body)


def digest(obj: dict[str, Any]) -> bytes:
    """First 16 bytes of SHA-256 over the object without ``status``, ``resourceVersion`` and ``managedFields``."""
    slim = {k: v for k, v in obj.items() if k != "status"}
    metadata = slim.get("metadata")
    if isinstance(metadata, dict):
        slim["metadata"] = {k: v for k, v in metadata.items() if k not in VOLATILE_METADATA}
    return hashlib.sha256(encode(slim)).digest()[:DIGEST_BYTES]
