"""Writes that coalesce by key: the newest body of each key, a bounded number in flight, one key never in two hands."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from proto.kit.backoff import Backoff, Rng
from proto.kit.clock import Clock
from proto.kit.errors import Retryable
from proto.kit.log import Logger

B = TypeVar("B")
log = Logger("writes")


@dataclass(slots=True)
class _Entry(Generic[B]):
    body: B
    waiters: "list[asyncio.Future[None]]" = field(default_factory=list)


class CoalescedWrites(Generic[B]):
    """``put`` a body; a future resolves when it, or a newer one of its key, is written."""

    def __init__(self, write: Callable[[str, B], Awaitable[None]], *, workers: int, clock: Clock, rng: Rng) -> None:
        self._write = write
        self._workers = workers
        self._clock = clock
        self._backoff = Backoff(base_s=0.1, cap_s=5.0, rng=rng)
        self._waiting: dict[str, _Entry[B]] = {}
        self._ready: deque[str] = deque()
        self._busy: set[str] = set()
        self._wake = asyncio.Semaphore(0)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._busy)

    def __contains__(self, key: str) -> bool:
        return key in self._waiting or key in self._busy

    def put(self, key: str, body: B) -> "asyncio.Future[None]":
        """Queue ``body``; replaces a waiting older one. The future fails with what the write raised."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = self._waiting.get(key)
        if entry is not None:
            entry.body = body
        else:
            entry = self._waiting[key] = _Entry(body)
            if key not in self._busy:
                self._offer(key)
        entry.waiters.append(future)
        future.add_done_callback(_noticed)
        return future

    async def run(self) -> None:
        """Write for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    def _offer(self, key: str) -> None:
        self._ready.append(key)
        self._wake.release()

    async def _work(self) -> None:
        while True:
            await self._wake.acquire()
            key = self._ready.popleft()
            entry = self._waiting.pop(key)
            self._busy.add(key)
            error: Exception | None = None
            try:
                await self._write(key, entry.body)
                self._backoff.reset()
            except Retryable as failure:
                error = failure
                await self._clock.sleep(failure.retry_after_s or self._backoff.next_s())
            except Exception as failure:
                log.exception("write failed", key=key)
                error = failure
            finally:
                self._busy.discard(key)
            if key in self._waiting:
                self._offer(key)
            _settle(entry.waiters, error)


def _noticed(future: "asyncio.Future[None]") -> None:
    """Nobody may be left to look at a failure: whoever waited was cancelled, or saw the failure of another key first."""
    if not future.cancelled():
        future.exception()


def _settle(waiters: "list[asyncio.Future[None]]", error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
