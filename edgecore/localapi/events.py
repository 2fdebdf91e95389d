"""What is said of this node's pods, as Events of the node's own API: `kubectl describe` says why, offline too."""

import hashlib
from typing import Any

from kubeapi.kinds import EVENT
from kubeapi.store import Store
from proto import labels
from proto.kit import canonical
from proto.kit.clock import Clock, rfc3339
from proto.kit.database import Tx

COMPONENT = "edgecore"


def make(node: str, involved: dict[str, Any], said: dict[str, Any], *, name: str, now: str) -> dict[str, Any]:
    """Return an Event; ``said`` has type, reason, message and perhaps times and a count."""
    at = said.get("lastTimestamp") or now
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": name[:253],
            "namespace": involved.get("namespace") or "default",
            "uid": hashlib.sha256(f"{node}/{name}".encode()).hexdigest()[:32],
            "creationTimestamp": now,
            "labels": {labels.NODE: node},
        },
        "involvedObject": involved,
        "type": said["type"],
        "reason": said["reason"],
        "message": said["message"],
        "firstTimestamp": said.get("firstTimestamp") or at,
        "lastTimestamp": at,
        "count": said.get("count") or 1,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }


class LocalEvents:
    """Keeps them in the store; what is said again of the same object, with its count, takes the place of the first."""

    def __init__(self, node: str, store: Store, clock: Clock) -> None:
        self._node, self._store, self._clock = node, store, clock

    def keep(self, tx: Tx, body: bytes) -> None:
        """Show an ``event`` message that also goes to the cloud. Writer thread."""
        said = canonical.decode(body)
        involved = said.get("involvedObject") or {}
        what = f"{involved.get('uid')}/{said.get('reason')}/{said.get('message')}"
        name = f"{involved.get('name')}.{hashlib.sha256(what.encode()).hexdigest()[:16]}"
        now = rfc3339(self._clock.wall())
        self._store.put(tx, EVENT, make(self._node, involved, said, name=name, now=now))
