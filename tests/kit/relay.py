"""A TCP relay that can fail: paused (half-open: nothing flows, nobody is told), cut (closed and refusing), mended."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

PIECE_BYTES = 65536


class Relay:
    """Forward 127.0.0.1:``port`` to ``target``; ``target_port`` may be set later."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self.target_host, self.target_port = target_host, target_port
        self.port = 0
        self.bytes_up = self.bytes_down = 0
        self.accepted = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0, sock: socket.socket | None = None) -> int:
        """Listen on ``port``, or with ``sock``: a listening one, perhaps of another network namespace."""
        where: dict[str, Any] = {"sock": sock} if sock else {"host": "127.0.0.1", "port": port}
        self._server = await asyncio.start_server(self._serve, **where)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    def pause(self) -> None:
        """Half-open: both ends keep their connections, no byte passes."""
        self._flowing.clear()

    def cut(self) -> None:
        """Reset every connection and refuse new ones until ``mend``."""
        self._refusing = True
        for writer in list(self._writers):
            writer.transport.abort()

    def drop(self) -> None:
        """Reset every connection; new ones are served."""
        for writer in list(self._writers):
            writer.transport.abort()

    def mend(self) -> None:
        """Let bytes pass and connections in."""
        self._refusing = False
        self._flowing.set()

    async def close(self) -> None:
        self.cut()
        self._flowing.set()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            await self._forward(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return
        self.accepted += 1
        await self._flowing.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(self.target_host, self.target_port)
        except OSError:
            return
        self._writers.add(far_writer)
        try:
            with suppress(ExceptionGroup, OSError):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far_writer, up=True))
                    group.create_task(self._pump(far_reader, writer, up=False))
        finally:
            self._writers.discard(far_writer)
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await self._flowing.wait()
            writer.write(piece)
            await writer.drain()
            if up:
                self.bytes_up += len(piece)
            else:
                self.bytes_down += len(piece)
        raise ConnectionResetError  # one end is gone: so is the other
