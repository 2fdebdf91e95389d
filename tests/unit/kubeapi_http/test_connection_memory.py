"""A connection that ended is freed at once, not when the collector comes: with TLS each is large."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest

from kubeapi.http import Answer, HttpServer, Request, Response, StreamResponse
from proto.kit.clock import SystemClock
from tests.kit.wait import eventually


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def endless() -> AsyncIterator[bytes]:
    yield b"first\n"
    await asyncio.Event().wait()


async def answer(request: Request) -> Answer:
    if request.path == "/stream":
        return StreamResponse(200, "text/plain", chunks=endless())
    return Response(200, "text/plain", body=b"first\n")


@pytest.mark.parametrize("path", ["/stream", "/whole"])
@pytest.mark.usefixtures("no_collector")
async def test_a_connection_whose_client_left_is_freed_without_the_collector(path: str) -> None:
    server = HttpServer(answer, clock=SystemClock())
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"first\n")
    connection = weakref.ref(next(iter(server.connections)))
    assert connection() is not None

    writer.close()

    await eventually(lambda: connection() is None)
    await server.close()
