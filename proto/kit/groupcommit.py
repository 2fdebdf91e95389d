"""One thread that commits whatever has gathered: the engine under both databases (SQLite here, SQL in the cloud)."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

Work = Callable[[Any], Any]


class Job:
    """One waiting transaction: its function, and what became of it."""

    __slots__ = ("after", "error", "fn", "future", "loop", "result")

    def __init__(self, fn: Work, loop: asyncio.AbstractEventLoop) -> None:
        self.fn = fn
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.after: list[Callable[[], None]] = []  # to run on the loop once committed

    def settle(self) -> None:
        """Run the after-commit functions and wake the caller; on the loop's thread."""
        if self.error is None:
            for fn in self.after:
                fn()
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class GroupCommitter:
    """Feeds groups of jobs, in order, to ``commit`` in a thread of its own; wakes the callers afterwards.

    ``commit`` gives each job a ``result`` or an ``error`` and returns when the group is durable. It must not raise.
    """

    def __init__(self, name: str, commit: Callable[[list[Job]], None], *, max_group: int) -> None:
        self._commit = commit
        self._max_group = max_group
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.waiting = 0  # jobs put and not yet committed
        self.closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, fn: Work) -> "asyncio.Future[Any]":
        """Queue ``fn`` behind everything put before; the future resolves after its commit."""
        job = Job(fn, asyncio.get_running_loop())
        self.waiting += 1
        self._queue.put(job)
        return job.future

    async def close(self) -> None:
        """Commit what is queued, then end the thread."""
        self.closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while group := self._gather():
            self._commit(group)
            self.waiting -= len(group)
            _settle(group)

    def _gather(self) -> list[Job]:
        """Wait for a job, then take all that is there; empty at the end."""
        group: list[Job] = []
        job = self._queue.get()
        while job is not None:
            group.append(job)
            if len(group) == self._max_group:
                return group
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return group
        if group:  # the end was behind them: find it again at the next turn
            self._queue.put(None)
        return group


def _settle(group: list[Job]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in group:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop has closed: nobody waits any more
            loop.call_soon_threadsafe(_settle_all, jobs)


def _settle_all(jobs: list[Job]) -> None:
    for job in jobs:
        job.settle()
