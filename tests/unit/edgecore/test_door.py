"""The socket of the daemon: calls and restarts for the commands at the node."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgecore import door
from edgecore.data_dir import DataDir
from edgecore.terminal import exit_code
from proto.calls import Call, CallRefused
from proto.kit import canonical
from proto.kit.channels import STDIN, STDOUT, Channels, ChannelsClosed, Chunk, LocalChannels, local_pair
from proto.kit.daemon import Supervisor
from proto.kit.errors import SkerryError
from tests.kit.wait import eventually


async def echo(end: LocalChannels) -> None:
    try:
        while (chunk := await end.read()) is not None:
            await (end.write(STDOUT, chunk.data) if chunk.data else end.close())
    except ChannelsClosed:
        return


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[DataDir, list[str]]]:
    """A door whose calls echo; a call of kind attach is refused; restarts are noted."""
    supervisor, restarts = Supervisor(), list[str]()

    async def open_call(call: Call) -> Channels:
        if call.kind == "attach":
            raise CallRefused(404, "NotFound", "no such pod")
        here, there = local_pair()
        supervisor.spawn(echo(there), "echo")
        return here

    def restart(namespace: str, pod: str, container: str) -> str:
        restarts.append(f"{namespace}/{pod}/{container}")
        return "" if pod == "web" else f"pod {pod} is not run here"

    directory = DataDir(folder)
    supervisor.spawn(door.Door(directory, open_call, restart).run(), "door")
    await eventually((folder / door.NAME).exists)
    yield directory, restarts
    await supervisor.close()


async def test_a_call_goes_both_ways_and_ends_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as (directory, _):
        channels = await door.ask(directory, door.Request(call=Call(kind="ping")))
        large = os.urandom(300_000)

        async def write() -> None:
            await channels.write(STDIN, large)
            await channels.finish(STDIN)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            got = b""
            while (chunk := await channels.read()) is not None:
                assert chunk == Chunk(STDOUT, chunk.data)
                got += chunk.data
        await channels.close()

    assert got == large


async def test_the_socket_is_for_its_owner_alone_however_long_its_path_is(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    async with opened(deep) as (directory, restarts):
        mode = stat.S_IMODE((deep / door.NAME).stat().st_mode)
        channels = await door.ask(directory, door.Request(restart={"namespace": "default", "pod": "web"}))
        await channels.close()

    assert mode == 0o600
    assert restarts == ["default/web/"]
    assert not (deep / door.NAME).exists()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (door.Request(call=Call(kind="attach")), "no such pod"),
        (door.Request(restart={"pod": "bad"}), "pod bad is not run here"),
    ],
)
async def test_a_refusal_is_the_daemon_s_own_sentence(tmp_path: Path, request_: door.Request, words: str) -> None:
    async with opened(tmp_path) as (directory, _):
        with pytest.raises(SkerryError, match=words):
            await door.ask(directory, request_)


async def test_without_a_daemon_the_sentence_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(door.NotRunning, match="systemctl start edgecore"):
        await door.ask(DataDir(tmp_path), door.Request(restart={}))


@pytest.mark.parametrize("junk", [b"nonsense\n", b"[]\n", b"x" * 200_000, b'{"call": {"kind": "format"}}\n'])
async def test_junk_is_answered_or_cut_and_the_door_stays_open(tmp_path: Path, junk: bytes) -> None:
    async with opened(tmp_path) as (directory, _):
        reader, writer = await asyncio.open_unix_connection(sock=door.connect(tmp_path / door.NAME))
        writer.write(junk)
        answer = await reader.read(1000)
        writer.close()
        channels = await door.ask(directory, door.Request(call=Call(kind="ping")))
        await channels.close()

    assert answer in {b"", b'{"error":"the request is no JSON of ours"}\n'}


def test_exit_codes_come_out_of_the_last_word() -> None:
    failed = {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "7"}]},
    }

    assert (exit_code(b""), exit_code(b'{"status":"Success"}'), exit_code(canonical.encode(failed))) == (0, 0, 7)
    with pytest.raises(SkerryError, match="no shell here"):
        exit_code(b'{"status":"Failure","message":"no shell here"}')
