"""A watch: events of one resource in revision order, bounded, for one reader."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from kubeapi.errors import gone
from kubeapi.resources import Resource
from kubeapi.stored import Event

MAX_QUEUED_EVENTS = 4096
MAX_QUEUED_BYTES = 16 * 1024 * 1024  # whichever comes first; then the reader must list again


class Watcher:
    """An async iterator of events. A reader too slow for the queue gets 410 Gone; nothing is skipped silently.

    ``batch`` hands over everything that is queued, so that a network reader writes once for many events.
    """

    def __init__(
        self,
        res: Resource,
        namespace: str | None,
        since: int,
        *,
        current: Callable[[], int],
        bookmark: Callable[[Resource, int], Event],
        on_close: Callable[["Watcher", bool], None],
        convert: Callable[[Resource, Event], Event] | None = None,
    ) -> None:
        self.res = res
        self.namespace = namespace
        self.revision = since  # of the last event or bookmark taken by the reader
        self._current = current
        self._make_bookmark = bookmark
        self._on_close = on_close
        self._convert = convert
        self._events: deque[Event] = deque()
        self._live = 0  # of the queue's tail: what came since the watch began; what it began with has no bound
        self._bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self._overflow = False
        self._closed = False

    def push(self, event: Event, *, bounded: bool = True) -> None:
        """Queue ``event`` (the store calls this, in revision order)."""
        stored = event.stored
        if self.namespace is not None and stored.namespace != self.namespace and event.type != "BOOKMARK":
            return
        if self._convert is not None and event.type != "BOOKMARK":
            event = self._convert(self.res, event)
        self._events.append(event)
        if bounded:
            self._live += 1
            self._bytes += len(stored.body)
        if self._live > MAX_QUEUED_EVENTS or self._bytes > MAX_QUEUED_BYTES:
            self._overflow = True
            self._events.clear()
            self._on_close(self, True)
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def batch(self, timeout_s: float | None = None) -> list[Event]:
        """Return every queued event, waiting for the first; empty after ``timeout_s`` or ``close``. Raises 410."""
        if not self._events and not self._overflow and not self._closed:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake
            except TimeoutError:
                return []
            finally:
                self._wake = None
        if self._overflow:
            raise gone("the watch was too slow for the rate of changes; list again")
        events = list(self._events)
        self._events.clear()
        self._live = self._bytes = 0
        if events:
            self.revision = events[-1].revision
        return events

    def bookmark(self) -> Event:
        """Return a BOOKMARK of the newest revision that this reader has seen everything up to."""
        if not self._events:  # complete up to the store's own revision
            self.revision = max(self.revision, self._current())
        return self._make_bookmark(self.res, self.revision)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events and not self._overflow and not self._closed:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self._overflow:
            raise gone("the watch was too slow for the rate of changes; list again")
        if not self._events:
            raise StopAsyncIteration
        event = self._events.popleft()
        if len(self._events) < self._live:
            self._live -= 1
            self._bytes -= len(event.stored.body)
        self.revision = event.revision
        return event

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """End the watch; a waiting reader stops. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._on_close(self, False)
            self._notify()
