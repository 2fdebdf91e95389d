"""One place that waits: what is due is called, and nothing else wakes (probes, back-offs, deadlines)."""

import asyncio
import heapq
from collections.abc import Callable, Hashable

from proto.kit.clock import Clock
from proto.kit.log import Logger

log = Logger("pods")


class Timers:
    """Callbacks by key; the newest ``set`` of a key counts. ``run`` it beside what uses it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int]] = []
        self._calls: dict[int, tuple[Hashable, Callable[[], object]]] = {}
        self._numbers: dict[Hashable, tuple[int, float]] = {}
        self._next = 0
        self._changed = asyncio.Event()

    def set(self, key: Hashable, at_s: float, call: Callable[[], object]) -> None:
        """Call ``call`` once at ``at_s`` (monotonic), instead of what was set for ``key``."""
        self.cancel(key)
        self._next += 1
        self._calls[self._next] = (key, call)
        self._numbers[key] = (self._next, at_s)
        heapq.heappush(self._heap, (at_s, self._next))
        if self._heap[0][1] == self._next:
            self._changed.set()

    def cancel(self, key: Hashable) -> None:
        number, _ = self._numbers.pop(key, (0, 0.0))
        self._calls.pop(number, None)
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._calls):  # leave no trail of what was cancelled
            self._heap = [(at_s, n) for at_s, n in self._heap if n in self._calls]
            heapq.heapify(self._heap)

    def due_s(self, key: Hashable) -> float | None:
        """When ``key`` will be called; None when nothing is set."""
        return self._numbers[key][1] if key in self._numbers else None

    async def run(self) -> None:
        """Call what is due, until cancelled."""
        while True:
            self._changed.clear()
            now_s = self._clock.now_s()
            while self._heap and self._heap[0][0] <= now_s:
                self._fire(heapq.heappop(self._heap)[1])
            if self._heap:
                await either(self._changed, self._clock, self._heap[0][0] - now_s)
            else:
                await self._changed.wait()

    def _fire(self, number: int) -> None:
        key, call = self._calls.pop(number, (None, None))
        if call is None:
            return
        self._numbers.pop(key, None)
        try:
            call()
        except Exception:  # one callback must not stop the others
            log.exception("timer failed")


async def either(event: asyncio.Event, clock: Clock, delay_s: float) -> bool:
    """Wait for ``event``, at most ``delay_s``; return whether it is set."""
    async with asyncio.TaskGroup() as group:
        tasks = {group.create_task(event.wait()), group.create_task(clock.sleep(delay_s))}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return event.is_set()
