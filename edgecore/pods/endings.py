"""What ends a whole pod by the node's own word: refused, over its deadline (events and verdicts)."""

from edgecore.pods.events import PodEvents
from edgecore.pods.seen import Ended, Memory
from edgecore.pods.specs import Json
from proto.kit.clock import Clock


class Endings:
    """Verdicts and the events that go with them."""

    def __init__(self, events: PodEvents, clock: Clock) -> None:
        self._events, self._clock = events, clock

    def refused(self, pod: Json, ended: Ended) -> None:
        self._events.say(pod, "Warning", ended.reason, ended.message)

    def not_resized(self, pod: Json, memory: Memory) -> None:
        """Other resources cannot be promised (now)."""
        if memory.resize is not None:
            reason, message = memory.resize
            self._events.say(pod, "Warning", f"Resize{reason}", message)

    def over_deadline(self, pod: Json, memory: Memory, now_s: float) -> Ended | None:
        """DeadlineExceeded when the pod has run longer than it may, by the monotonic clock (POD-8)."""
        limit = pod["spec"].get("activeDeadlineSeconds")
        if limit is None or memory.active_since_s is None or memory.ended is not None:
            return None
        if now_s - memory.active_since_s < float(limit):
            return None
        message = "Pod was active on the node longer than the specified deadline"
        self._events.say(pod, "Normal", "DeadlineExceeded", message)
        return Ended("DeadlineExceeded", message)
