"""PORT Clock: the only door to time. Decisions use ``now_s``; ``wall`` is for people (architecture rule 9)."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds, the wall clock, and a way to wait."""

    def now_s(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        ...

    def wall(self) -> datetime:
        """The time people read, aware, UTC. It may jump."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds of this clock."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_s(self) -> float:
        return time.monotonic()

    def wall(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


def wall_ms(clock: Clock) -> int:
    """Unix milliseconds of the wall clock, for payload fields that people read."""
    return int(clock.wall().timestamp() * 1000)


def rfc3339(moment: datetime) -> str:
    """Format as Kubernetes does: UTC, whole seconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(moment: datetime) -> str:
    """Format as Kubernetes' MicroTime does: UTC, six digits, ``Z``."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
