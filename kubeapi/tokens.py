"""Service-account tokens: JWTs signed with one HMAC key (RFC 7519, HS256), so that the edge needs no ``cryptography``."""

import base64
import binascii
import hashlib
import hmac
import os
from pathlib import Path
from typing import Any

import msgspec

from proto.kit.clock import Clock

ISSUER = "https://kubernetes.default.svc.cluster.local"
KEY_BYTES = 32
MAX_TOKEN_BYTES = 8192
MIN_LIFE_S, MAX_LIFE_S = 600, 365 * 86400
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")


class BadToken(ValueError):
    """A token that we did not sign, or no longer honour."""


class TokenSigner:
    """Signs and reads tokens with one key. A token outlives a restart, not a change of the key."""

    def __init__(self, key: bytes, clock: Clock, *, issuer: str = ISSUER) -> None:
        if len(key) < KEY_BYTES:
            raise ValueError(f"the token key must have at least {KEY_BYTES} bytes")
        self._key = key
        self._clock = clock
        self.issuer = issuer

    def now(self) -> int:
        return int(self._clock.wall().timestamp())

    def sign(self, claims: dict[str, Any]) -> str:
        """Return ``claims`` as a token."""
        signed = _HEADER + b"." + _encode(msgspec.json.encode(claims))
        return (signed + b"." + _encode(self._mac(signed))).decode()

    def read(self, token: str, audiences: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the claims of a valid token for one of ``audiences`` (empty: the API itself). Raises BadToken."""
        if len(token) > MAX_TOKEN_BYTES or token.count(".") != 2 or not token.isascii():
            raise BadToken("not a token of this server")
        signed, _, mac = token.rpartition(".")
        if not hmac.compare_digest(_decode(mac), self._mac(signed.encode())) or not signed.startswith(_HEADER.decode()):
            raise BadToken("the token's signature is wrong")
        claims = msgspec.json.decode(_decode(signed.partition(".")[2]))
        now = self.now()
        if claims.get("iss") != self.issuer or not claims.get("nbf", 0) <= now < claims.get("exp", 0):
            raise BadToken("the token has expired")
        if not set(audiences or (self.issuer,)) & set(claims.get("aud") or ()):
            raise BadToken("the token is for another audience")
        return dict(claims)

    def _mac(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, signed, hashlib.sha256)


def open_key(path: Path) -> bytes:
    """Read the key, or make one (mode 0600). Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        key = os.urandom(KEY_BYTES)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return key


def _encode(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise BadToken("not a token of this server") from error
