"""The daemon's own socket, ``edge.sock`` in the data directory: for root at this node, with or without a cloud.

One request per connection: a line of JSON ``{"call": {…}}`` (proto.calls) or ``{"restart": {namespace, pod, container}}``; a line
of JSON comes back, ``{}`` or ``{"error": SENTENCE}``; then, for a call, frames both ways: channel (1 byte), length (4, big-endian),
bytes. Length 0 ends a channel; channel 255 ends everything and says why (nothing: all is well).
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edgecore.data_dir import DataDir
from proto.calls import MAX_CALL_BYTES, Call, CallRefused, OpenCall
from proto.kit.canonical import UNREADABLE
from proto.kit.channels import Channels, ChannelsClosed, Chunk, pipe
from proto.kit.errors import SkerryError
from proto.kit.log import Logger

log = Logger("door")
NAME = "edge.sock"
END = 255
HEAD = struct.Struct(">BI")
MAX_FRAME_BYTES = 1 << 20
PIECE_BYTES = 64 << 10
MAX_CONNECTIONS = 64
REQUEST_S = 10.0
Restart = Callable[[str, str, str], str]  # namespace, pod, container ("": all) -> why not, "" for done


class NotRunning(SkerryError):
    """Nobody answers behind the socket."""

    code = "NotRunning"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one connection wants."""

    call: Call | None = None
    restart: dict[str, str] | None = None


class FramedChannels:
    """``Channels`` over a stream of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._closed = False

    async def read(self) -> Chunk | None:
        try:
            channel, length = HEAD.unpack(await self._reader.readexactly(HEAD.size))
            if length > MAX_FRAME_BYTES:
                raise ChannelsClosed(f"a frame of {length} bytes")
            content = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChannelsClosed("the connection broke") from error
        if channel != END:
            return Chunk(channel, content)
        if content:
            raise ChannelsClosed(content.decode(errors="replace"))
        return None

    async def write(self, channel: int, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            await self._send(channel, data[start : start + PIECE_BYTES])

    async def finish(self, channel: int) -> None:
        await self._send(channel, b"")

    async def close(self, error: str = "") -> None:
        if not self._closed:
            with suppress(ChannelsClosed):
                await self._send(END, error.encode()[:PIECE_BYTES])
            self._closed = True
            self._writer.close()

    async def _send(self, channel: int, content: bytes) -> None:
        if self._closed:
            raise ChannelsClosed("closed")
        try:
            self._writer.write(HEAD.pack(channel, len(content)) + content)
            await self._writer.drain()
        except OSError as error:
            raise ChannelsClosed("the connection broke") from error


class Door:
    """Listens on ``edge.sock``, mode 0600."""

    def __init__(self, directory: DataDir, open_call: OpenCall, restart: Restart) -> None:
        self._directory, self._open_call, self._restart = directory, open_call, restart
        self._open = 0

    async def run(self) -> None:
        """Serve until cancelled; a folder without room or rights for a socket is said, and waited for by nobody."""
        path = self._directory.path / NAME
        try:
            listener = listen(path)
        except OSError as error:
            log.warning("no socket for the commands", file=path, reason=error.strerror)
            return
        server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_CALL_BYTES)
        try:
            async with server:
                await server.serve_forever()
        finally:
            with suppress(OSError):
                path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # whoever asked is gone, or is no command of ours
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(REQUEST_S):
            line = await reader.readuntil(b"\n")
        channels: Channels | None = None
        error = ""
        try:
            request = msgspec.json.decode(line, type=Request)
            if request.restart is not None:
                wanted = request.restart
                error = self._restart(wanted.get("namespace", ""), wanted.get("pod", ""), wanted.get("container", ""))
            elif request.call is not None:
                channels = await self._open_call(request.call)
        except UNREADABLE:
            error = "the request is no JSON of ours"
        except (CallRefused, SkerryError) as refusal:
            error = str(refusal)
        writer.write(msgspec.json.encode({"error": error} if error else {}) + b"\n")
        await writer.drain()
        if channels is not None:
            await pipe(channels, FramedChannels(reader, writer))


def listen(path: Path) -> socket.socket:
    """Bind a socket that only its owner may use, also where the path is longer than the 107 bytes of a socket's name."""
    with suppress(FileNotFoundError):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    before = os.umask(0o177)
    try:
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")
        sock.listen()
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
        os.close(folder)
    return sock


def connect(path: Path) -> socket.socket:
    """Raises NotRunning."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sock.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    except OSError as error:
        sock.close()
        raise NotRunning("edgecore does not answer here: systemctl start edgecore, or edgecore run") from error
    return sock


async def ask(directory: DataDir, request: Request) -> FramedChannels:
    """Send one request; return its channels (closed ones after a restart). Raises SkerryError with the daemon's words."""
    reader, writer = await asyncio.open_unix_connection(sock=connect(directory.path / NAME))
    writer.write(msgspec.json.encode(request) + b"\n")
    await writer.drain()
    try:
        answer: dict[str, Any] = msgspec.json.decode(await reader.readuntil(b"\n"), type=dict[str, Any])
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, *UNREADABLE) as error:
        raise NotRunning("edgecore closed the connection") from error
    if answer.get("error"):
        writer.close()
        raise SkerryError(str(answer["error"]))
    return FramedChannels(reader, writer)
