"""The HTTP server: what it answers, what it refuses, what it never holds (HTTP-1, HTTP-2, HTTP-3)."""

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from kubeapi.http import Limits, Request, Response, StreamResponse, Upgrade
from kubeapi.http_tunnel import Tunnel
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually
from tests.unit.kubeapi_http.conftest import serving

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_one_connection_carries_many_requests() -> None:
    async with serving() as (_, raw):
        for _ in range(3):
            await raw.send(GET)
            assert await raw.answer() == (200, b"GET /a ")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as (_, raw):
        await raw.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(20)))
        answers = [await raw.answer() for _ in range(20)]
        assert [body for _, body in answers] == [b"GET /%d " % i for i in range(20)]


async def test_too_many_requests_sent_ahead_end_the_connection() -> None:
    async with serving(limits=Limits(max_pipelined=2)) as (server, raw):
        await raw.send(GET * 50)
        statuses = [(await raw.answer())[0] for _ in range(9)]
        assert statuses == [200] * 8 + [429]
        assert server.refused.value("http", "pipelined") == 1


async def test_a_chunked_body_arrives_whole() -> None:
    async with serving() as (_, raw):
        await raw.send(
            b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nHost: evil\r\n\r\n"
        )
        assert await raw.answer() == (200, b"POST /a abcde")
        await raw.send(GET)
        assert (await raw.answer())[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /\r\n\r\n",
    ],
)
async def test_what_two_servers_could_read_differently_is_refused(head: bytes) -> None:
    async with serving() as (_, raw):
        await raw.send(head + GET)
        status, _ = await raw.answer()
        assert status in (400, 505)
        assert await raw.end() == b""


async def test_an_oversized_body_is_refused_before_it_is_read() -> None:
    async with serving(limits=Limits(max_body_bytes=10)) as (server, raw):
        await raw.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert b" 413 " in await raw.head()
        assert server.refused.value("http", "body_too_large") == 1


async def test_a_chunked_body_that_grows_too_large_is_refused() -> None:
    async with serving(limits=Limits(max_body_bytes=10)) as (_, raw):
        await raw.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n"
        )
        assert b" 413 " in await raw.head()


async def test_a_head_without_an_end_is_refused_at_the_limit() -> None:
    async with serving(limits=Limits(max_head_bytes=1000)) as (_, raw):
        await raw.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2000)
        assert b" 431 " in await raw.head()


async def test_too_many_headers_are_refused() -> None:
    async with serving(limits=Limits(max_headers=5)) as (_, raw):
        await raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 10 + b"\r\n")
        assert b" 431 " in await raw.head()


async def test_a_head_that_comes_too_slowly_is_cut_with_408() -> None:
    clock = ManualClock()
    async with serving(clock=clock) as (server, raw):
        await raw.send(b"GET / HTTP/1.1\r\nHo")
        await eventually(lambda: any(c._parser.started for c in server.connections))
        clock.advance(11)
        assert b" 408 " in await raw.head()
        assert await raw.end() == b"the request did not arrive in time\n"


async def test_a_silent_connection_is_closed_after_its_idle_time() -> None:
    clock = ManualClock()
    async with serving(clock=clock) as (server, raw):
        await raw.send(GET)
        await raw.answer()
        clock.advance(100)
        await asyncio.sleep(0)
        assert server.connections
        clock.advance(100)
        assert await raw.rest() == b""
        assert not server.connections


async def test_100_continue_is_sent_before_the_body() -> None:
    async with serving() as (_, raw):
        await raw.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await raw.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await raw.send(b"ok")
        assert await raw.answer() == (200, b"POST /a ok")


async def test_a_failing_handler_answers_500_without_its_reason() -> None:
    async def broken(_: Request) -> Response:
        raise RuntimeError("a secret")

    async with serving(broken) as (server, raw):
        await raw.send(GET)
        status, body = await raw.answer()
        assert status == 500
        assert b"secret" not in body
        assert server.refused.value("http", "failed") == 1


async def test_a_stream_is_written_piece_by_piece_and_closed_when_the_client_goes() -> None:
    gate = asyncio.Event()
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await gate.wait()
            yield b"two"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def stream(_: Request) -> StreamResponse:
        return StreamResponse(200, chunks=chunks())

    async with serving(stream) as (_, raw):
        await raw.send(GET)
        assert b"Transfer-Encoding: chunked" in await raw.head()
        assert await raw.reader.readexactly(8) == b"3\r\none\r\n"
        gate.set()
        assert await raw.reader.readexactly(8) == b"3\r\ntwo\r\n"
        raw.close()
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_client_that_reads_too_slowly_is_dropped_and_counted() -> None:
    clock = ManualClock()
    produced = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal produced
        while True:
            produced += 1
            yield b"x" * 65536

    async def stream(_: Request) -> StreamResponse:
        return StreamResponse(200, chunks=flood())

    async with serving(stream, clock=clock) as (server, raw):
        await raw.send(GET)
        await eventually(lambda: any(c._write_paused for c in server.connections))
        stopped_at = produced
        clock.advance(31)
        await eventually(lambda: not server.connections)
        assert produced == stopped_at < 1000
        assert server.refused.value("http", "slow_reader") == 1


async def test_a_large_answer_is_compressed_for_a_client_that_accepts_gzip() -> None:
    async def large(_: Request) -> Response:
        return Response(200, body=b"z" * 200_000)

    async with serving(large) as (_, raw):
        await raw.send(b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
        _, body = await raw.answer()
        assert gzip.decompress(body) == b"z" * 200_000
        await raw.send(GET)
        assert len((await raw.answer())[1]) == 200_000


async def test_an_upgrade_is_answered_as_a_plain_request_and_closed() -> None:
    async with serving() as (_, raw):
        await raw.send(
            b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /b HTTP/1.1\r\n"
        )
        answer = await raw.rest()
        assert answer.count(b"HTTP/1.1 200") == 1
        assert answer.endswith(b"GET /a ")


UPGRADE = b"POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


def upgrading(serve: Callable[[Tunnel], Awaitable[None]]) -> Callable[[Request], Awaitable[Upgrade]]:
    async def handler(_: Request) -> Upgrade:
        return Upgrade(101, protocol="raw", serve=serve)

    return handler


async def test_an_upgrade_hands_over_the_connection_with_what_was_sent_ahead() -> None:
    async def shout(tunnel: Tunnel) -> None:
        while data := await tunnel.read():
            await tunnel.write(data.upper())

    async with serving(upgrading(shout)) as (_, raw):
        await raw.send(UPGRADE + b"ahead")
        head = await raw.head()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: raw\r\n" in head
        assert b"Content-Length" not in head
        assert await raw.reader.readexactly(5) == b"AHEAD"
        await raw.send(b"later")
        assert await raw.end() == b"LATER"


async def test_an_upgraded_connection_ends_when_its_server_is_done() -> None:
    async def once(tunnel: Tunnel) -> None:
        await tunnel.write(await tunnel.read())

    async with serving(upgrading(once)) as (_, raw):
        await raw.send(UPGRADE + b"one")
        await raw.head()
        assert await raw.rest() == b"one"


async def test_a_client_that_leaves_an_upgraded_connection_ends_its_server() -> None:
    ended = asyncio.Event()

    async def patient(tunnel: Tunnel) -> None:
        try:
            await tunnel.write(b"x")
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(upgrading(patient)) as (_, raw):
        await raw.send(UPGRADE)
        await raw.head()
        reset_on_close = struct.pack("ii", 1, 0)
        raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
        raw.close()
        await asyncio.wait_for(ended.wait(), 5)


async def test_an_upgraded_client_that_reads_nothing_stops_the_writer_and_is_not_cut() -> None:
    """HTTP-3"""
    clock, written = ManualClock(), 0

    async def flood(tunnel: Tunnel) -> None:
        nonlocal written
        for _ in range(400):
            await tunnel.write(b"z" * 65536)
            written += 1

    async with serving(upgrading(flood), clock=clock) as (server, raw):
        await raw.send(UPGRADE)
        await raw.head()
        await eventually(lambda: any(c._write_paused for c in server.connections))
        clock.advance(120)
        await server.sweep()
        assert written < 400
        assert len(server.connections) == 1
        assert len(await raw.rest()) == 400 * 65536


async def test_an_upgraded_server_that_reads_nothing_stops_its_client() -> None:
    done = asyncio.Event()

    async def deaf(_: Tunnel) -> None:
        await done.wait()

    async with serving(upgrading(deaf)) as (server, raw):
        await raw.send(UPGRADE)
        await raw.head()
        raw.writer.write(bytes(32 << 20))
        (connection,) = server.connections
        tunnel = connection._tunnel
        assert tunnel is not None
        await eventually(lambda: tunnel._paused)
        assert tunnel._held_bytes < 1 << 20
        done.set()


async def test_an_upgrade_that_nobody_asked_for_is_an_internal_error() -> None:
    async def nothing(_: Tunnel) -> None: ...

    async with serving(upgrading(nothing)) as (server, raw):
        await raw.send(GET)
        assert await raw.rest() == b""
        assert server.refused.value("http", "failed") == 1


async def test_a_header_value_cannot_start_a_new_line() -> None:
    async def split(_: Request) -> Response:
        return Response(200, headers=[("X-A", "b\r\nSet-Cookie: c")])

    async with serving(split) as (_, raw):
        await raw.send(GET)
        assert b"\r\nSet-Cookie" not in await raw.head()


async def test_http_1_0_gets_an_answer_and_the_end() -> None:
    async with serving() as (_, raw):
        await raw.send(b"GET /a HTTP/1.0\r\n\r\n")
        assert (await raw.rest()).endswith(b"GET /a ")


async def test_a_connection_above_the_limit_is_cut_and_counted() -> None:
    async with serving(limits=Limits(max_connections=1)) as (server, raw):
        await raw.send(GET)
        await raw.answer()
        _, port = raw.writer.get_extra_info("peername")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        assert server.refused.value("http", "too_many_connections") == 1


async def test_closing_the_server_lets_a_request_in_progress_finish() -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        entered.set()
        await gate.wait()
        return Response(200, body=b"done")

    async with serving(slow) as (server, raw):
        await raw.send(GET)
        await entered.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(server.close())
            gate.set()
            assert await raw.answer() == (200, b"done")


async def test_a_client_that_half_closes_after_its_request_gets_its_answer() -> None:
    async with serving() as (_, raw):
        await raw.send(GET * 2)
        assert (await raw.end()).count(b"GET /a ") == 2


async def test_a_refusal_reaches_a_client_that_half_closed() -> None:
    async with serving() as (_, raw):
        await raw.send(b"NONSENSE\r\n\r\n")
        assert b" 400 " in await raw.end()
