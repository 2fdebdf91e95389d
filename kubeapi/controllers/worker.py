"""Runs the built-in controllers: what changed becomes dirty, each dirty thing is made right, in any order, again if need be."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from kubeapi.errors import ApiError
from proto.kit.backoff import Backoff
from proto.kit.clock import Clock
from proto.kit.log import Logger

K = TypeVar("K", bound=Hashable)
log = Logger("controllers")


class Worker(Generic[K]):
    """A set of dirty keys and one function that makes a key right. Level-triggered: a key added twice is handled once."""

    def __init__(self, name: str, make_right: Callable[[K], Awaitable[None]], clock: Clock) -> None:
        self.name = name
        self.failures = 0
        self._make_right = make_right
        self._clock = clock
        self._dirty: dict[K, None] = {}
        self._failed: dict[K, None] = {}
        self._wake = asyncio.Event()
        self._backoff = Backoff()

    def add(self, key: K) -> None:
        self._dirty[key] = None
        self._wake.set()

    @property
    def dirty(self) -> bool:
        return bool(self._dirty)

    async def drain(self) -> None:
        """Handle every dirty key until none is left; a key that fails waits for ``run``'s next turn."""
        while self._dirty:
            key = next(iter(self._dirty))
            del self._dirty[key]
            try:
                await self._make_right(key)
            except ApiError as error:  # the object changed or went under us: look again
                log.debug("controller looks again", controller=self.name, key=key, error=str(error))
                self._failed[key] = None
            except Exception:
                log.exception("controller failed on a key; it is tried again", controller=self.name, key=key)
                self.failures += 1
                self._failed[key] = None

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            await self.drain()
            if self._failed:
                await self._clock.sleep(self._backoff.next_s())
                self._dirty.update(self._failed)
                self._failed.clear()
                continue
            self._backoff.reset()
            await self._wake.wait()
