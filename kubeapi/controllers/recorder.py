"""Events that controllers raise: the same event again is counted, not stored again; one object cannot flood the log."""

from collections import OrderedDict
from typing import Any

from kubeapi.kinds import EVENT
from kubeapi.objects import Objects, WriteOptions
from kubeapi.resources import Resource
from proto.kit.clock import rfc3339
from proto.kit.database import Tx
from proto.kit.log import Logger

log = Logger("events")
Json = dict[str, Any]
REMEMBERED = 4096  # events that may still be counted up
BURST = 25  # events about one object at once, then one per REFILL_S
REFILL_S = 300.0


class Recorder:
    """Writes Events in the name of one component; never waits and never raises."""

    def __init__(self, objects: Objects, component: str) -> None:
        self._objects, self._component = objects, component
        self._names: OrderedDict[tuple[str, ...], str] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.suppressed = 0

    def normal(self, res: Resource, obj: Json, reason: str, message: str) -> None:
        self._say(res, obj, "Normal", reason, message)

    def warning(self, res: Resource, obj: Json, reason: str, message: str) -> None:
        self._say(res, obj, "Warning", reason, message)

    def _say(self, res: Resource, obj: Json, kind: str, reason: str, message: str) -> None:
        metadata = obj["metadata"]
        if not self._allowed(metadata["uid"]):
            self.suppressed += 1
            return
        message = message[:1024]
        key = (metadata["uid"], kind, reason, message)
        name = self._names.pop(key, None) or f"{metadata['name']}.{self._objects.rng.getrandbits(64):016x}"
        self._names[key] = name
        if len(self._names) > REMEMBERED:
            self._names.popitem(last=False)
        namespace = metadata.get("namespace") or "default"
        about = {
            "apiVersion": res.api_version,
            "kind": res.kind,
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
            **({"namespace": metadata["namespace"]} if metadata.get("namespace") else {}),
        }
        body = {"involvedObject": about, "type": kind, "reason": reason, "message": message}
        written = self._objects.store.db.submit(lambda tx: self._write(tx, namespace, name, body))
        written.add_done_callback(_noted)

    def _allowed(self, uid: str) -> bool:
        now = self._objects.clock.now_s()
        tokens, at = self._tokens.pop(uid, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - at) / REFILL_S)
        allowed = tokens >= 1.0
        self._tokens[uid] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._tokens) > REMEMBERED:
            self._tokens.popitem(last=False)
        return allowed

    def _write(self, tx: Tx, namespace: str, name: str, body: Json) -> None:
        now = rfc3339(self._objects.clock.wall())
        held = self._objects.store.peek(EVENT, namespace, name)
        if held is not None:
            new = {**held.object, "count": (held.object.get("count") or 1) + 1, "lastTimestamp": now}
            self._objects.settle(tx, EVENT, held.object, new, WriteOptions())
            return
        draft = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            **body,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._objects.create_in(tx, EVENT, namespace, draft, WriteOptions(field_manager=self._component))


def _noted(written: Any) -> None:
    if not written.cancelled() and written.exception() is not None:
        log.debug("an event could not be stored", error=str(written.exception()))
