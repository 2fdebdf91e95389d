"""A flood of connections that never finish their TLS handshake is bounded, before any limit of the protocols above."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

from cloudcore.certs import Authority
from kubeapi.http import HttpServer, Limits, Request, Response
from proto.kit.clock import SystemClock
from proto.kit.tls import Handshakes, client_context, server_context
from proto.mqtt.broker import BrokerSettings, MqttBroker
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually

CLOCK = SystemClock()
MOST = 3
Listener = Callable[[AsyncExitStack, ssl.SSLContext], Awaitable[tuple[int, Handshakes]]]


async def broker(stack: AsyncExitStack, context: ssl.SSLContext) -> tuple[int, Handshakes]:
    made = MqttBroker(BrokerSettings(max_handshakes=MOST))
    stack.push_async_callback(made.close)
    return await made.listen("127.0.0.1", 0, context), made.handshakes


async def http(stack: AsyncExitStack, context: ssl.SSLContext) -> tuple[int, Handshakes]:
    async def handler(_: Request) -> Response:
        return Response(200, body=b"{}")

    made = HttpServer(handler, Limits(max_handshakes=MOST), clock=CLOCK)
    stack.push_async_callback(made.close)
    return await made.start("127.0.0.1", 0, context), made.handshakes


async def flood(listener: Listener, path: Path) -> None:
    authority = Authority.open_or_create(path, CLOCK)
    pair = authority.server_certificate()
    async with AsyncExitStack() as stack:
        port, handshakes = await listener(stack, server_context(pair.cert, pair.key))
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST)]
        await eventually(lambda: len(handshakes) == MOST)

        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()
        with pytest.raises(OSError):  # noqa: PT011  which one is a matter of timing
            await asyncio.open_connection("127.0.0.1", port, ssl=client_context(ca=authority.ca_file))
        assert len(handshakes) == MOST

        for _, writer in silent:
            writer.close()
        await eventually(lambda: len(handshakes) == 0)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(ca=authority.ca_file))
        await eventually(
            lambda: len(handshakes) < MOST
        )  # where a failed one is noticed late, it only counts for a while
        writer.close()


@pytest.mark.parametrize("listener", [broker, http])
def test_no_more_handshakes_are_begun_than_the_limit_says(listener: Listener, tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the daemons
        runner.run(flood(listener, tmp_path))


def test_a_handshake_of_which_nobody_tells_the_end_counts_until_its_time_is_over() -> None:
    clock = ManualClock()
    handshakes = Handshakes(2, 5.0, clock)
    begun = [object() for _ in range(3)]
    for one in begun:
        handshakes.begin(one)
    assert handshakes.refuse()
    assert not handshakes.refuse()
    clock.advance(5.1)
    handshakes.begin(begun[2])
    assert not handshakes.refuse()
    assert len(handshakes) == 1
