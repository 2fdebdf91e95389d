"""Wait for a condition, never for an amount of time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")
POLL_S = 0.01


@overload
async def eventually(condition: Callable[[], Awaitable[T]], timeout_s: float = 30.0) -> T: ...


@overload
async def eventually(condition: Callable[[], T], timeout_s: float = 30.0) -> T: ...


async def eventually(condition: Callable[[], T] | Callable[[], Awaitable[T]], timeout_s: float = 30.0) -> T:
    """Return the first true result of ``condition``; fails the test after ``timeout_s``."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        result = condition()
        value: T = await result if isinstance(result, Awaitable) else result
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"still false after {timeout_s} s: {condition}")
        await asyncio.sleep(POLL_S)
