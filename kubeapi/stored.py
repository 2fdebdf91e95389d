"""An object at rest and a change of it: canonical to everyone, encoded once, decoded when somebody looks."""

from collections import deque
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()
ADDED, MODIFIED, DELETED, BOOKMARK = "ADDED", "MODIFIED", "DELETED", "BOOKMARK"


class Decoded:
    """Keeps the newest ``limit`` decoded objects; the others keep only their bytes (about a sixth of the memory)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: deque[Stored] = deque()

    def hold(self, stored: "Stored") -> None:
        self._held.append(stored)
        while len(self._held) > self._limit:
            self._held.popleft().forget()


class Stored:
    """One version of one object. ``object`` must not be changed by anyone: it is shared."""

    __slots__ = ("_decoded", "_object", "body", "name", "namespace", "revision")

    def __init__(
        self, namespace: str, name: str, revision: int, body: bytes, decoded: Decoded, obj: dict[str, Any] | None = None
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.revision = revision
        self.body = body  # JSON with this revision as its resourceVersion
        self._decoded = decoded
        self._object = obj
        if obj is not None:
            decoded.hold(self)

    @property
    def object(self) -> dict[str, Any]:
        obj = self._object
        if obj is None:
            obj = self._object = _decoder.decode(self.body)
            self._decoded.hold(self)
        return obj

    def replaced(self, body: bytes) -> "Stored":
        """Return the same version of the object with another encoding (another API version)."""
        return Stored(self.namespace, self.name, self.revision, body, self._decoded)

    def forget(self) -> None:
        self._object = None


class Event:
    """One change, as a watch sees it. ``frame`` is the watch line, encoded once for all watchers."""

    __slots__ = ("_frame", "previous_stored", "revision", "stored", "type")

    def __init__(self, kind: str, stored: Stored, previous: Stored | None = None) -> None:
        self.type = kind
        self.stored = stored
        self.previous_stored = previous
        self.revision = stored.revision
        self._frame: bytes | None = None

    @property
    def object(self) -> dict[str, Any]:
        """The object after the change; for DELETED its last state, with the revision of the deletion."""
        return self.stored.object

    @property
    def previous(self) -> dict[str, Any] | None:
        """The object before the change; None when it did not exist, or for BOOKMARK."""
        return None if self.previous_stored is None else self.previous_stored.object

    @property
    def body(self) -> bytes:
        """The object as JSON."""
        return self.stored.body

    @property
    def frame(self) -> bytes:
        """``{"type":…,"object":…}`` and a newline."""
        if self._frame is None:
            self._frame = b'{"type":"%s","object":%s}\n' % (self.type.encode(), self.stored.body)
        return self._frame

    def as_type(self, kind: str) -> "Event":
        """Return the same change under another type (an object that enters or leaves a selector)."""
        return self if kind == self.type else Event(kind, self.stored, self.previous_stored)

    def __repr__(self) -> str:
        return f"Event({self.type} {self.stored.namespace}/{self.stored.name} @{self.revision})"


def encode(obj: Any) -> bytes:
    return _encoder.encode(obj)


def with_revision(obj: dict[str, Any], revision: int) -> dict[str, Any]:
    """Return ``obj`` with that resourceVersion; shares everything but the two outer levels."""
    metadata = dict(obj.get("metadata") or {})
    metadata["resourceVersion"] = str(revision)
    out = dict(obj)
    out["metadata"] = metadata
    return out
