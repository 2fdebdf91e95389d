"""Objects as they are sent: encoded once, however many nodes hold them."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from cloudcore.hub.scope_pods import is_finished, told
from cloudcore.kube.resources import POD, Kind
from proto.kit import canonical
from proto.told import FIELD

UNSENT_METADATA = (*canonical.VOLATILE_METADATA, "selfLink")
KEPT_BYTES = 8 << 20  # a thousand nodes that come back together ask for the same few objects


def downward(kind: Kind, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object as a node holds it: without what the cloud alone writes; with what the node must know of that."""
    slim = {k: v for k, v in item.items() if k != "status"}
    slim["metadata"] = {k: v for k, v in item["metadata"].items() if k not in UNSENT_METADATA}
    if kind == POD and (heard := told(item)):
        slim[FIELD] = heard
    return slim


def digest_of(kind: Kind, item: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(canonical.encode(downward(kind, item))).digest()[: canonical.DIGEST_BYTES]


def encode(kind: Kind, item: Mapping[str, Any]) -> bytes:
    """Return the body that is sent.

    A finished pod goes with its status, which no digest covers: a node whose disk was wiped must not run it once more.
    """
    slim = downward(kind, item)
    if kind == POD and is_finished(item):
        slim["status"] = item["status"]
    return canonical.encode(slim)


class Bodies:
    """The newest encodings of objects that several nodes hold."""

    def __init__(self, limit_bytes: int = KEPT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[str, bytes]] = OrderedDict()  # key -> resourceVersion, body

    def get(self, key: str, kind: Kind, item: Mapping[str, Any], *, shared: bool) -> bytes:
        """Return the body of ``item``; ``shared``: others will ask for it too."""
        revision = str(item["metadata"].get("resourceVersion") or "")
        found = self._kept.get(key)
        if found is not None and found[0] == revision:
            self._kept.move_to_end(key)
            return found[1]
        body = encode(kind, item)
        self.forget(key)
        if shared and revision:
            self._kept[key] = (revision, body)
            self._bytes += len(body)
            while self._bytes > self._limit_bytes:
                self.forget(next(iter(self._kept)))
        return body

    def forget(self, key: str) -> None:
        _, body = self._kept.pop(key, ("", b""))
        self._bytes -= len(body)
