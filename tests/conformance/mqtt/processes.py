"""The broker as its own process, as people start it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.kit.ports import free_port

ROOT = Path(__file__).parents[3]


class Broker:
    """``python -m proto.mqtt`` on one port, over any number of lives."""

    def __init__(self, folder: Path | None) -> None:
        self.port = free_port()
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        argv = [sys.executable, "-m", "proto.mqtt", "--port", str(self.port)]
        if self.folder is not None:
            argv += ["--data-dir", str(self.folder)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE)
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 30)
        assert b"ready" in line, line

    def strike(self) -> None:
        """SIGKILL now."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self.process is not None
        self.strike()
        await self.process.communicate()

    def rss_kb(self) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@asynccontextmanager
async def running(folder: Path | None) -> AsyncIterator[Broker]:
    broker = Broker(folder)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


async def output(*argv: str, timeout_s: float = 30, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command; returns what it printed and fails on its failure."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=env, cwd=cwd
    )
    out, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    assert process.returncode == 0, out.decode()
    return out.decode()
