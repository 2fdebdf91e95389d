"""Byte channels in memory: order, half-close, room, and what an end's failure tells the other."""

import asyncio

import pytest

from proto.kit.channels import ERROR, STDIN, STDOUT, ChannelsClosed, Chunk, local_pair, pipe


async def test_chunks_arrive_in_order_and_an_empty_one_is_a_half_close() -> None:
    a, b = local_pair()

    await a.write(STDIN, b"one")
    await a.finish(STDIN)
    await a.close()

    assert [await b.read(), await b.read(), await b.read()] == [Chunk(STDIN, b"one"), Chunk(STDIN, b""), None]


async def test_a_writer_waits_for_a_reader_that_is_slow() -> None:
    a, b = local_pair(capacity_bytes=4)
    await a.write(STDOUT, b"12345")

    waiting = asyncio.create_task(a.write(STDOUT, b"6"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await b.read()
    await waiting

    assert await b.read() == Chunk(STDOUT, b"6")


async def test_closing_with_an_error_breaks_the_other_end_after_what_was_sent() -> None:
    a, b = local_pair()
    await a.write(STDOUT, b"last words")
    await a.close("the node went away")

    assert await b.read() == Chunk(STDOUT, b"last words")
    with pytest.raises(ChannelsClosed, match="the node went away"):
        await b.read()
    with pytest.raises(ChannelsClosed):
        await b.write(STDIN, b"x")


async def test_a_pipe_carries_both_ways_and_passes_the_end_on() -> None:
    near, a = local_pair()
    b, far = local_pair()
    joined = asyncio.create_task(pipe(a, b))

    await near.write(STDIN, b"question")
    assert await far.read() == Chunk(STDIN, b"question")
    await far.write(ERROR, b"{}")
    await far.close()

    assert await near.read() == Chunk(ERROR, b"{}")
    assert await near.read() is None
    await joined


async def test_a_pipe_passes_an_error_on() -> None:
    near, a = local_pair()
    b, far = local_pair()
    joined = asyncio.create_task(pipe(a, b))

    await far.close("container gone")

    with pytest.raises(ChannelsClosed, match="container gone"):
        await near.read()
    await joined
