"""A level-triggered queue: keys that need a look, each at most once, retried with back-off."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cloudcore.kube.errors import Forbidden
from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.errors import Retryable, Terminal
from proto.kit.log import Logger

K = TypeVar("K", bound=Hashable)
log = Logger("controller")


class KeyQueue(Generic[K]):
    """``add`` keys; ``run`` calls ``reconcile`` for each, several at once, one key never in two hands."""

    def __init__(
        self, name: str, reconcile: Callable[[K], Awaitable[None]], *, workers: int, clock: Clock, rng: Rng
    ) -> None:
        self._name = name
        self._reconcile = reconcile
        self._workers = workers
        self._clock, self._rng = clock, rng
        self._waiting: dict[K, None] = {}  # insertion order is service order
        self._busy: set[K] = set()
        self._failed: dict[K, Backoff] = {}
        self._timers: set[K] = set()
        self._signal = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._busy)

    def add(self, key: K) -> None:
        """Look at ``key`` soon; adding it again before then changes nothing."""
        self._waiting[key] = None
        self._signal.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work(group))

    async def _work(self, group: asyncio.TaskGroup) -> None:
        while True:
            key = next((k for k in self._waiting if k not in self._busy), None)
            if key is None:
                self._signal.clear()
                await self._signal.wait()
                continue
            del self._waiting[key]
            self._busy.add(key)
            try:
                await self._reconcile(key)
                self._failed.pop(key, None)
            except Exception as error:
                if isinstance(error, Terminal):
                    log.warning("refused", controller=self._name, key=key, reason=error)
                    if not isinstance(error, Forbidden):
                        self._failed.pop(key, None)
                        continue
                elif not isinstance(error, Retryable):
                    log.exception("unexpected", controller=self._name, key=key)
                backoff = self._failed.setdefault(key, Backoff(base_s=0.2, cap_s=30.0, rng=self._rng))
                self.add_later(group, key, getattr(error, "retry_after_s", None) or backoff.next_s())
            finally:
                self._busy.discard(key)
                self._signal.set()

    def add_later(self, group: asyncio.TaskGroup, key: K, delay_s: float) -> None:
        """Look at ``key`` after ``delay_s``; a change before then is looked at when it comes."""
        if key in self._timers:
            return
        self._timers.add(key)
        group.create_task(self._add_after(key, delay_s))

    async def _add_after(self, key: K, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        self._timers.discard(key)
        self.add(key)
