"""Deadlines of connections and sessions in one heap, so that an idle client costs no task."""

import heapq
from collections.abc import Callable
from itertools import count

MIN_SWEEP = 1024  # below, cancelled timers are not worth looking for


class Timer:
    """A pending call; ``cancel`` lets go of what it would have called."""

    __slots__ = ("due_s", "fn")

    def __init__(self, due_s: float, fn: Callable[[], None]) -> None:
        self.due_s = due_s
        self.fn: Callable[[], None] | None = fn

    def cancel(self) -> None:
        self.fn = None


class Timers:
    """Calls ordered by time; whoever owns the clock calls ``run``."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._sweep_at = MIN_SWEEP

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, due_s: float, fn: Callable[[], None]) -> Timer:
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        timer = Timer(due_s, fn)
        heapq.heappush(self._heap, (due_s, next(self._numbers), timer))
        return timer

    def _sweep(self) -> None:
        """Forget the cancelled ones, so that a client that reconnects all day costs nothing."""
        self._heap = [item for item in self._heap if item[2].fn is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(MIN_SWEEP, 2 * len(self._heap))

    def run(self, now_s: float) -> None:
        """Call everything that is due."""
        while self._heap and self._heap[0][0] <= now_s:
            _, _, timer = heapq.heappop(self._heap)
            fn, timer.fn = timer.fn, None
            if fn is not None:
                fn()
