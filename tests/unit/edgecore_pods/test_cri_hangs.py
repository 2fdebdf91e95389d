"""A socket that is served by nobody who reads: what is said of it."""

import asyncio
from pathlib import Path

import pytest

from edgecore.pods.cri import CriRuntime
from edgecore.pods.runtime import RuntimeAway
from proto.kit.clock import SystemClock


async def test_a_runtime_that_hangs_is_never_told_as_one_that_is_not_there(tmp_path: Path) -> None:
    """The first call that gives up takes the connection from the others: they too were not answered."""
    socket = tmp_path / "cri.sock"
    over = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    runtime = CriRuntime(socket, SystemClock(), quick_s=0.3)
    async with await asyncio.start_unix_server(silent, socket):
        longer = runtime.stop_container("c", 30)
        said = await asyncio.gather(runtime.version(), longer, return_exceptions=True)
        over.set()
    await runtime.close()

    assert [type(each) for each in said] == [RuntimeAway, RuntimeAway]
    assert [str(each).partition(f" at {socket}")[0] for each in said] == [
        "the container runtime does not answer Version",
        "the container runtime does not answer StopContainer",
    ]


async def test_a_socket_that_nobody_made_is_no_runtime(tmp_path: Path) -> None:
    runtime = CriRuntime(tmp_path / "cri.sock", SystemClock())

    with pytest.raises(RuntimeAway, match="no container runtime at"):
        await runtime.version()

    await runtime.close()
