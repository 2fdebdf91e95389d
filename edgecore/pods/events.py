"""Events about pods: repetitions are counted, floods bounded, and what is due goes out with the next write (POD-14)."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from edgecore.pods import specs
from edgecore.pods.specs import Json
from proto.kit import canonical
from proto.kit.clock import Clock, rfc3339
from proto.kit.metrics import Metrics

KIND = "event"  # of the message
BURST = 25  # of one pod at once, as kubelet's
REFILL_S = 60.0  # then one more each minute
REPEAT_S = 60.0  # a repetition is told with its count, at most so often
MAX_SERIES = 1024  # kept of all pods together
MAX_TEXT = 1024


@dataclass(slots=True)
class _Series:
    first: str
    last: str
    count: int = 1
    told: int = 0
    told_at_s: float = float("-inf")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


Key = tuple[str, str, str, str]  # uid, container, reason, message


class PodEvents:
    """``say`` from anywhere; the writer takes what is ``due``. ``wake`` is called when something is."""

    def __init__(self, node: str, clock: Clock, metrics: Metrics) -> None:
        self._node = node
        self._clock = clock
        self._series: dict[Key, _Series] = {}
        self._heads: dict[Key, Json] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._dropped = metrics.counter("skerry_edge_pod_events_dropped_total", "Events about pods over their rate.")
        self.wake: Callable[[], object] = lambda: None

    def say(self, pod: Json, kind: str, reason: str, message: str, *, container: str = "") -> None:
        """Tell people about ``pod``; ``kind`` is Normal or Warning."""
        uid, now = specs.uid_of(pod), rfc3339(self._clock.wall())
        key = (uid, container, reason, message[:MAX_TEXT])
        known = self._series.get(key)
        if known is not None:
            known.count, known.last = known.count + 1, now
            self.wake()
            return
        if not self._admits(uid):
            self._dropped.inc()
            return
        while len(self._series) >= MAX_SERIES:
            self._drop(next(iter(self._series)))
        self._series[key] = _Series(now, now)
        self._heads[key] = self._head(pod, kind, key)
        self.wake()

    def due(self) -> list[bytes]:
        """Return the bodies to send now: what is new, and what was repeated since long enough."""
        now_s, out = self._clock.now_s(), []
        for key, series in list(self._series.items()):
            if series.count > series.told and now_s - series.told_at_s >= REPEAT_S:
                series.told, series.told_at_s = series.count, now_s
                times = {"firstTimestamp": series.first, "lastTimestamp": series.last, "count": series.count}
                out.append(canonical.encode({**self._heads[key], **times}))
        return out

    def forget(self, uid: str) -> None:
        """The pod is gone: its series end once they are told."""
        self._buckets.pop(uid, None)
        for key in [k for k, s in self._series.items() if k[0] == uid and s.told == s.count]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._series.pop(key, None)
        self._heads.pop(key, None)

    def _admits(self, uid: str) -> bool:
        now_s = self._clock.now_s()
        bucket = self._buckets.setdefault(uid, _Bucket(BURST, now_s))
        bucket.tokens = min(BURST, bucket.tokens + (now_s - bucket.at_s) / REFILL_S)
        bucket.at_s = now_s
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _head(self, pod: Json, kind: str, key: Key) -> Json:
        uid, container, reason, message = key
        namespace, name = specs.name_of(pod)
        involved: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": namespace,
            "name": name,
            "uid": uid,
        }
        if container:
            involved["fieldPath"] = specs.field_path(pod, container)
        mark = sha256(canonical.encode([*key])).hexdigest()[:16]
        return {
            "name": f"{name[:200]}.{mark}",  # the same in each repetition, so that the cloud counts instead of adding
            "type": kind,
            "reason": reason,
            "message": message,
            "involvedObject": involved,
        }
