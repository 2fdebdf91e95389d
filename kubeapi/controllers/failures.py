"""How soon what failed may be tried again: the first time at once, then after 1 s, doubled each time up to a quarter of an hour."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
FIRST_S, LONGEST_S = 1.0, 900.0
FORGOTTEN_S = 2 * LONGEST_S  # what has gone well for so long begins anew


class Failures(Generic[K]):
    """Remembers failures by key; times are of the monotonic clock."""

    def __init__(self) -> None:
        self._held: dict[K, tuple[float, float]] = {}  # when it failed last, and the wait that follows

    def wait_s(self, key: K, now_s: float) -> float:
        """Return in how many seconds the key may be tried again: 0 now."""
        at_s, wait_s = self._held.get(key, (now_s, 0.0))
        return max(0.0, at_s + wait_s - now_s)

    def note(self, key: K, now_s: float) -> None:
        """Count a failure; what is too old to matter goes."""
        self._held = {k: held for k, held in self._held.items() if now_s - held[0] < FORGOTTEN_S}
        _, wait_s = self._held.get(key, (now_s, 0.0))
        self._held[key] = (now_s, min(LONGEST_S, 2 * wait_s) or FIRST_S)

    def drop(self, chosen: Callable[[K], bool]) -> None:
        self._held = {k: held for k, held in self._held.items() if not chosen(k)}
