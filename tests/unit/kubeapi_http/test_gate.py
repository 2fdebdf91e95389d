"""A listener for some peers only resets the others before a handshake or a place is spent on them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloudcore.certs import Authority
from kubeapi.http import HttpServer, Limits, Request, Response
from proto.kit.clock import SystemClock
from proto.kit.tls import client_context, server_context
from tests.kit.wait import eventually

WELCOME, STRANGER = "127.0.0.2", "127.0.0.3"


async def echo(request: Request) -> Response:
    return Response(200, "text/plain", body=(request.peer_host or "").encode())


class Door:
    def __init__(self, server: HttpServer, port: int, authority: Authority) -> None:
        self.server, self.port, self.authority = server, port, authority

    async def ask(self, source: str) -> bytes:
        """GET over TLS from the address ``source``. Raises OSError."""
        tls = client_context(ca=self.authority.ca_file)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, local_addr=(source, 0))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = await asyncio.wait_for(reader.read(-1), 5)
        writer.close()
        return found

    def refused(self) -> bool:
        return self.server.refused.value("http", "foreign") == 2


@asynccontextmanager
async def door(path: Path) -> AsyncIterator[Door]:
    clock = SystemClock()
    authority = Authority.open_or_create(path, clock)
    pair = authority.server_certificate()
    server = HttpServer(echo, Limits(max_connections=2, max_handshakes=2), clock=clock)
    allowed = {WELCOME}
    port = await server.start(
        "127.0.0.1", 0, server_context(pair.cert, pair.key), allows=lambda address: address in allowed
    )
    try:
        yield Door(server, port, authority)
    finally:
        await server.close()


async def test_a_peer_that_may_call_is_served_and_another_is_reset_without_a_handshake(tmp_path: Path) -> None:
    async with door(tmp_path) as at:
        assert (await at.ask(WELCOME)).endswith(WELCOME.encode())
        for _ in range(2):
            with pytest.raises(OSError):  # noqa: PT011  reset, sooner or later
                await at.ask(STRANGER)
        assert at.refused()
        assert len(at.server.handshakes) == 0
        assert (await at.ask(WELCOME)).endswith(WELCOME.encode())


async def test_who_speaks_no_tls_is_let_go_and_the_next_one_served(tmp_path: Path) -> None:
    async with door(tmp_path) as at:
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", at.port, local_addr=(WELCOME, 0))
            writer.write(b"\x16\x03\x01\x00\x04nope")
            await asyncio.wait_for(reader.read(-1), 5)
            writer.close()
        await eventually(lambda: not at.server.connections)
        assert (await at.ask(WELCOME)).endswith(WELCOME.encode())


async def test_a_closed_door_accepts_nobody(tmp_path: Path) -> None:
    async with door(tmp_path) as at:
        await at.server.close()
        with pytest.raises(OSError):  # noqa: PT011
            await at.ask(WELCOME)
