"""Runs the built-in controllers: what changed becomes dirty, each dirty thing is made right, in any order, again if need be."""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Hashable
from itertools import count
from typing import Generic, TypeVar

from kubeapi.errors import ApiError
from proto.kit.backoff import Backoff
from proto.kit.clock import Clock
from proto.kit.log import Logger

K = TypeVar("K", bound=Hashable)
log = Logger("controllers")
POLL_S = 0.5  # how late a delayed key may come: nothing here is more urgent, and an idle worker costs nothing
LEAST_S = 0.01


class Worker(Generic[K]):
    """A set of dirty keys and one function that makes a key right. Level-triggered: a key added twice is handled once.

    A key that fails is tried again later, with back-off, and holds up no other key.
    """

    def __init__(self, name: str, make_right: Callable[[K], Awaitable[None]], clock: Clock) -> None:
        self.name = name
        self.failures = 0
        self._make_right = make_right
        self._clock = clock
        self._dirty: dict[K, None] = {}
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}  # when each delayed key comes; an entry of the heap that disagrees is stale
        self._order = count()
        self._backoffs: dict[K, Backoff] = {}
        self._wake = asyncio.Event()
        self._delayed = asyncio.Event()

    def add(self, key: K) -> None:
        self._dirty[key] = None
        self._wake.set()

    def add_after(self, key: K, delay_s: float) -> None:
        """Make the key dirty in ``delay_s`` seconds, or earlier if it is due earlier already."""
        if delay_s <= 0:
            self.add(key)
            return
        due = self._clock.now_s() + delay_s
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._later, (due, next(self._order), key))
            self._delayed.set()

    @property
    def dirty(self) -> bool:
        """Whether there is work now."""
        self._release()
        return bool(self._dirty)

    async def drain(self) -> None:
        """Handle every dirty key until none is left; a key that fails waits for its next turn."""
        self._release()
        while self._dirty:
            key = next(iter(self._dirty))
            del self._dirty[key]
            try:
                await self._make_right(key)
            except ApiError as error:  # the object changed or went under us: look again
                log.debug("controller looks again", controller=self.name, key=key, error=str(error))
                self._again(key)
            except Exception:
                log.exception("controller failed on a key; it is tried again", controller=self.name, key=key)
                self.failures += 1
                self._again(key)
            else:
                self._backoffs.pop(key, None)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._time())
            while True:
                self._wake.clear()
                await self.drain()
                await self._wake.wait()

    def _again(self, key: K) -> None:
        self.add_after(key, self._backoffs.setdefault(key, Backoff()).next_s())

    def _release(self) -> None:
        now = self._clock.now_s()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)

    async def _time(self) -> None:
        """Bring back delayed keys."""
        while True:
            if not self._later:
                self._delayed.clear()
                await self._delayed.wait()
            self._release()
            if self._later:
                until = self._later[0][0] - self._clock.now_s()
                await self._clock.sleep(min(max(until, LEAST_S), POLL_S))
