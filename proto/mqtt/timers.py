"""Deadlines of connections and sessions in one heap, so that an idle client costs no task."""

import heapq
from collections.abc import Callable
from itertools import count


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

    def at(self, due_s: float, fn: Callable[[], None]) -> Timer:
        timer = Timer(due_s, fn)
        heapq.heappush(self._heap, (due_s, next(self._numbers), timer))
        return timer

    def run(self, now_s: float) -> None:
        """Call everything that is due."""
        while self._heap and self._heap[0][0] <= now_s:
            _, _, timer = heapq.heappop(self._heap)
            fn, timer.fn = timer.fn, None
            if fn is not None:
                fn()
