"""Calls that need no runtime: an echo, a flood, a refusal; for tests of what carries them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from proto.calls import Call, CallRefused
from proto.kit.channels import STDIN, STDOUT, Channels, ChannelsClosed, local_pair


class Calls:
    """An ``OpenCall``. ping: echo; logs: ``limit_bytes`` bytes, then the end; else refused."""

    def __init__(self) -> None:
        self.open_now = 0
        self.ends: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, call: Call) -> Channels:
        if call.kind not in {"ping", "logs"}:
            raise CallRefused(404, "NotFound", f'pods "{call.pod}" not found')
        near, far = local_pair()
        work = self._echo(near) if call.kind == "ping" else self._flood(near, call.limit_bytes or 0)
        task = asyncio.create_task(self._counted(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return far

    async def _counted(self, work: Coroutine[Any, Any, None]) -> None:
        self.open_now += 1
        try:
            await work
            self.ends.append("")
        except ChannelsClosed as error:
            self.ends.append(str(error))
        finally:
            self.open_now -= 1

    async def _echo(self, channels: Channels) -> None:
        while (chunk := await channels.read()) is not None:
            if chunk.channel == STDIN and not chunk.data:
                break
            await channels.write(STDOUT, chunk.data)
        await channels.close()

    async def _flood(self, channels: Channels, size: int) -> None:
        sent = 0
        while sent < size:
            part = flood(sent, min(10_000, size - sent))
            await channels.write(STDOUT, part)
            sent += len(part)
        await channels.close()


def flood(start: int, size: int) -> bytes:
    """Bytes ``start`` to ``start + size`` of a sequence that shows what is missing."""
    first = start // 8
    whole = b"".join(number.to_bytes(8, "big") for number in range(first, (start + size) // 8 + 1))
    return whole[start - first * 8 :][:size]


async def all_of(channels: Channels, channel: int = STDOUT) -> bytes:
    """Read until the orderly end; return what came on ``channel``."""
    parts = []
    while (chunk := await channels.read()) is not None:
        if chunk.channel == channel:
            parts.append(chunk.data)
    return b"".join(parts)
