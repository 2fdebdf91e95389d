"""What a write at a node-local API is to the cloud: message ``write`` upwards, ``write-result`` downwards. JSON bodies.

A write names the fields that it changes twice: as they were at the node and as they shall be. The cloud answers every one.
"""

from typing import Any

import msgspec

from proto.kit import canonical
from proto.kit.errors import MalformedMessage

KIND, RESULT = "write", "write-result"  # of the messages
APPLIED, CONFLICT, REFUSED = "applied", "conflict", "refused"
CREATE, PATCH, DELETE = "create", "patch", "delete"
ADMIN_GROUP = "skerry:node-admins"
# Groups that no node writes: who may do what, which kinds there are, who is trusted, what the cloud places on which nodes.
CLOUD_ONLY = frozenset(
    {
        "rbac.authorization.k8s.io",
        "apiextensions.k8s.io",
        "certificates.k8s.io",
        "admissionregistration.k8s.io",
        "apps.kubeedge.io",
    }
)
MAX_NAME = 64  # of a common name (RFC 5280 ub-common-name): the longest node names lose their end

Json = dict[str, Any]


class Write(msgspec.Struct, omit_defaults=True):
    """One write, in the order of ``seq``, which this disk never gives twice."""

    seq: int
    journal: str  # of the disk that counts ``seq``
    key: str  # str(proto.names.ObjectKey)
    api_version: str
    kind: str
    verb: str  # create | patch | delete
    user: str
    at: str  # RFC 3339, the node's clock
    uid: str = ""  # of the object as the node knows it
    subresource: str = ""  # patch only: "" | status | ephemeralcontainers
    mine: Json = {}  # create: the object; patch: merge patch to what it shall be
    base: Json = {}  # patch: merge patch back to what it was; delete: what the node saw, but for metadata and status
    grace_period_s: int | None = None  # delete
    propagation: str = ""  # delete


class WriteResult(msgspec.Struct, omit_defaults=True):
    """What became of one write."""

    seq: int
    key: str
    outcome: str  # applied | conflict | refused
    reason: str = ""
    message: str = ""
    object: Json | None = None  # as the cloud holds it now; None: it is not there
    conflict: str = ""  # name of the WriteConflict that keeps both versions


def decode_write(body: bytes) -> Write:
    """Raises MalformedMessage."""
    try:
        return msgspec.json.decode(body, type=Write)
    except (*canonical.UNREADABLE, msgspec.ValidationError) as error:
        raise MalformedMessage(f"a write that is none: {error}") from error


def decode_result(body: bytes) -> WriteResult:
    """Raises MalformedMessage."""
    try:
        return msgspec.json.decode(body, type=WriteResult)
    except (*canonical.UNREADABLE, msgspec.ValidationError) as error:
        raise MalformedMessage(f"a result that is none: {error}") from error


def encode(message: Write | WriteResult) -> bytes:
    return msgspec.json.encode(message)


def mark_of(node: str) -> str:
    """Return the annotation, on the cloud's object, that says which write of ``node`` it has seen last."""
    return f"write.edge.skerry.io/{node}"


def mark(write: Write) -> str:
    """Return the value of that annotation after ``write``."""
    return f"{write.journal}.{write.seq}"


def has_seen(obj: Json | None, node: str, journal: str, seq: int) -> bool:
    """Whether an object as the cloud has it contains write ``seq`` of ``node``."""
    text = str((((obj or {}).get("metadata") or {}).get("annotations") or {}).get(mark_of(node)) or "")
    whose, _, number = text.rpartition(".")
    return whose == journal and number.isdecimal() and len(number) < 19 and int(number) >= seq


def admin_of(node: str) -> str:
    """Return the user that the technician at ``node`` is, there and in the cloud; its group is ``ADMIN_GROUP``."""
    return f"skerry:node-admin:{node}"[:MAX_NAME]
