"""Join tokens: one use each, hashed at rest, short-lived.

A token is ``ID.SECRET.HASH``; HASH is the SHA-256 of the CA's DER, by which the edge knows the right cloud before it
says the secret. The first use binds the token to a public key and a node name; that key may repeat until expiry.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlmodel import Field, SQLModel

from proto.kit.errors import Terminal, UsageError
from proto.names import is_node_name

ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no letter that looks like another
ID_LENGTH, SECRET_LENGTH = 8, 32  # 31**32: 158 bits
MAX_TOKEN_LENGTH = 256
MIN_TTL_S, MAX_TTL_S = 60, 30 * 86400
KEEP_EXPIRED_MS = 7 * 86400 * 1000  # an expired token is named as such for a week, then it is unknown


class JoinToken(SQLModel, table=True):
    """One row per token. Times are Unix milliseconds."""

    __tablename__: ClassVar[Any] = "join_tokens"
    id: str = Field(primary_key=True, max_length=16)
    secret_hash: str = Field(max_length=64)
    node: str = Field(default="", max_length=63)  # "" joins any new node
    created_ms: int = Field(sa_type=sa.BigInteger)
    expires_ms: int = Field(sa_type=sa.BigInteger)
    used_ms: int = Field(default=0, sa_type=sa.BigInteger)  # 0: not yet
    used_by: str = Field(default="", max_length=63)
    key_hash: str = Field(default="", max_length=64)


@dataclass(frozen=True, slots=True)
class TokenView:
    """What people may see of a token."""

    id: str
    node: str
    expires_at: datetime
    used_at: datetime | None
    used_by: str
    expired: bool


class TokenRefused(Terminal):
    """A token that opens nothing. ``reason`` is a counter's label."""

    code = "TokenRefused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_table: sa.Table = SQLModel.metadata.tables["join_tokens"]


def create(connection: Connection, *, ca_hash: str, now: datetime, ttl_s: float = 86400.0, node: str = "") -> str:
    """Store a new token's hash and return the token: the only time that it can be read. Raises UsageError."""
    if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        raise UsageError(f"a token lives between 1 minute and 30 days, not {ttl_s:g} s")
    if node and not is_node_name(node):
        raise UsageError(f"node {node!r} is no DNS-1123 label (a-z, 0-9, '-', at most 52)")
    at_ms = _ms(now)
    connection.execute(sa.delete(_table).where(_table.c.expires_ms < at_ms - KEEP_EXPIRED_MS))
    token_id, secret = _word(ID_LENGTH), _word(SECRET_LENGTH)
    row = {"id": token_id, "secret_hash": _hash(secret), "node": node, "created_ms": at_ms}
    later = {"expires_ms": at_ms + int(ttl_s * 1000), "used_ms": 0, "used_by": "", "key_hash": ""}
    connection.execute(sa.insert(_table).values(**row, **later))
    return f"{token_id}.{secret}.{ca_hash}"


def list_tokens(connection: Connection, now: datetime) -> list[TokenView]:
    """Return all tokens, oldest first; never a secret."""
    rows = connection.execute(sa.select(_table).order_by(_table.c.created_ms, _table.c.id)).mappings()
    return [
        TokenView(
            id=row["id"],
            node=row["node"],
            expires_at=_moment(row["expires_ms"]),
            used_at=_moment(row["used_ms"]) if row["used_ms"] else None,
            used_by=row["used_by"],
            expired=row["expires_ms"] <= _ms(now),
        )
        for row in rows
    ]


def delete(connection: Connection, token_id: str) -> bool:
    """Forget a token, by its id or its whole text; whether there was one."""
    result = connection.execute(sa.delete(_table).where(_table.c.id == token_id.partition(".")[0]))
    return bool(result.rowcount)


def redeem(connection: Connection, text: str, *, ca_hash: str, key_hash: str, node: str, now: datetime) -> str:
    """Use a token for ``node`` with the key of hash ``key_hash``; returns the node it is reserved for, or "".

    Raises TokenRefused. Repeating with the same key and node is the same use.
    """
    token_id, secret = _split(text, ca_hash)
    row = connection.execute(sa.select(_table).where(_table.c.id == token_id)).mappings().first()
    known = hmac.compare_digest(row["secret_hash"] if row else _hash(""), _hash(secret))
    if row is None or not known:
        raise TokenRefused("unknown", "this token is not known here: it was mistyped or deleted")
    if row["expires_ms"] <= _ms(now):
        expired = _moment(row["expires_ms"]).strftime("%Y-%m-%d %H:%M:%S UTC")
        raise TokenRefused("expired", f"this token expired at {expired}; make another with `cloudcore token create`")
    if row["node"] and row["node"] != node:
        raise TokenRefused("other_node", f"this token is for node {row['node']}, not for {node}")
    if not row["used_ms"]:
        values = {"used_ms": _ms(now), "used_by": node, "key_hash": key_hash}
        unused = (_table.c.id == token_id) & (_table.c.used_ms == 0)
        # With PostgreSQL another replica may use it between our read and this write: the first one has it.
        if connection.execute(sa.update(_table).where(unused).values(**values)).rowcount == 1:
            return str(row["node"])
        row = connection.execute(sa.select(_table).where(_table.c.id == token_id)).mappings().one()
    if row["used_by"] != node or not hmac.compare_digest(row["key_hash"], key_hash):
        raise TokenRefused("used", "this token was used already; make another with `cloudcore token create`")
    return str(row["node"])


def ca_hash_of(text: str) -> str:
    """Return the CA hash that a token carries. Raises TokenRefused."""
    parts = text.strip().split(".")
    if len(text) > MAX_TOKEN_LENGTH or len(parts) != 3 or not all(p.isascii() and p.isalnum() for p in parts):
        raise TokenRefused(
            "malformed", "this is no join token: copy the whole line that `cloudcore token create` printed"
        )
    return parts[2].lower()


def _split(text: str, ca_hash: str) -> tuple[str, str]:
    if not hmac.compare_digest(ca_hash_of(text), ca_hash):
        raise TokenRefused("other_cloud", "this token was made by another cloud: its CA hash is not ours")
    token_id, secret, _ = text.strip().split(".")
    return token_id, secret


def _word(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()  # 158 random bits need no slow hash


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
