"""The HTTP client: keep-alive, bounds, broken peers, streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from proto.kit.errors import UsageError
from proto.kit.httpclient import HttpClient, HttpLimits, HttpMalformed, HttpTimeout, HttpUnreachable

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(peer: Peer, **limits: float) -> AsyncIterator[HttpClient]:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient(f"http://127.0.0.1:{port}", limits=HttpLimits(**limits))  # type: ignore[arg-type]
    try:
        yield client
    finally:
        await client.close()
        server.close()


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def test_requests_share_one_kept_alive_connection() -> None:
    connections = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with serving(peer) as client:
        bodies = [(await client.request("GET", "/")).body for _ in range(5)]

    assert bodies == [b"ok"] * 5
    assert connections == 1


async def test_a_connection_closed_while_idle_is_replaced_without_an_error() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with serving(peer) as client:
        for _ in range(5):
            assert (await client.request("GET", "/")).status == 200


async def test_an_answer_larger_than_allowed_is_refused_before_it_is_read() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with serving(peer, max_body_bytes=1000) as client:
        with pytest.raises(HttpMalformed, match="99999 bytes"):
            await client.request("GET", "/")


async def test_chunked_answers_are_bounded_too() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()

    async with serving(peer, max_body_bytes=10_000) as client:
        with pytest.raises(HttpMalformed, match="larger than"):
            await client.request("GET", "/")


async def test_bytes_that_are_no_http_are_an_error_of_the_peer() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"220 smtp.example.com ESMTP\r\n")
        await writer.drain()

    async with serving(peer) as client:
        with pytest.raises((HttpMalformed, HttpUnreachable)):
            await client.request("GET", "/")


async def test_a_silent_peer_times_out() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(peer, request_timeout_s=0.05) as client:
        with pytest.raises(HttpTimeout):
            await client.request("GET", "/")


async def test_nobody_listening_says_where() -> None:
    client = HttpClient("http://127.0.0.1:1")

    with pytest.raises(HttpUnreachable, match=r"127\.0\.0\.1:1"):
        await client.request("GET", "/")


async def test_a_stream_hands_out_chunks_and_ends_when_it_falls_silent() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        await reader.read()

    async with serving(peer) as client, client.stream("GET", "/", idle_timeout_s=0.05) as stream:
        chunks = stream.chunks()
        assert await anext(chunks) == b"hello"
        with pytest.raises(HttpTimeout):
            await anext(chunks)


async def test_a_line_break_cannot_be_smuggled_into_a_request() -> None:
    client = HttpClient("http://127.0.0.1:1")
    with pytest.raises(UsageError):
        await client.request("GET", "/a b")
    with pytest.raises(UsageError):
        await client.request("GET", "/", headers={"x": "a\r\ny: b"})


async def test_a_second_answer_in_the_same_bytes_changes_nothing_and_ends_the_connection() -> None:
    connections = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno")
        await reader.read(1)

    async with serving(peer) as client:
        first = await client.request("GET", "/")
        await client.request("GET", "/")
    assert (first.status, first.body, connections) == (200, b"ok", 2)
