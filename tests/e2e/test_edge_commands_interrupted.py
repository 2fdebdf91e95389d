"""Ctrl-C at any moment of a command leaves a state that the same command goes on from, and never a traceback."""

import asyncio
import random
import signal
import sys

from tests.kit.platform import Edge, Platform
from tests.kit.process import send

ROUNDS = 12
LONGEST_S = 1.2  # a join takes about half of this


async def interrupted(*argv: str, after_s: float) -> tuple[int, str]:
    """Run a command and press Ctrl-C; its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(after_s):
            await process.wait()
    except TimeoutError:
        send(process, signal.SIGINT)
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


def ended_well(code: int, words: str) -> bool:
    """Whether a command ended as a person expects; what Python prints before it reads our first line is not ours."""
    return "/edgecore/" not in words if "Traceback" in words else code in {0, 130, -signal.SIGINT}


async def test_join_can_be_interrupted_anywhere_and_run_again(platform: Platform) -> None:
    rng = random.Random(7)
    edge = Edge(platform, "gw-1")
    platform.edges["gw-1"] = edge
    token = await platform.token("gw-1")
    cloud = f"https://127.0.0.1:{platform.join_port}"
    join = ("edgecore", "join", "--cloud", cloud, "--token", token, "--node", "gw-1", "--data-dir", str(edge.data_dir))
    for _ in range(ROUNDS):
        code, words = await interrupted(*join, after_s=rng.uniform(0.0, LONGEST_S))
        assert ended_well(code, words), words

    code, words = await interrupted(*join, after_s=30)
    assert code == 0, words
    await edge.relay.start()
    await edge.start()
    await edge.connected()


async def test_reset_can_be_interrupted_anywhere_and_run_again(platform: Platform) -> None:
    rng = random.Random(8)
    edge = await platform.add_edge("gw-1")
    await edge.stop()
    reset = ("edgecore", "reset", "--yes", "--data-dir", str(edge.data_dir))
    for _ in range(ROUNDS // 2):
        code, words = await interrupted(*reset, after_s=rng.uniform(0.0, 0.3))
        assert ended_well(code, words), words

    assert (await interrupted(*reset, after_s=30))[0] == 0
    await edge.prepare()
    await edge.start()
    await edge.connected()
