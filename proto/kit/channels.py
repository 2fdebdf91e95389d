"""A few byte channels over one connection, both ways: what logs, exec, attach and port-forward are made of.

One shape on every leg (runtime, link, HTTP upgrade), so that a leg is joined to the next with ``pipe``. Numbers are those
of Kubernetes' remote command protocol (v5.channel.k8s.io).
"""

import asyncio
from typing import NamedTuple, Protocol

from proto.kit.errors import Terminal

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
DATA = STDIN  # port-forward: bytes of the one TCP connection, in both directions; ERROR carries why it failed


class ChannelsClosed(Terminal):
    """The other side is gone, or gave up: the text says why."""

    code = "ChannelsClosed"


class Chunk(NamedTuple):
    """Bytes of one channel. Empty ``data``: the other side writes nothing more to this channel."""

    channel: int
    data: bytes


class Channels(Protocol):
    """One end. Whoever got it calls ``close`` when done; ``write`` waits while the other side is slow."""

    async def read(self) -> Chunk | None:
        """Return the next chunk in order of arrival, None once the other side closed in an orderly way.

        Raises ChannelsClosed when it broke.
        """
        ...

    async def write(self, channel: int, data: bytes) -> None:
        """Send ``data``; returns once it may be forgotten here. Raises ChannelsClosed."""
        ...

    async def finish(self, channel: int) -> None:
        """Say that nothing more comes on ``channel`` (a half-close). Raises ChannelsClosed."""
        ...

    async def close(self, error: str = "") -> None:
        """End everything; with ``error`` the other side's next read raises. Safe to repeat."""
        ...


async def pipe(a: Channels, b: Channels) -> None:
    """Carry chunks both ways until either end closes, then close both. Returns after an orderly end; errors pass through to the other end."""

    async def one_way(source: Channels, sink: Channels) -> str:
        try:
            while (chunk := await source.read()) is not None:
                await (sink.write(*chunk) if chunk.data else sink.finish(chunk.channel))
        except ChannelsClosed as error:
            return str(error)
        return ""

    tasks = {asyncio.create_task(one_way(a, b)), asyncio.create_task(one_way(b, a))}  # noqa: TID251  both end here
    reason = "broken off"  # by a failure or a cancellation: never an orderly end
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        reason = next((task.result() for task in done if task.result()), "")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await a.close(reason)
        await b.close(reason)


class LocalChannels:
    """One end of a pair in this process; ``capacity_bytes`` is what may wait unread in each direction."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._inbox: list[Chunk] = []
        self._waiting_bytes = 0
        self._changed = asyncio.Condition()
        self._closed: str | None = None
        self.peer: LocalChannels = self

    async def read(self) -> Chunk | None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inbox or self._closed is not None)
            if self._inbox:
                chunk = self._inbox.pop(0)
                self._waiting_bytes -= len(chunk.data)
                self._changed.notify_all()
                return chunk
            if self._closed:
                raise ChannelsClosed(self._closed)
            return None

    async def write(self, channel: int, data: bytes) -> None:
        if data:
            await self.peer.take(Chunk(channel, data))

    async def finish(self, channel: int) -> None:
        await self.peer.take(Chunk(channel, b""))

    async def close(self, error: str = "") -> None:
        for end in (self, self.peer):
            await end.shut(error)

    async def shut(self, error: str) -> None:
        """End this end's reading and writing."""
        async with self._changed:
            if self._closed is None:
                self._closed = error
            self._changed.notify_all()

    async def take(self, chunk: Chunk) -> None:
        """Receive from the peer, waiting for room."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed is not None or self._waiting_bytes < self._capacity)
            if self._closed is not None:
                raise ChannelsClosed(self._closed or "closed")
            self._inbox.append(chunk)
            self._waiting_bytes += len(chunk.data)
            self._changed.notify_all()


def local_pair(capacity_bytes: int = 256 << 10) -> tuple[LocalChannels, LocalChannels]:
    """Return two ends joined in memory."""
    a, b = LocalChannels(capacity_bytes), LocalChannels(capacity_bytes)
    a.peer, b.peer = b, a
    return a, b
