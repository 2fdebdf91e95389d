"""Channels over plain descriptors: the ends of pipes, a terminal, a TCP connection."""

import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from edgecore.pods.process.wire import Connection, Gone
from proto.calls import exit_status
from proto.kit.channels import DATA, ERROR, RESIZE, STDIN, ChannelsClosed, Chunk

Json = dict[str, Any]
READ_BYTES = 64 << 10
INBOX_BYTES = 256 << 10  # unread here before reading pauses
LOST = "the pod's supervisor has ended"


class _Size(msgspec.Struct):
    Width: int = 0
    Height: int = 0


class FdChannels:
    """Reads ``sources`` (descriptor -> channel) and writes ``sink``; ``connection`` tells how the call ends, when there is one."""

    def __init__(self, sources: dict[int, int], sink: int, connection: Connection | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._sources, self._sink, self._connection = sources, sink, connection
        self._inbox: deque[Chunk] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()
        self._closed: str | None = None  # nothing more is put into the inbox
        self._shut = False
        self._exit: Json | None = None
        self._paused = False
        self.terminal = -1
        self.input_over: Callable[[], None] = lambda: None
        for fd in (*sources, *([sink] if sink >= 0 else [])):
            os.set_blocking(fd, False)
        for fd in sources:
            self._loop.add_reader(fd, self._ready, fd)
        if connection is not None:
            self._loop.add_reader(connection, self._told)

    async def read(self) -> Chunk | None:
        while not self._inbox:
            if self._closed is not None:
                if self._closed:
                    raise ChannelsClosed(self._closed)
                return None
            self._changed.clear()
            await self._changed.wait()
        chunk = self._inbox.popleft()
        self._waiting_bytes -= len(chunk.data)
        if self._paused and self._waiting_bytes < INBOX_BYTES // 2:
            self._paused = False
            for fd in self._sources:
                self._loop.add_reader(fd, self._ready, fd)
            if self._exit is not None:
                self._drain()
        return chunk

    async def write(self, channel: int, data: bytes) -> None:
        if self._closed is not None:
            raise ChannelsClosed(self._closed or "the call has ended")
        if channel == RESIZE:
            self._resize(data)
            return
        view = memoryview(data)
        while view and channel == STDIN and self._sink >= 0 and self._closed is None:
            try:
                view = view[os.write(self._sink, view[:READ_BYTES]) :]
            except BlockingIOError:
                await self._writable()
            except OSError:  # as to a pipe that nobody reads: how the call ends is told by what is read
                return

    async def finish(self, channel: int) -> None:
        if channel == STDIN and self._sink >= 0:
            if self.terminal >= 0:
                return  # a terminal has no end of its own: ^D is a byte
            self._end_sink()
            self.input_over()

    async def close(self, error: str = "") -> None:
        self._over(error)
        if self._shut:
            return
        self._shut = True
        self._inbox.clear()
        if self._connection is not None:
            self._loop.remove_reader(self._connection)
            self._connection.close()
        self._end_sink()
        if self.terminal >= 0 and self.terminal not in self._sources:
            os.close(self.terminal)
            self.terminal = -1

    async def kill(self, within_s: float = 5.0) -> None:
        """End the command; returns once it has ended."""
        if self._connection is not None and self._exit is None and self._closed is None:
            with suppress(Gone, TimeoutError, ChannelsClosed):
                self._connection.send({"op": "kill"})
                async with asyncio.timeout(within_s):
                    while await self.read() is not None:
                        continue

    # What comes

    def _ready(self, fd: int) -> None:
        """Take what is there; a descriptor that has ended goes."""
        channel = self._sources[fd]
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            if channel == DATA and self._connection is None:
                self._put(Chunk(ERROR, (error.strerror or str(error)).encode()))
        self._put(Chunk(channel, data))
        if not data:
            self._release(fd)
            self._after_end()
        elif self._waiting_bytes >= INBOX_BYTES and not self._paused:
            self._paused = True
            for one in self._sources:
                self._loop.remove_reader(one)

    def _after_end(self) -> None:
        if self._sources:
            return
        if self._connection is None or self._exit is not None:
            self._finish()

    def _told(self) -> None:
        assert self._connection is not None
        try:
            message, fds = self._connection.receive_now()
        except BlockingIOError:
            return
        for fd in fds:
            os.close(fd)
        if message is None:
            self._loop.remove_reader(self._connection)
            self._lost()
        elif "exit" in message:
            self._exit = exit_status(int(message["exit"]))
            self._drain()
        elif "cut" in message:
            self._over(str(message["cut"]))

    def _lost(self) -> None:
        if self._exit is None:
            self._over(LOST)

    def _drain(self) -> None:
        """The command has ended: what it wrote is in the pipes, and whoever else holds them open does not count."""
        for fd in list(self._sources):
            while not self._paused and fd in self._sources:
                before = self._waiting_bytes
                self._ready(fd)
                if fd in self._sources and self._waiting_bytes == before:
                    self._put(Chunk(self._sources[fd], b""))
                    self._release(fd)
        self._after_end()

    def _finish(self) -> None:
        if self._closed is None:
            if self._exit is not None:
                self._put(Chunk(ERROR, msgspec.json.encode(self._exit)))
            self._over("")

    def _put(self, chunk: Chunk) -> None:
        if self._closed is None:
            self._inbox.append(chunk)
            self._waiting_bytes += len(chunk.data)
            self._changed.set()

    def _over(self, reason: str) -> None:
        if self._closed is None:
            self._closed = reason
        for fd in list(self._sources):
            self._release(fd)
        self._changed.set()

    def _release(self, fd: int) -> None:
        del self._sources[fd]
        self._loop.remove_reader(fd)
        if fd == self._sink:
            return  # one descriptor for both ways: closed with the sink
        os.close(fd)
        if fd == self.terminal:
            self.terminal = -1

    # What goes

    async def _writable(self) -> None:
        ready = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        sink = self._sink
        self._loop.add_writer(sink, wake)
        ended = asyncio.ensure_future(self._ended())  # noqa: TID251  ends below
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            if self._sink == sink:
                self._loop.remove_writer(sink)

    async def _ended(self) -> None:
        while self._closed is None:
            self._changed.clear()
            await self._changed.wait()

    def _end_sink(self) -> None:
        sink, self._sink = self._sink, -1
        if sink < 0:
            return
        self._loop.remove_writer(sink)
        if sink in self._sources:  # the other direction goes on
            with suppress(OSError), socket.socket(fileno=os.dup(sink)) as end:
                end.shutdown(socket.SHUT_WR)
            return
        os.close(sink)

    def _resize(self, data: bytes) -> None:
        if self.terminal < 0:
            return
        with suppress(msgspec.MsgspecError, OSError, struct.error):
            size = msgspec.json.decode(data, type=_Size)
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.Height, size.Width, 0, 0))


class AttachChannels(FdChannels):
    """Ends with the container's output: an attach tells no exit code."""

    def _after_end(self) -> None:
        if not self._sources:
            self._exit = exit_status(0)
            self._finish()

    def _lost(self) -> None:
        return  # the pipes end too, after what is still in them


class FailedChannels:
    """A connection that could not be made: says why, and ends."""

    def __init__(self, why: str) -> None:
        self._words: list[Chunk] = [Chunk(ERROR, why.encode())]

    async def read(self) -> Chunk | None:
        return self._words.pop(0) if self._words else None

    async def write(self, channel: int, data: bytes) -> None:
        """Nobody reads it; ``read`` says why."""

    async def finish(self, channel: int) -> None:
        """Nobody waits for it."""

    async def close(self, error: str = "") -> None:  # noqa: ARG002  there is no other side
        self._words.clear()
