"""Ctrl-C at a random moment of any command leaves a state from which the same command goes on, and never a traceback."""

import asyncio
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.kit.command import Said, say
from tests.kit.platform import Platform

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEEDS = range(3)
INTERRUPTED = (130, -signal.SIGINT)  # by the command line, or before it was there
LONGEST_S = 1.2  # every command here has done its work by then on a fast machine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    async with Platform(tmp_path_factory.mktemp("platform")) as platform:
        await platform.start_cloud()
        await platform.add_edge("gw-1", start=False)
        yield platform


async def typed(moment: random.Random, *argv: str) -> None:
    """Start a command in a terminal of its own and type Ctrl-C, once, at some moment of its life."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *argv,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    reading = asyncio.ensure_future(process.communicate())
    try:
        done, _ = await asyncio.wait([reading], timeout=moment.uniform(0.05, LONGEST_S))
        if not done:
            os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(20):
            _, err = await reading
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode in (0, *INTERRUPTED), err.decode()
    assert b"Traceback" not in err, err.decode()


async def again(*argv: str) -> Said:
    said = await say(*argv)
    assert said.code == 0, said
    return said


@pytest.mark.parametrize("seed", SEEDS)
async def test_join(platform: Platform, tmp_path: Path, seed: int) -> None:
    moment, node = random.Random(seed), f"new-{seed}"
    cloud, token = f"https://127.0.0.1:{platform.join_port}", await platform.token(node)
    join = ("edgecore", "join", "--cloud", cloud, "--token", token, "--node", node, "--data-dir", str(tmp_path / "n"))
    for _ in range(3):
        await typed(moment, *join)

    await again(*join)


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_first_start_of_a_cloud(tmp_path: Path, seed: int) -> None:
    moment, platform = random.Random(seed), Platform(tmp_path)
    for _ in range(3):
        await typed(moment, *platform.cloud.argv[2:])

    await platform.start_cloud()
    assert await platform.stop_cloud() == 0


@pytest.mark.parametrize("seed", SEEDS)
async def test_run(platform: Platform, seed: int) -> None:
    moment, edge = random.Random(seed), platform.edges["gw-1"]
    for _ in range(3):
        await typed(moment, *edge.process.argv[2:])

    await edge.start()
    await edge.connected()
    assert await edge.stop() == 0


@pytest.mark.parametrize("seed", SEEDS)
async def test_backup_and_restore(platform: Platform, tmp_path: Path, seed: int) -> None:
    moment, saved, other = random.Random(seed), str(tmp_path / "saved.tar"), str(tmp_path / "other")
    backup = ("cloudcore", "backup", saved, "--data-dir", str(platform.cloud_dir))
    restore = ("cloudcore", "restore", saved, "--data-dir", other)
    for _ in range(2):
        await typed(moment, *backup)
    await again(*backup)
    for _ in range(3):
        await typed(moment, *restore)

    await again(*restore)
    assert "gw-1" in (await again("cloudcore", "node", "list", "--data-dir", other)).out


@pytest.mark.parametrize("seed", SEEDS)
async def test_reset(platform: Platform, tmp_path: Path, seed: int) -> None:
    moment, copy = random.Random(seed), tmp_path / "copy"
    shutil.copytree(platform.edges["gw-1"].data_dir, copy)
    reset = ("edgecore", "reset", "--yes", "--data-dir", str(copy))
    for _ in range(2):
        await typed(moment, *reset)

    await again(*reset)
    kept = [file.name for file in (copy / "quarantine").rglob("*") if file.is_file()]
    assert {"edge.yaml", "node.key", "node.crt", "ca.crt"} <= set(kept)
    assert not (copy / "pki").exists()
