"""Which pod goes first when memory or disk runs out, as kubelet ranks them (pure; POD-15)."""

from collections.abc import Iterable, Mapping

from edgecore.pods import specs
from edgecore.pods.admission import CRITICAL_PRIORITY, requested
from edgecore.pods.seen import Ended
from edgecore.pods.specs import Json

MEMORY, DISK = "memory", "ephemeral-storage"
MEBI = 1 << 20


def pick(pods: Iterable[Json], used: Mapping[str, int], resource: str) -> Json | None:
    """Return the pod to evict: over its request first, then low priority, then most over its request. None: none may go."""
    candidates = [pod for pod in pods if not is_critical(pod)]

    def rank(pod: Json) -> tuple[bool, int, int]:
        over = used.get(specs.uid_of(pod), 0) - requested(pod, resource)
        return over <= 0, int(pod["spec"].get("priority") or 0), -over

    return min(candidates, key=rank, default=None)


def is_critical(pod: Json) -> bool:
    """Static pods and those of the system's own priority classes are never evicted."""
    return specs.is_static(pod) or int(pod["spec"].get("priority") or 0) >= CRITICAL_PRIORITY


def verdict(pod: Json, resource: str, threshold: int, available: int, used: int) -> Ended:
    """Say why this pod was evicted."""
    asked = requested(pod, resource)
    text = (
        f"The node was low on resource: {resource}. Threshold quantity: {threshold // MEBI}Mi, available:"
        f" {available // MEBI}Mi. The pod was using {used // MEBI}Mi, its request is {asked // MEBI}Mi."
    )
    return Ended("Evicted", text)


def for_disk(ended: Ended) -> bool:
    """Whether a pod was ended because the disk was short."""
    return ended.reason == "Evicted" and f"resource: {DISK}." in ended.message


class Pressure:
    """Notices that a resource has been short for so long (monotonic) that something must go."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._since: dict[str, float] = {}

    def due(self, resource: str, available: int, threshold: int, now_s: float) -> bool:
        if not threshold or available >= threshold:
            self._since.pop(resource, None)
            return False
        return now_s - self._since.setdefault(resource, now_s) >= self._after_s

    def eased(self, resource: str) -> None:
        """Something was evicted: give it time to help."""
        self._since.pop(resource, None)
