"""Promises about calls into containers: exec, attach, port-forward."""

import asyncio
import hashlib
import json
from contextlib import suppress

import pytest

from edgecore.pods.runtime import RuntimeRefused, State
from proto.kit.channels import DATA, ERROR, RESIZE, STDERR, STDIN, STDOUT, Channels, ChannelsClosed
from tests.conformance.runtime.world import FOREVER, World, everything


async def until(channels: Channels, wanted: bytes) -> bytes:
    """Read until ``wanted`` came on standard output."""
    heard = b""
    async with asyncio.timeout(10):
        while wanted not in heard:
            chunk = await channels.read()
            assert chunk is not None, heard
            heard += chunk.data if chunk.channel == STDOUT else b""
    return heard


class CallPromises:
    async def test_exec_sync_returns_both_streams_and_the_code(self, world: World) -> None:
        done = await world.runtime.exec_sync(await world.run(), ("sh", "-c", "echo out; echo err >&2; exit 3"), 10)

        assert (done.exit_code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")

    async def test_exec_sync_gives_up_at_its_time_and_the_container_lives(self, world: World) -> None:
        container_id = await world.run()

        with pytest.raises(TimeoutError):
            await world.runtime.exec_sync(container_id, ("sleep", "60"), 1)

        assert (await world.runtime.container_status(container_id)).state is State.RUNNING
        assert "sleep 60" not in await world.says(container_id, "ps")

    async def test_exec_sync_cuts_what_is_too_long(self, world: World) -> None:
        done = await world.runtime.exec_sync(await world.run(), ("head", "-c", "200000", "/dev/zero"), 10)

        assert done.stdout == bytes(64 << 10)

    async def test_exec_of_a_program_that_is_not_there_fails(self, world: World) -> None:
        container_id = await world.run()

        try:
            code = (await world.runtime.exec_sync(container_id, ("/no/such",), 10)).exit_code
        except RuntimeRefused:
            code = 127

        assert code in {126, 127}

    async def test_exec_carries_streams_a_half_close_and_the_code(self, world: World) -> None:
        command = ("sh", "-c", "cat; echo err >&2; exit 7")
        channels = await world.runtime.exec(await world.run(), command, stdin=True, stdout=True, stderr=True, tty=False)

        await channels.write(STDIN, b"hello")
        await channels.finish(STDIN)
        heard = await everything(channels)

        status = json.loads(heard[ERROR])
        assert (heard[STDOUT], heard[STDERR]) == (b"hello", b"err\n")
        assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]

    async def test_exec_of_a_command_that_ends_well_is_a_success(self, world: World) -> None:
        channels = await world.runtime.exec(
            await world.run(), ("true",), stdin=False, stdout=True, stderr=True, tty=False
        )

        assert json.loads((await everything(channels))[ERROR])["status"] == "Success"

    async def test_exec_carries_megabytes_both_ways(self, world: World) -> None:
        sent = bytes(range(256)) * (80 << 10)
        channels = await world.runtime.exec(
            await world.run(), ("cat",), stdin=True, stdout=True, stderr=True, tty=False
        )

        async def send() -> None:
            for at in range(0, len(sent), 1_000_000):
                await channels.write(STDIN, sent[at : at + 1_000_000])
            await channels.finish(STDIN)

        heard, _ = await asyncio.gather(everything(channels), send())

        assert hashlib.sha256(heard[STDOUT]).digest() == hashlib.sha256(sent).digest()

    async def test_a_terminal_has_one_stream_and_the_size_that_was_sent(self, world: World) -> None:
        script = "echo ready; until [ \"$(stty size)\" = '45 123' ]; do sleep 0.02; done; echo seen; echo to-err >&2"
        channels = await world.runtime.exec(
            await world.run(), ("sh", "-c", script), stdin=True, stdout=True, stderr=True, tty=True
        )

        await until(channels, b"ready")
        await channels.write(RESIZE, b'{"Width":123,"Height":45}')
        heard = await everything(channels)

        assert b"seen\r\nto-err" in heard[STDOUT]
        assert STDERR not in heard
        assert json.loads(heard[ERROR])["status"] == "Success"

    async def test_a_caller_that_leaves_harms_nobody(self, world: World) -> None:
        container_id = await world.run()
        channels = await world.runtime.exec(
            container_id, ("sh", "-c", "while :; do echo much; done"), stdin=False, stdout=True, stderr=True, tty=False
        )
        await until(channels, b"much")

        await channels.close()
        await channels.close()

        assert await world.says(container_id, "echo", "fine") == "fine\n"

    async def test_closing_wakes_whoever_reads(self, world: World) -> None:
        channels = await world.runtime.exec(
            await world.run(), ("cat",), stdin=True, stdout=True, stderr=True, tty=False
        )
        reading = asyncio.ensure_future(channels.read())
        await channels.write(STDIN, b"")

        await channels.close()

        async with asyncio.timeout(20):
            assert await reading is None

    async def test_a_command_that_reads_nothing_still_tells_its_code(self, world: World) -> None:
        container_id = await world.run()
        for _ in range(5):
            channels = await world.runtime.exec(
                container_id, ("sh", "-c", "exit 4"), stdin=True, stdout=True, stderr=True, tty=False
            )

            with suppress(ChannelsClosed):
                await channels.write(STDIN, bytes(40_000))  # what pipes hold: containerd 1.6 waits for more to be read
            heard = await everything(channels)

            assert json.loads(heard[ERROR])["details"]["causes"][0]["message"] == "4"

    async def test_calls_into_an_ended_container_are_refused(self, world: World) -> None:
        container_id = await world.run("true")
        await world.ended(container_id)

        with pytest.raises(RuntimeRefused):
            await world.runtime.exec(container_id, ("true",), stdin=False, stdout=True, stderr=True, tty=False)
        with pytest.raises(RuntimeRefused):
            await world.runtime.exec_sync(container_id, ("true",), 5)

    async def test_attach_reads_and_writes_the_first_process(self, world: World) -> None:
        script = "while read line; do echo got $line; [ $line = end ] && exit 0; done"
        container_id = await world.run("sh", "-c", script, stdin=True)
        channels = await world.runtime.attach(container_id, stdin=True, stdout=True, stderr=True, tty=False)

        await channels.write(STDIN, b"one\n")
        first = await until(channels, b"got one\n")
        await channels.write(STDIN, b"end\n")
        rest = await everything(channels)

        assert (first, rest[STDOUT]) == (b"got one\n", b"got end\n")
        assert (await world.ended(container_id)).exit_code == 0

    async def test_who_attaches_sees_what_others_see(self, world: World) -> None:
        container_id = await world.run("sh", "-c", "while :; do echo tick; sleep 0.1; done")
        two = [
            await world.runtime.attach(container_id, stdin=False, stdout=True, stderr=True, tty=False) for _ in range(2)
        ]

        for channels in two:
            assert b"tick" in await until(channels, b"tick\n")
            await channels.close()

    async def test_port_forward_is_one_connection_to_a_port_of_the_pod(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)
        await world.add(sandbox_id, config, "nc", "-ll", "-p", "7777", "-e", "cat")

        for text in (b"first", b"second"):
            channels = await self.forwarded(world, sandbox_id, text)
            await channels.close()

    async def forwarded(self, world: World, sandbox_id: str, text: bytes) -> Channels:
        """Return a connection that echoed ``text``; the server may need a moment until it listens."""
        async with asyncio.timeout(10):
            while True:
                channels = await world.runtime.port_forward(sandbox_id, 7777)
                await channels.write(DATA, text)
                heard = b""
                while heard != text and (chunk := await channels.read()) is not None:
                    heard += chunk.data if chunk.channel == DATA else b""
                if heard == text:
                    return channels
                await channels.close()

    async def test_port_forward_carries_megabytes_both_ways(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)
        await world.add(sandbox_id, config, "nc", "-ll", "-p", "7777", "-e", "cat")
        channels = await self.forwarded(world, sandbox_id, b"ready")
        sent = bytes(range(256)) * (20 << 10)

        async def heard() -> bytes:
            got = bytearray()
            async with asyncio.timeout(20):
                while len(got) < len(sent) and (chunk := await channels.read()) is not None:
                    got += chunk.data
            return bytes(got)

        got, _ = await asyncio.gather(heard(), channels.write(DATA, sent))
        await channels.close()

        assert got == sent

    async def test_port_forward_says_why_there_is_no_connection(self, world: World) -> None:
        config = world.sandbox()
        sandbox_id = await world.run_sandbox(config)
        await world.add(sandbox_id, config, *FOREVER)

        channels = await world.runtime.port_forward(sandbox_id, 7778)
        heard = await everything(channels)

        assert b"refused" in heard[ERROR]
