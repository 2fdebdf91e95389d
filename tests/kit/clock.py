"""A clock that moves only when the test says so."""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta


class ManualClock:
    """``advance`` moves both the monotonic and the wall clock and wakes the sleepers that are due."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._wall = datetime(2026, 1, 1, tzinfo=UTC)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        return self._now_s

    def wall(self) -> datetime:
        return self._wall

    def jump_wall(self, delta: timedelta) -> None:
        self._wall += delta

    async def sleep(self, delay_s: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + delay_s, id(future), future))
        await future

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
        self._wall += timedelta(seconds=seconds)
        while self._sleepers and self._sleepers[0][0] <= self._now_s:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
