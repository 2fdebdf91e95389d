"""A server of the small HTTP stack on loopback, and a raw client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from kubeapi.http import HttpServer, Limits, Request, Response, StreamResponse
from proto.kit.clock import SystemClock
from tests.kit.clock import ManualClock
from tests.unit.kubeapi_http.face import Face, open_face


async def echo(request: Request) -> Response:
    return Response(200, "text/plain", body=f"{request.method} {request.path} ".encode() + request.body)


class Raw:
    """Bytes out, bytes in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)

    async def answer(self) -> tuple[int, bytes]:
        """Read one answer with a Content-Length."""
        head = await self.head()
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length"))
        return int(head.split()[1]), await asyncio.wait_for(self.reader.readexactly(length), 5)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(-1), 5)

    async def end(self) -> bytes:
        """Say that nothing more comes, and read what is left."""
        self.writer.write_eof()
        return await self.rest()

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def serving(
    handler: Callable[[Request], object] = echo,
    limits: Limits | None = None,
    clock: ManualClock | SystemClock | None = None,
) -> AsyncIterator[tuple[HttpServer, Raw]]:
    """A running server and one raw connection to it."""
    server = HttpServer(handler, limits, clock=clock or SystemClock())  # type: ignore[arg-type]
    port = await server.start("127.0.0.1", 0)
    raw = Raw(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield server, raw
    finally:
        raw.close()
        await server.close()


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the server's own tests under both loops: the daemons use uvloop, whose transports are not asyncio's."""
    both: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop,
        "uvloop": uvloop.new_event_loop,
    }
    return both if item.path.name == "test_http.py" else {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    async with open_face(tmp_path) as opened:
        yield opened


__all__ = ["Raw", "StreamResponse", "echo", "serving"]
